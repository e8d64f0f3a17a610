"""Downloads of released checkpoints, and of the weights that judge or teach."""
