"""What the operations of each kind do with bands; importing this package fills the table."""

from ziggurat.parallel.spatial.operations import (
    attention,
    convolution,
    indexing,
    joining,
    losses,
    matrix,
    moments,
    normalization,
    padding,
    pointwise,
    pooling,
    questions,
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
    "moments",
    "normalization",
    "padding",
    "pointwise",
    "pooling",
    "questions",
    "resample",
    "shapes",
]
