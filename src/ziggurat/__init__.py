"""Parallel training and inference of pyramid neural networks."""
