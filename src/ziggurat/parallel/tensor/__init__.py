"""Tensor parallelism: parts of one layer on different workers. Knows of no particular model."""
