"""Strategies: an axis of a plan each; where tensors lie, and how microbatches are run."""
