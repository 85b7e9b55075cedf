"""A tensor that is spread over workers, and looks like the whole one to the model that computes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.parallel.spatial.exchange import Fetch, fetch, memory_format_of
from ziggurat.parallel.spatial.geometry import Range, ranges
from ziggurat.parallel.spatial.layout import (
    Dim,
    Dims,
    cuts,
    local_size,
    one_dim_an_axis,
    plain,
    shape_of,
    size_of,
)
from ziggurat.parallel.spatial.memory import Account, default_meta, make_meta, put, renew
from ziggurat.parallel.spatial.mesh import SpatialMesh, UnsupportedOperation
from ziggurat.parallel.spatial.sums import sum_over
from ziggurat.torch_internals.tensors import NO_MEMORY, SETS_DATA, hollow_subclass

# From a function of PyTorch, its positional and its named arguments to its result.
Dispatch = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class SpatialTensor(torch.Tensor):
    """A tensor of which each worker holds a part; its shape is that of the whole.

    Args:
        local: This worker's part.
        dims: How the whole lies on the workers.
        mesh: The workers.

    Attributes:
        local: As the argument; autograd works on it.
        dims: As the argument; an axis has one dim at most.
        mesh: As the argument.
        account: Where the whole lies in memory.
        raw: As `local`, whether or not its memory was changed since by way of others.
        watched_since: If the network has asked for its gradient, by a hook or to be kept: how often its memory had been changed by then.
        made_by: The operation that it is new memory of; empty for views, and for what came from outside.
    """

    dims: Dims
    mesh: SpatialMesh
    account: Account
    raw: Tensor
    watched_since: int | None = None
    made_by: str = ""
    dispatch: ClassVar[
        Dispatch
    ]  # set once, by `ziggurat.parallel.spatial.dispatch`, which lies above the operations

    @staticmethod
    def __new__(cls, local: Tensor, dims: Dims, mesh: SpatialMesh) -> SpatialTensor:
        """Make a tensor of the whole's shape that has no memory of its own."""
        dims = one_dim_an_axis(dims)
        tensor = hollow_subclass(
            cls,
            shape_of(dims),
            local.dtype,
            local.device,
            requires_grad=local.requires_grad and (local.is_floating_point() or local.is_complex()),
        )
        tensor.raw, tensor.dims, tensor.mesh = local, dims, mesh
        tensor.account = Account()
        return tensor

    @property
    def local(self) -> Tensor:
        """This worker's part, up to date."""
        renew(self)
        return self.raw

    @local.setter
    def local(self, value: Tensor) -> None:
        self.raw = value

    @property
    def meta(self) -> Tensor:
        """The whole without its values: its shape, type, strides and storage."""
        if self.account.meta is None:
            self.account.meta = default_meta(shape_of(self.dims), self.local)
        return self.account.meta

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return cls.dispatch(func, tuple(args), kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # PyTorch's stub forgets that it is a class method
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse what has slipped past `__torch_function__` (scripted code, operators written in C++)."""
        first = next((a for a in args if isinstance(a, SpatialTensor)), None)
        if first is None:
            raise UnsupportedOperation(
                str(func), "?", "its arguments hide a tensor that is spread over workers"
            )
        if func is SETS_DATA:
            raise first.mesh.unsupported("Tensor.data", OF_MEMORY)
        raise first.mesh.unsupported(str(func), "it is called from compiled code, out of the engine's sight")

    def __repr__(self) -> str:  # type: ignore[override]  # PyTorch's takes contents
        return f"SpatialTensor(shape={shape_of(self.dims)}, dims={self.dims})"


OF_MEMORY = "the memory of a tensor that is spread over workers was asked for, as by `buffer.data = x`: use `buffer.copy_(x)`"


@contextmanager
def memory_refused(images: Tensor) -> Iterator[None]:
    """Refuse by name what gets at the memory of spread tensors, which have none, in a block that computes with them."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(images, SpatialTensor) and NO_MEMORY in str(error):
            raise images.mesh.unsupported("Tensor.data", OF_MEMORY) from error
        raise


def cut(whole: Tensor, mesh: SpatialMesh, first: int = 2) -> SpatialTensor:
    """Cut a tensor that every worker has into bands.

    Args:
        whole: Shape ``(B, C, *spatial)``.
        mesh: The workers; its axes cut the spatial dims.
        first: Number of the first spatial dim.
    """
    dims = band_dims(whole.shape, mesh, first)
    band = slice_local(whole, dims, mesh).contiguous(memory_format=memory_format_of(whole))
    bands = SpatialTensor(band, dims, mesh)
    put(bands, make_meta(tuple(whole.shape), whole.stride(), whole.dtype))
    return bands


def band_dims(shape: Sequence[int], mesh: SpatialMesh, first: int = 2) -> Dims:
    """Return how a tensor of some shape is cut by the rule; its spatial dims begin at `first`.

    Raises:
        UserError: If it has fewer spatial dims than the mesh has axes.
    """
    axes = {first + axis.place: number for number, axis in enumerate(mesh.axes)}
    if max(axes) >= len(shape):
        raise UserError(
            f"the plan cuts dim {max(axes)}: got a tensor of shape {tuple(shape)}; take a plan with fewer spatial axes"
        )
    return tuple((mesh.factor(size, axes.get(d)),) for d, size in enumerate(shape))


def keep_own(whole: Tensor, dims: Dims, mesh: SpatialMesh) -> SpatialTensor:
    """Keep this worker's part of a tensor that every worker has whole."""
    return SpatialTensor(slice_local(whole, dims, mesh), dims, mesh)


def as_whole(local: Tensor, mesh: SpatialMesh, dims: Dims | None = None) -> SpatialTensor:
    """Return a tensor that every worker has whole."""
    return SpatialTensor(local, dims or tuple(plain(size) for size in local.shape), mesh)


def slice_local(whole: Tensor, dims: Dims, mesh: SpatialMesh) -> Tensor:
    """Return this worker's part of a whole tensor; dims of size 1 are broadcast, and stay.

    It may be a view or a copy: what is to change the whole goes by `put_local`.

    Args:
        whole: Its dims are the last ones of `dims`.
        dims: How the result is cut.
        mesh: The workers.
    """
    offset = len(dims) - whole.dim()
    for d in range(whole.dim()):
        dim = dims[offset + d]
        if whole.shape[d] != 1 or size_of(dim) == 1:
            for k, factor in enumerate(dim):
                if factor.is_cut:
                    band = ranges(factor.bounds or ())[mesh.ranks[factor.axis or 0]]
                    whole = _narrow_factor(whole, d, dim[:k], dim, k, band, mesh)
    return whole


def put_local(part: Tensor, whole: Tensor, dims: Dims, mesh: SpatialMesh) -> None:
    """Overwrite this worker's part of a whole tensor, which `slice_local` would return."""
    numbers = torch.arange(whole.numel(), device=whole.device).view(whole.shape)
    places = slice_local(numbers, dims, mesh)
    whole.put_(places, part.expand(places.shape))


def _narrow_factor(
    tensor: Tensor, d: int, done: Dim, dim: Dim, k: int, band: Range, mesh: SpatialMesh
) -> Tensor:
    """Narrow one factor of a dim whose earlier factors have been narrowed already."""
    if len(dim) == 1:
        return tensor.narrow(d, band[0], band[1] - band[0])
    sizes = [f.local(mesh.ranks) for f in done] + [f.size for f in dim[k:]]
    opened = tensor.reshape(*tensor.shape[:d], *sizes, *tensor.shape[d + 1 :])
    opened = opened.narrow(d + k, band[0], band[1] - band[0])
    return opened.flatten(d, d + len(sizes) - 1)


def move(x: SpatialTensor, d: int, k: int, need: Sequence[Range], fill: float = 0.0) -> Tensor:
    """Return the local tensor with the rows of one factor that each worker needs.

    Args:
        x: Cut along the factor, or whole.
        d: Number of the dim.
        k: Place of the factor in it, which must be spatial.
        need: Rows that each worker of the factor's axis needs; virtual ones are filled.
        fill: Value of virtual rows.

    Communication:
        None where the factor is whole.
    """
    dim, mesh = x.dims[d], x.mesh
    factor = dim[k]
    assert factor.axis is not None
    axis = mesh.axes[factor.axis]
    local, place, sizes = x.local, d, [f.local(mesh.ranks) for f in dim]
    if len(dim) > 1:
        local = local.reshape(*local.shape[:d], *sizes, *local.shape[d + 1 :])
        place = d + k
    if factor.bounds is None:
        moved = take_rows(local, place, need[axis.rank], fill)
    else:
        moved = fetch(local, Fetch(place, factor.bounds, tuple(need), fill), axis)
    return moved.flatten(d, d + len(dim) - 1) if len(dim) > 1 else moved


def take_rows(whole: Tensor, dim: int, rows: Range, fill: float = 0.0) -> Tensor:
    """Return rows of a whole tensor; virtual ones are filled."""
    extent = whole.shape[dim]
    start, stop = max(0, min(rows[0], extent)), min(extent, max(rows[1], 0))
    stop = max(start, stop)
    inner = whole.narrow(dim, start, stop - start)
    before, after = max(0, start - rows[0]), max(0, rows[1] - stop)
    if rows[1] - rows[0] != before + after + stop - start:  # wholly virtual
        before, after = rows[1] - rows[0], 0
    if before or after:
        widths = [0, 0] * (whole.dim() - dim - 1) + [before, after]
        inner = nn.functional.pad(inner, widths, value=fill)
    return inner


def recut(x: SpatialTensor, d: int, k: int, bounds: tuple[int, ...] | None) -> SpatialTensor:
    """Return the tensor with one factor cut at other bounds, or whole.

    Communication:
        The rows that change their owner; to make it whole, every row to every worker.
    """
    factor = x.dims[d][k]
    if factor.bounds == bounds:
        return x
    assert factor.axis is not None
    need = [(0, factor.size)] * x.mesh.axes[factor.axis].size if bounds is None else ranges(bounds)
    local = move(x, d, k, need)
    dim = (*x.dims[d][:k], replace(factor, bounds=bounds), *x.dims[d][k + 1 :])
    return SpatialTensor(local, (*x.dims[:d], dim, *x.dims[d + 1 :]), x.mesh)


def gather(x: SpatialTensor, operation: str = "", only: Iterable[int] | None = None) -> SpatialTensor:
    """Return the tensor whole on every worker, counted under the layer and the operation.

    Args:
        x: The tensor.
        operation: What needs it whole; empty for the apex.
        only: Dims to make whole; all of them by default.
    """
    chosen = range(len(x.dims)) if only is None else only
    for d in chosen:
        for k, factor in enumerate(x.dims[d]):
            if factor.is_cut:
                before = x.local.numel()
                x = recut(x, d, k, None)
                received = (x.local.numel() - before) * x.local.element_size()
                counter = x.mesh.gathers if operation else x.mesh.apex
                counter[x.mesh.layer(), operation or "apex"] += received
    return x


def add_up(local: Tensor, mesh: SpatialMesh, axes: Iterable[int]) -> Tensor:
    """Return the sum of a tensor over the workers of some axes."""
    for number in axes:
        local = sum_over(local, mesh.axes[number])
    return local


def whole_tensor(x: Tensor, operation: str = "the caller") -> Tensor:
    """Return the plain tensor of all that the workers hold together (the tensor itself, if it is plain)."""
    return gather(x, operation).local if isinstance(x, SpatialTensor) else x


def ranks_shape(x: SpatialTensor) -> list[int]:
    """Return the shape of this worker's part, as the layout says."""
    return [local_size(dim, x.mesh.ranks) for dim in x.dims]


def cut_axes(x: SpatialTensor) -> list[int]:
    """Return the numbers of the axes that cut a tensor."""
    return list(cuts(x.dims))
