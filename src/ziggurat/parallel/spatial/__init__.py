"""Spatial parallelism: one image over several workers, with any convolutional model, unmodified.

`SpatialTensor` carries a worker's band and says the whole's shape; `table` knows what each operation needs of the
neighbours; `exchange` moves rows; `geometry` says which.
"""

from ziggurat.parallel.spatial.custom import custom_functions_seen, declare

# the first fills the table, and lets tensors ask it
from ziggurat.parallel.spatial.dispatch import band_of, operations
from ziggurat.parallel.spatial.mesh import SpatialMesh, UnsupportedOperation, spatial_mesh
from ziggurat.parallel.spatial.tensor import SpatialTensor, cut, gather, whole_tensor

__all__ = [
    "SpatialMesh",
    "SpatialTensor",
    "UnsupportedOperation",
    "band_of",
    "custom_functions_seen",
    "cut",
    "declare",
    "gather",
    "operations",
    "spatial_mesh",
    "whole_tensor",
]
