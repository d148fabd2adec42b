"""Training: the network, the loop, its checkpoints and its records."""
