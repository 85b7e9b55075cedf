"""What the operations of each kind do with bands; importing this package fills the table."""

from ziggurat.parallel.spatial.operations import (
    attention,
    convolution,
    indexing,
    joining,
    losses,
    matrix,
    metadata,
    moments,
    normalization,
    padding,
    pointwise,
    pooling,
    resample,
    shapes,
)

__all__ = [
    "attention",
    "convolution",
    "indexing",
    "joining",
    "losses",
    "matrix",
    "metadata",
    "moments",
    "normalization",
    "padding",
    "pointwise",
    "pooling",
    "resample",
    "shapes",
]
