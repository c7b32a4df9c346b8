"""Recorded data: readers, labels, a check before training, and a look at frames. Knows nothing of models."""
