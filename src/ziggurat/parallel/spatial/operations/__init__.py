"""What the operations of each kind do with bands; importing this package fills the table."""

from ziggurat.parallel.spatial.operations import (
    attention,
    convolution,
    gathering,
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
    scattering,
    shapes,
)

__all__ = [
    "attention",
    "convolution",
    "gathering",
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
    "scattering",
    "shapes",
]
