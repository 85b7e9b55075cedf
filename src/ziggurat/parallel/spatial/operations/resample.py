"""Changes of scale: a row of the output is a weighted sum of few rows of the input, at global positions.

The dims that are whole are resampled by PyTorch. A dim in bands is resampled by PyTorch, too, where the scale is a whole
number and rows begin at multiples of it; otherwise by *taps*: the input rows and weights of each output row, computed as
PyTorch computes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.spatial.exchange import crop
from ziggurat.parallel.spatial.geometry import Range
from ziggurat.parallel.spatial.layout import Factor
from ziggurat.parallel.spatial.memory import make_meta
from ziggurat.parallel.spatial.operations.rows import output_ranges, replace_dim, select, with_multiples
from ziggurat.parallel.spatial.operations.windows import per_dim, simple_dims
from ziggurat.parallel.spatial.strides import channels_last, contiguous, suggests_channels_last
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor, gather, move

CUBIC, CUBIC_ANTIALIAS = -0.75, -0.5  # the coefficient of PyTorch's cubic kernels
MARGIN = {"nearest": 0, "nearest-exact": 0, "linear": 1, "bilinear": 1, "trilinear": 1, "bicubic": 2}


@dataclass(frozen=True)
class Scaling:
    """How one dim is resampled.

    Attributes:
        before: Extent of the input.
        after: Extent of the output.
        factor: The scale that the caller gave, or None: then it is the ratio of extents.
        mode: PyTorch's name.
        align_corners: Whether the outermost rows of input and output coincide.
        antialias: Whether the kernel is widened where the output is smaller.
    """

    before: int
    after: int
    factor: float | None
    mode: str
    align_corners: bool
    antialias: bool

    @property
    def is_identity(self) -> bool:
        """Whether the dim stays as it is."""
        if self.before != self.after:
            return False
        return self.factor in (None, 1.0) or self.mode.startswith("nearest") or self.align_corners

    def step(self, dtype: torch.dtype) -> Tensor:
        """Return the input rows between output rows, in the precision that PyTorch uses for the type."""
        if self.align_corners:
            ratio = (self.before - 1) / (self.after - 1) if self.after > 1 else 0.0
        elif self.factor is not None:
            ratio = 1 / self.factor
        else:
            ratio = self.before / self.after
        return torch.tensor(ratio, dtype=dtype)

    def taps(self, out: Range, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Return the input rows and weights of output rows, shapes ``(rows, taps)``; None for weights of 1."""
        precise = torch.float64 if dtype == torch.float64 else torch.float32
        index = torch.arange(*out, device=device)
        place, step = index.to(precise), self.step(precise)
        if self.mode.startswith("nearest"):
            return self._nearest(index, place, step).unsqueeze(1), None
        if self.antialias:
            return self._antialiased(place, step)
        centre = place * step if self.align_corners else (place + 0.5) * step - 0.5
        if self.mode == "bicubic":
            first = centre.floor()
            part = centre - first
            rows = first.long().unsqueeze(1) + torch.arange(-1, 3, device=device)
            return rows.clamp(0, self.before - 1), _cubic(part)
        centre = centre.clamp(min=0)
        first = centre.floor().clamp(max=self.before - 1)
        part = (centre - first).clamp(0, 1)
        rows = torch.stack([first, (first + 1).clamp(max=self.before - 1)], dim=1).long()
        return rows, torch.stack([1 - part, part], dim=1)

    def _nearest(self, index: Tensor, place: Tensor, step: Tensor) -> Tensor:
        if self.mode == "nearest-exact":
            return ((place + 0.5) * step).floor().long().clamp(max=self.before - 1)
        if self.after == self.before:
            return index
        if self.after == 2 * self.before:
            return index // 2
        return (place * step).floor().long().clamp(max=self.before - 1)

    def _antialiased(self, place: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The kernel is stretched by the step where the output is smaller."""
        stretch = max(1.0, float(step))
        support = (2.0 if self.mode == "bicubic" else 1.0) * stretch
        centre = place * step if self.align_corners else (place + 0.5) * step
        offset = 0.5 if self.align_corners else 0.0
        first = (centre + offset - support + 0.5).floor().clamp(min=0).long()
        last = (centre + offset + support + 0.5).floor().clamp(max=self.before).long()
        count = math.ceil(2 * support) + 2
        rows = first.unsqueeze(1) + torch.arange(count, device=place.device)
        distance = (rows - (centre + offset).unsqueeze(1) + 0.5) / stretch
        weights = _cubic_kernel(distance) if self.mode == "bicubic" else (1 - distance.abs()).clamp(min=0)
        weights = torch.where(rows < last.unsqueeze(1), weights, 0.0)
        weights = weights / weights.sum(dim=1, keepdim=True)
        return rows.clamp(max=self.before - 1), weights


def _cubic(part: Tensor) -> Tensor:
    """Return the weights of the four rows about a position, by its part past the second."""
    a = CUBIC

    def near(t: Tensor) -> Tensor:
        return ((a + 2) * t - (a + 3)) * t * t + 1

    def far(t: Tensor) -> Tensor:
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    return torch.stack([far(part + 1), near(part), near(1 - part), far(2 - part)], dim=1)


def _cubic_kernel(distance: Tensor) -> Tensor:
    a, t = CUBIC_ANTIALIAS, distance.abs()
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = (((t - 5) * t + 8) * t - 4) * a
    return torch.where(t < 1, near, torch.where(t < 2, far, 0.0))


def _views(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Say how maps of another scale lie in memory: as PyTorch makes them of the input, or as it pools areas."""
    (x,), given = made, (call.args[0] if call.args else call.named["input"]).meta
    if any(isinstance(one, str) and one == "area" for one in (*call.args, *call.named.values())):
        return [x.meta]
    is_last = suggests_channels_last(tuple(given.shape), given.stride())
    order = channels_last(tuple(x.shape)) if is_last else contiguous(tuple(x.shape))
    return [make_meta(tuple(x.shape), order, x.local.dtype)]


@operation("resample", "interpolate", "upsample", views=_views)
def _interpolate(call: Call) -> Any:
    bound = call.bind(
        "input size scale_factor mode align_corners recompute_scale_factor antialias",
        size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None,
        antialias=False,
    )  # fmt: skip
    x, mode = bound["input"], bound["mode"]
    if not x.is_floating_point() and "nearest" not in mode:
        raise call.unsupported("what it computes of whole numbers is rounded", "call x.float() before")
    n = len(x.dims) - 2
    x = simple_dims(x, range(2, 2 + n), call.name)
    extents = [x.shape[2 + i] for i in range(n)]
    factors: list[float | None] = [None] * n
    if bound["size"] is not None:
        after = list(per_dim(bound["size"], n))
    else:
        given = bound["scale_factor"]
        given = [float(given)] * n if isinstance(given, (int, float)) else [float(g) for g in given]
        after = [math.floor(extent * g) for extent, g in zip(extents, given, strict=True)]
        if not bound["recompute_scale_factor"]:
            factors = list(given)
    if mode == "area":
        return getattr(functional, f"adaptive_avg_pool{n}d")(x, after)
    scalings = [
        Scaling(
            extents[i], after[i], factors[i], mode, bool(bound["align_corners"]), bool(bound["antialias"])
        )
        for i in range(n)
    ]
    in_bands = [i for i in range(n) if x.dims[2 + i][0].axis is not None]
    for i in in_bands:
        x = _resample_dim(x, 2 + i, scalings[i], n)
    x = _resample_local(x, [i for i in range(n) if i not in in_bands], scalings, bound)
    return x


def _resample_local(
    x: SpatialTensor, dims: list[int], scalings: list[Scaling], bound: dict[str, Any]
) -> SpatialTensor:
    """Resample the dims that are whole by PyTorch; the others stay as they are."""
    if all(scalings[i].is_identity for i in dims):
        return x
    n = len(scalings)
    size = [scalings[i].after if i in dims else x.local.shape[2 + i] for i in range(n)]
    if all(scalings[i].factor is None for i in dims):
        local = functional.interpolate(
            x.local,
            size,
            mode=bound["mode"],
            align_corners=bound["align_corners"],
            antialias=bound["antialias"],
        )
        result = x
        for i in dims:
            factor = Factor(scalings[i].after, x.dims[2 + i][0].axis)
            result = replace_dim(result, local, 2 + i, (factor,))
        return result
    for i in dims:  # a scale that is not the ratio of extents
        local = _by_taps(x.local, 2 + i, scalings[i], (0, scalings[i].after), 0)
        x = replace_dim(x, local, 2 + i, (Factor(scalings[i].after, x.dims[2 + i][0].axis),))
    return x


def _resample_dim(x: SpatialTensor, d: int, scaling: Scaling, num_dims: int) -> SpatialTensor:
    """Resample one spatial dim in bands."""
    if scaling.is_identity:
        return x
    factor, mesh = x.dims[d][0], x.mesh
    assert factor.axis is not None
    out = mesh.factor(scaling.after, factor.axis)
    if not out.is_cut:
        x = gather(x, only=[d])
        return replace_dim(x, _by_taps(x.local, d, scaling, (0, scaling.after), 0), d, (out,))
    outputs, rank = output_ranges(out, mesh), mesh.ranks[factor.axis]
    whole_scale = _whole_scale(scaling)
    if whole_scale:
        need = [_whole_scale_input(o, whole_scale, scaling) for o in outputs]
        rows = move(x, d, 0, need)
        local = _by_pytorch(rows, d, whole_scale, scaling, num_dims)
        start = outputs[rank][0] - need[rank][0] * whole_scale
        local = crop(local, d, start, outputs[rank][1] - outputs[rank][0])
    else:
        need = []
        for o in outputs:
            taps, _ = scaling.taps(o, x.local.dtype, torch.device("cpu"))
            need.append((int(taps.min()), int(taps.max()) + 1))
        local = _by_taps(move(x, d, 0, need), d, scaling, outputs[rank], need[rank][0])
    return replace_dim(x, local, d, (out,))


def _whole_scale(scaling: Scaling) -> int:
    """Return by which whole number a dim is enlarged, if it is, and PyTorch can do it band by band; otherwise 0."""
    if scaling.align_corners or scaling.antialias or scaling.after % scaling.before:
        return 0
    scale = scaling.after // scaling.before
    return scale if scaling.factor in (None, float(scale)) else 0


def _whole_scale_input(out: Range, scale: int, scaling: Scaling) -> Range:
    margin = MARGIN[scaling.mode]
    return max(0, out[0] // scale - margin), min(scaling.before, -(-out[1] // scale) + margin)


def _by_pytorch(rows: Tensor, d: int, scale: int, scaling: Scaling, num_dims: int) -> Tensor:
    if scaling.mode.startswith("nearest"):
        return _repeat(rows, d, scale)
    size = list(rows.shape[2:])
    size[d - 2] *= scale
    return functional.interpolate(rows, size, mode=scaling.mode, align_corners=False)


def _repeat(rows: Tensor, d: int, scale: int) -> Tensor:
    """Repeat each row; several of PyTorch's kernels lose the memory format, this does not."""
    size = list(rows.shape[2:])
    size[d - 2] *= scale
    return functional.interpolate(rows, size, mode="nearest")


def _by_taps(rows: Tensor, d: int, scaling: Scaling, out: Range, first: int) -> Tensor:
    """Return weighted sums of rows, of which the first given one has the number `first`."""
    taps, weights = scaling.taps(out, rows.dtype, rows.device)
    if weights is None:
        return select(rows, d, taps[:, 0] - first)
    shape = [1] * rows.dim()
    shape[d] = -1
    precise = torch.promote_types(rows.dtype, torch.float32)
    total: Tensor | None = None
    for k in range(taps.shape[1]):
        weight = weights[:, k].to(rows.device, precise).reshape(shape)
        term = select(rows, d, (taps[:, k] - first).clamp(0, rows.shape[d] - 1)) * weight
        total = term if total is None else total + term
    assert total is not None
    return total.to(rows.dtype)


@operation("layout", "pixel_shuffle", order="first")
def _pixel_shuffle(call: Call) -> Any:
    bound = call.bind("input upscale_factor")
    x, scale = bound["input"], int(bound["upscale_factor"])
    x = simple_dims(gather(x, call.name, only=[1]), range(1, 4), call.name)
    local = functional.pixel_shuffle(x.local, scale)
    dims = [x.dims[0], (Factor(x.shape[1] // scale**2),)]
    for dim in x.dims[2:]:
        bounds = None if dim[0].bounds is None else tuple(b * scale for b in dim[0].bounds)
        dims.append((Factor(dim[0].size * scale, dim[0].axis, bounds),))
    return SpatialTensor(local, tuple(dims), x.mesh)


@operation("layout", "pixel_unshuffle", order="first")
def _pixel_unshuffle(call: Call) -> Any:
    bound = call.bind("input downscale_factor")
    x, scale = bound["input"], int(bound["downscale_factor"])
    x = simple_dims(gather(x, call.name, only=[1]), range(1, 4), call.name)
    for d in (2, 3):
        x = with_multiples(x, d, 0, scale)
    local = functional.pixel_unshuffle(x.local, scale)
    dims = [x.dims[0], (Factor(x.shape[1] * scale**2),)]
    for dim in x.dims[2:]:
        bounds = None if dim[0].bounds is None else tuple(b // scale for b in dim[0].bounds)
        dims.append((Factor(dim[0].size // scale, dim[0].axis, bounds),))
    return SpatialTensor(local, tuple(dims), x.mesh)
