"""One loop for all stages; a stage says what learns, on which scenes, with which loss."""
