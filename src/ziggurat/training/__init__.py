"""Training: the loop, its step, its state, its data."""
