"""Checkpoints that HEAL trained, as packs."""
