"""Sampling at places that are computed: every worker has the whole map that is sampled, and its own part of the places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.spatial.geometry import ranges
from ziggurat.parallel.spatial.layout import Dim, is_cut, plain
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.operations.gathering import own_part, spread
from ziggurat.parallel.spatial.operations.pointwise import align
from ziggurat.parallel.spatial.operations.selecting import has_empty_band
from ziggurat.parallel.spatial.operations.windows import simple_dims
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor, band_dims, gather


def _cut_like(
    places: SpatialTensor, dims: Sequence[int], image: SpatialTensor, operation: str
) -> SpatialTensor:
    """Return places that are cut along the axes that cut the image, where they are whole on every worker.

    Args:
        places: Whose positions need not be those of the image.
        dims: Their spatial dims, in the image's order.
        image: Shape ``(B, C, *spatial)``.
        operation: What asks for it.
    """
    wanted = list(places.dims)
    taken = {factor.axis for dim in places.dims for factor in dim if factor.is_cut}
    for d, of_image in zip(dims, image.dims[2:], strict=True):
        axis = of_image[0].axis if len(of_image) == 1 else None
        if axis is not None and axis not in taken and not is_cut(places.dims[d]):
            wanted[d] = (places.mesh.factor(places.shape[d], axis),)
    return align(places, tuple(wanted), operation)


def _batch_alike(call: Call, image: SpatialTensor, *others: SpatialTensor) -> list[SpatialTensor]:
    """Return an image that is whole but for its batch, and other tensors whose batch is cut as its is."""
    image = gather(image, call.name, only=range(1, len(image.dims)))
    taken = {f.axis for other in others for dim in other.dims[1:] for f in dim if f.is_cut}
    batch: Dim = next((t.dims[0] for t in (image, *others) if is_cut(t.dims[0])), image.dims[0])
    batch = tuple(f.whole() if f.axis in taken else f for f in batch)
    return [align(t, (batch, *t.dims[1:]), call.name) for t in (image, *others)]


@operation("gather", "grid_sample", "grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def _grid_sample(call: Call) -> Any:
    """Sample the whole image at this worker's part of the grid.

    Placement:
        The result is cut as the grid is; a grid that every worker has whole is cut along the axes that cut the image.

    Communication:
        All rows of the image, to every worker.
    """
    bound = call.bind("input grid")
    image, grid = spread(bound["input"], call.mesh), spread(bound["grid"], call.mesh)
    spatial = range(1, len(grid.dims) - 1)
    grid = _cut_like(gather(grid, call.name, only=[len(grid.dims) - 1]), spatial, image, call.name)
    image, grid = _batch_alike(call, image, grid)
    named = {name: value for name, value in call.named.items() if name not in ("input", "grid")}
    local = call.func(image.local, grid.local, *call.args[2:], **named)
    return SpatialTensor(local, (image.dims[0], image.dims[1], *grid.dims[1:-1]), call.mesh)


@operation("gather", "affine_grid", "affine_grid_generator")
def _affine_grid(call: Call) -> Any:
    """Compute the whole grid on every worker, and keep what belongs to a map of its size."""
    bound = call.bind("theta size align_corners", align_corners=None)
    theta = gather(spread(bound["theta"], call.mesh), call.name)
    grid = call.func(theta.local, [int(size) for size in bound["size"]], align_corners=bound["align_corners"])
    places = {axis.place for axis in call.mesh.axes}
    if not places or max(places) >= grid.dim() - 2:
        return SpatialTensor(grid, tuple(map(plain, grid.shape)), call.mesh)
    return own_part(grid, band_dims(grid.shape, call.mesh, first=1), call.mesh, range(grid.dim()))


@operation("gather", "deform_conv2d")
def _deform_conv2d(call: Call) -> Any:
    """Convolve at offset places: a band of the output from all of the image.

    torchvision's operator computes as many rows as its stride makes, so it is asked for another stride, and the offsets
    make up for it: row ``i`` of the band that begins at row ``a`` lies at ``(a + i) * stride``, is taken to lie at
    ``i * stride'``, and its offset grows by the difference. Zeros behind the image, which the operator would assume
    there, bring the number of rows to the band's.

    Communication:
        All rows of the image, to every worker.
    """
    bound = call.bind(
        "input weight offset mask bias stride_h stride_w pad_h pad_w dil_h dil_w groups offset_groups use_mask"
    )
    image, offset, mask = (spread(bound[name], call.mesh) for name in ("input", "offset", "mask"))
    weight, bias = call.weight(bound["weight"]), call.weight(bound["bias"])
    offset = gather(simple_dims(offset, (2, 3), call.name), call.name, only=[1])
    offset = gather(offset, call.name, only=[d for d in (2, 3) if has_empty_band(offset.dims[d])])
    offset = _cut_like(offset, (2, 3), image, call.name)
    image, offset = _batch_alike(call, image, offset)
    if bound["use_mask"]:
        mask = align(
            gather(mask, call.name, only=[1]), (offset.dims[0], mask.dims[1], *offset.dims[2:]), call.name
        )
    strides, shifts, behind = [], [], []
    for i, letter in enumerate("hw"):
        stride, padding, dilation = (bound[f"{name}_{letter}"] for name in ("stride", "pad", "dil"))
        span = image.local.shape[2 + i] + 2 * padding - dilation * (weight.shape[2 + i] - 1) - 1
        first, count = _own_outputs(offset.dims[2 + i], call.mesh)
        rows = torch.arange(count, device=offset.device)
        if is_cut(offset.dims[2 + i]):
            other = span + 1 if count == 1 else math.ceil(span / (count - 1)) or 1
            behind.append(max(0, (count - 1) * other - span))
        else:
            other = stride
            behind.append(0)
        strides.append(other)
        shifts.append((rows + first) * stride - rows * other)
    local = call.func(
        functional.pad(image.local, (0, behind[1], 0, behind[0])), weight, _shifted(offset.local, shifts),
        mask.local, bias, *strides, *(bound[name] for name in ("pad_h", "pad_w", "dil_h", "dil_w")),
        bound["groups"], bound["offset_groups"], bound["use_mask"],
    )  # fmt: skip
    dims = (offset.dims[0], plain(weight.shape[0]), *offset.dims[2:])
    return SpatialTensor(local, dims, call.mesh)


def _own_outputs(dim: Dim, mesh: SpatialMesh) -> tuple[int, int]:
    """Return the first output row of this worker, and how many it has."""
    factor = dim[0]
    if factor.bounds is None or factor.axis is None:
        return 0, factor.size
    first, last = ranges(factor.bounds)[mesh.ranks[factor.axis]]
    return first, last - first


def _shifted(offset: Tensor, shifts: Sequence[Tensor]) -> Tensor:
    """Return offsets that have grown by a number for each row, and one for each column; those of rows come first."""
    batch, pairs, rows, columns = offset.shape
    grown = torch.stack([shifts[0][:, None].expand(rows, columns), shifts[1].expand(rows, columns)])
    return (offset.view(batch, pairs // 2, 2, rows, columns) + grown.to(offset.dtype)).view(offset.shape)
