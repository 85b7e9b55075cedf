"""What a run leaves in its folder: config, log, checkpoints, weights."""
