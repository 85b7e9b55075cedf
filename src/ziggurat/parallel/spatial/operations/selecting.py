"""Elements chosen and set by index tensors, masks and numbers, as PyTorch's brackets take them.

An index is done in two steps, as PyTorch does it: what is basic first (numbers, slices, None), then the index tensors
together. A mask stands for the places where it is true.

    x[0, :, mask, None]   =   x[0, :, :, None]   then   [:, places of the mask, :]

Where a dim that index tensors choose from is cut, few elements are looked up by the worker that has them, and added up
(the others have zeros); for many, the dim is gathered.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.spatial.geometry import ranges
from ziggurat.parallel.spatial.layout import Dim, Dims, Factor, cuts, is_cut, local_size, plain, size_of
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.operations.adopting import adopt, belongs_to_network
from ziggurat.parallel.spatial.operations.gathering import spread
from ziggurat.parallel.spatial.operations.pointwise import broadcast_dims, local_part
from ziggurat.parallel.spatial.operations.windows import simple_dims
from ziggurat.parallel.spatial.table import Call
from ziggurat.parallel.spatial.tensor import SpatialTensor, add_up, gather

ALL = slice(None)


@dataclass
class Index:
    """An index in its two steps.

    Attributes:
        basic: Numbers, slices and None; what index tensors choose from is taken whole. One item for each dim, and each
            new one.
        chosen: By the first dim, after the first step, that it chooses from: an index tensor, or a mask of some dims.
    """

    basic: list[Any] = field(default_factory=list)
    chosen: dict[int, Tensor] = field(default_factory=dict)

    @property
    def is_basic(self) -> bool:
        """Whether there is no second step."""
        return not self.chosen

    @property
    def changes_nothing_first(self) -> bool:
        """Whether the first step takes everything."""
        return all(isinstance(item, slice) and item == ALL for item in self.basic)


def parse(index: Any, shape: Sequence[int]) -> Index:
    """Read what stands in brackets.

    Args:
        index: As Python hands it over.
        shape: Of the tensor, on all workers together.

    Raises:
        IndexError: If it names more dims than there are.
    """
    items = [_item(item) for item in (index if isinstance(index, tuple) else (index,))]
    used = sum(_width(item) for item in items)
    if used > len(shape):
        raise IndexError(f"too many indices for tensor of dimension {len(shape)}")
    if not any(item is Ellipsis for item in items):
        items.append(Ellipsis)
    place = next(i for i, item in enumerate(items) if item is Ellipsis)
    items[place : place + 1] = [ALL] * (len(shape) - used)
    found, d, left = Index(), 0, 0  # dims of the tensor that are read, and dims that the first step leaves
    for item in items:
        if item is None:
            found.basic.append(None)
            left += 1
        elif isinstance(item, bool):  # a new dim of size 1, of which all is taken or nothing
            found.basic.append(None)
            found.chosen[left] = torch.zeros(int(item), dtype=torch.long)
            left += 1
        elif isinstance(item, int):
            found.basic.append(item)
            d += 1
        elif isinstance(item, slice):
            found.basic.append(ALL if item.indices(shape[d]) == (0, shape[d], 1) else item)
            d, left = d + 1, left + 1
        else:
            width = _width(item)
            if item.dtype == torch.bool and tuple(item.shape) != tuple(shape[d : d + width]):
                raise IndexError(
                    f"a mask of shape {tuple(item.shape)} for dims of shape {tuple(shape[d : d + width])}"
                )
            found.basic += [ALL] * width
            found.chosen[left] = item
            d, left = d + width, left + width
    return found


def _item(item: Any) -> Any:
    """Return an item as a number, a slice, a tensor, None, True, False or an ellipsis."""
    if item is None or item is Ellipsis or isinstance(item, (bool, slice)):
        return item
    if isinstance(item, Tensor):
        if item.dim() == 0 and item.dtype != torch.bool:
            return int(item)
        return item.bool() if item.dtype == torch.uint8 else item
    if isinstance(item, (list, tuple, range)):
        if any(isinstance(part, SpatialTensor) for part in item):
            return torch.stack([torch.as_tensor(part) for part in item])
        return torch.as_tensor(item if len(item) else torch.zeros(0, dtype=torch.long))
    if hasattr(item, "__array__") and item.ndim:
        return torch.as_tensor(item)
    return operator.index(item)


def _width(item: Any) -> int:
    """Return how many dims of the tensor an item stands for."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return item.dim() if isinstance(item, Tensor) and item.dtype == torch.bool else 1


def own_places(dim: Dim, index: Tensor, mesh: SpatialMesh) -> tuple[Tensor, Tensor]:
    """Return which positions of a dim this worker has, and where in its own part they are (0 for the others).

    Args:
        dim: Of which each worker may have a part.
        index: Positions in all of it; none is negative.
        mesh: The workers.
    """
    inside = torch.ones_like(index, dtype=torch.bool)
    place, rest = torch.zeros_like(index), index
    for k, factor in enumerate(dim):
        stride = math.prod(later.size for later in dim[k + 1 :])
        at, rest = rest // stride, rest % stride
        if factor.bounds is not None and factor.axis is not None:
            first, last = ranges(factor.bounds)[mesh.ranks[factor.axis]]
            inside = inside & (at >= first) & (at < last)
            at = (at - first).clamp(0, max(last - first - 1, 0))
        place = place * factor.local(mesh.ranks) + at
    return inside, place.where(inside, 0)


def positions(chosen: dict[int, Tensor], call: Call) -> dict[int, Tensor]:
    """Return an index tensor for each dim, where masks may stand for several: whole on every worker where it was a mask."""
    found: dict[int, Tensor] = {}
    for d, item in chosen.items():
        if item.dtype != torch.bool:
            found[d] = item
            continue
        mask = gather(item, call.name).local if isinstance(item, SpatialTensor) else item
        found |= dict(enumerate(mask.nonzero(as_tuple=True), d))
    return found


def get_items(call: Call, x: Tensor, index: Index) -> SpatialTensor:
    """Return the elements that an index chooses, of which at least one item is a tensor.

    Communication:
        The elements that are looked up, as a sum over workers; or all rows of the dims that are chosen from.
    """
    left = x if index.changes_nothing_first else x[tuple(index.basic)]
    return look_up(call, spread(left, call.mesh), positions(index.chosen, call))


def look_up(call: Call, x: SpatialTensor, chosen: dict[int, Tensor]) -> SpatialTensor:
    """Return the elements at some positions of some dims: `chosen` has an index tensor for each."""
    mesh, dims = x.mesh, sorted(chosen)
    layout = broadcast_dims([chosen[d] for d in dims], mesh)
    others = {f.axis for d, dim in enumerate(x.dims) if d not in chosen for f in dim if f.is_cut}
    layout = tuple(  # an axis cuts one dim only
        tuple(f.whole() if f.axis in others else f for f in dim) for dim in layout
    )
    index = [local_part(chosen[d], layout, mesh, call.name) for d in dims]
    index = [_not_negative(i, size_of(x.dims[d])) for d, i in zip(dims, index, strict=True)]
    lies = _places_of_result(dims)
    if any(is_cut(x.dims[d]) for d in dims):
        if _few(x, dims, layout):
            return _sum_of_looked_up(x, dims, index, layout, lies)
        x = gather(x, call.name, only=dims)
    local = x.local[_brackets(dict(zip(dims, index, strict=True)), len(x.dims))]
    return SpatialTensor(local, _insert(x.dims, dims, layout, lies), mesh)


def _few(x: SpatialTensor, dims: Sequence[int], layout: Dims) -> bool:
    """Whether a sum of what is looked up moves less than gathering does; all workers look up the same."""
    if not x.dtype.is_floating_point or cuts(layout):
        return False
    if any(has_empty_band(x.dims[d]) for d in dims):
        return False
    return math.prod(map(size_of, layout)) < math.prod(size_of(x.dims[d]) for d in dims)


def has_empty_band(dim: Dim) -> bool:
    """Whether a worker has no position of a dim at all."""
    bands = [factor.bounds for factor in dim if factor.bounds is not None]
    return any(first == last for bounds in bands for first, last in ranges(bounds))


def _sum_of_looked_up(
    x: SpatialTensor, dims: Sequence[int], index: Sequence[Tensor], layout: Dims, lies: int
) -> SpatialTensor:
    """Look up what this worker has, and add up: every position is one worker's."""
    mine, places = _mine(x, dims, index)
    local = x.local[_brackets(dict(zip(dims, places, strict=True)), len(x.dims))]
    shape = [1] * local.dim()
    shape[lies : lies + mine.dim()] = mine.shape
    local = local.where(mine.reshape(shape), 0)
    axes = [f.axis for d in dims for f in x.dims[d] if f.is_cut and f.axis is not None]
    return SpatialTensor(add_up(local, x.mesh, axes), _insert(x.dims, dims, layout, lies), x.mesh)


def _mine(x: SpatialTensor, dims: Sequence[int], index: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return which positions this worker has, and their places in its part along each dim."""
    found = [own_places(x.dims[d], i, x.mesh) for d, i in zip(dims, index, strict=True)]
    mine = torch.ones((), dtype=torch.bool, device=x.device)
    for inside, _ in found:
        mine = mine & inside
    return mine, [place for _, place in found]


def _places_of_result(dims: Sequence[int]) -> int:
    """Return where the dims of the index tensors lie in the result: at the first, where they choose from neighbours."""
    return dims[0] if list(dims) == list(range(dims[0], dims[0] + len(dims))) else 0


def _insert(of: Dims, chosen: Sequence[int], layout: Dims, lies: int) -> Dims:
    """Return the layout of a result: what is not chosen from, with the layout of the index tensors put in."""
    rest = [dim for d, dim in enumerate(of) if d not in chosen]
    return (*rest[:lies], *layout, *rest[lies:])


def _brackets(index: dict[int, Tensor], num_dims: int) -> tuple[Any, ...]:
    return tuple(index.get(d, ALL) for d in range(num_dims))


def _not_negative(index: Tensor, size: int) -> Tensor:
    """Return an index that counts from the front.

    Raises:
        IndexError: If a position is out of bounds; on a GPU the device says so, as a read would be waited for.
    """
    if index.device.type == "cpu" and index.numel():
        low, high = (int(end) for end in index.aminmax())
        if low < -size or high >= size:
            raise IndexError(
                f"index {low if low < -size else high} is out of bounds for a dim with size {size}"
            )
    return index.where(index >= 0, index + size)


def put_items(
    call: Call, x: SpatialTensor, chosen: dict[int, Tensor], value: Any, accumulate: bool = False
) -> None:
    """Set the elements at some positions of some dims in place, or add to them: each worker those that it has.

    Args:
        call: What asks for it.
        x: Is changed.
        chosen: As an `Index` has them.
        value: A number, or a tensor that is broadcast to what is chosen.
        accumulate: Whether to add.
    """
    if len(chosen) == 1 and not accumulate:
        ((d, mask),) = chosen.items()
        behind = len(x.dims) - d - mask.dim()
        if mask.dtype == torch.bool and not (
            isinstance(value, Tensor) and value.dim() > behind and value.shape[value.dim() - behind - 1] != 1
        ):
            where = local_part(mask, x.dims[d : d + mask.dim()], x.mesh, call.name)
            layout = (*x.dims[:d], plain(1), *x.dims[d + mask.dim() :])
            x.local[(ALL,) * d + (where,)] = local_part(value, layout, x.mesh, call.name)
            return
    index = positions(chosen, call)
    dims = sorted(index)
    whole = [gather(i, call.name).local if isinstance(i, SpatialTensor) else i for i in map(index.get, dims)]
    places = list(torch.broadcast_tensors(*whole))
    shape, lies = places[0].shape, _places_of_result(dims)
    layout = _insert(x.dims, dims, tuple(map(plain, shape)), lies)
    if not isinstance(value, Tensor):
        value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    values = local_part(value, layout, x.mesh, call.name)
    values = values.expand([local_size(dim, x.mesh.ranks) for dim in layout])
    front = range(len(shape))
    values = values.movedim(tuple(lies + i for i in front), tuple(front)).flatten(0, len(shape) - 1)
    places = [_not_negative(i.flatten(), size_of(x.dims[d])) for d, i in zip(dims, places, strict=True)]
    if any(is_cut(x.dims[d]) for d in dims):
        mine, places = _mine(x, dims, places)
        places, values = [place[mine] for place in places], values[mine]
    x.local.movedim(dims, tuple(range(len(dims)))).index_put_(places, values, accumulate)


def set_items(call: Call, x: Tensor, index: Any, value: Any) -> None:
    """Set the elements that an index chooses, in place.

    Communication:
        Rows of the values whose owner is another; where index tensors choose, all rows of the values.
    """
    parsed = parse(index, tuple(x.shape))
    if not isinstance(x, SpatialTensor):
        if belongs_to_network(x):
            _set_own(call, x, index, value)
            return
        x = adopt(call, x, _adopted_dims(call, x, parsed, value))
    if parsed.is_basic:
        _set_slices(call, x, parsed, value)
    elif parsed.changes_nothing_first:
        put_items(call, x, parsed.chosen, value)
    else:
        part = spread(x[tuple(parsed.basic)].clone(), call.mesh)
        put_items(call, part, parsed.chosen, value)
        _set_slices(call, x, parsed, part)


def _set_own(call: Call, x: Tensor, index: Any, value: Any) -> None:
    """Set elements of a parameter or a buffer, which every worker has whole."""
    if isinstance(value, SpatialTensor) and value.requires_grad and torch.is_grad_enabled():
        raise call.unsupported(
            "values with a gradient are put into a buffer", "put x.detach() into it, or a tensor of its own"
        )
    items = index if isinstance(index, tuple) else (index,)
    whole = [gather(i, call.name).local if isinstance(i, SpatialTensor) else i for i in items]
    x[tuple(whole)] = gather(value, call.name).local if isinstance(value, SpatialTensor) else value


def _adopted_dims(call: Call, x: Tensor, index: Index, value: Any) -> Dims:
    """Return how a plain tensor is cut that becomes a spread one: where the values that are put into it are cut."""
    dims = [plain(size) for size in x.shape]
    if not index.is_basic or not isinstance(value, SpatialTensor):
        return tuple(dims)
    kept = [item for item in index.basic if not isinstance(item, int)]
    of_dim = iter(range(len(dims)))
    owners = [None if item is None else next(of_dim) for item in index.basic]
    owners = [d for d, item in zip(owners, index.basic, strict=True) if not isinstance(item, int)]
    used: set[int] = set()
    for place in range(1, min(len(kept), len(value.dims)) + 1):
        dim, d = value.dims[-place], owners[-place]
        if len(dim) == 1 and is_cut(dim) and d is not None and dim[0].axis not in used:
            dims[d] = (call.mesh.factor(x.shape[d], dim[0].axis),)
            used |= {axis for factor in dim if (axis := factor.axis) is not None}
    return tuple(dims)


def _set_slices(call: Call, x: SpatialTensor, index: Index, value: Any) -> None:
    """Set what numbers and slices choose: each worker its own rows."""
    items, dims, rows = list(index.basic), [], []
    d = 0
    for i, item in enumerate(items):
        if item is None:
            dims.append(plain(1))
            continue
        if isinstance(item, slice) and item == ALL:
            dims.append(x.dims[d])
        elif is_cut(x.dims[d]):
            items[i], dim = _own_rows(x, d, item, call)
            dims.append(dim)
            if isinstance(item, int):
                rows.append(len(dims) - 1)  # stays as a dim of one row, or none
        elif isinstance(item, slice):
            dims.append(plain(len(range(*item.indices(size_of(x.dims[d]))))))
        d += 1
    if isinstance(value, Tensor):
        while value.dim() > len(dims) - len(rows) and value.shape[0] == 1:
            value = value.squeeze(0)
        for row in reversed(rows):
            before_end = len(dims) - 1 - row  # dims behind it
            if value.dim() >= before_end:
                value = value.unsqueeze(value.dim() - before_end)
        if value.dtype != x.dtype:
            value = value.to(x.dtype)
    x.local[tuple(items)] = local_part(value, tuple(dims), x.mesh, call.name)


def _own_rows(x: SpatialTensor, d: int, item: Any, call: Call) -> tuple[slice, Dim]:
    """Return which local rows of a cut dim an item chooses, and how the values that are set there are cut."""
    factor = simple_dims(x, [d], call.name).dims[d][0]
    if factor.bounds is None or factor.axis is None:
        raise call.unsupported(
            "single rows are set of a dim that is cut inside of it, as a reshape has left it",
            "set them before the reshape",
        )
    if isinstance(item, slice):
        chosen = range(factor.size)[item]
        start, step, count = chosen.start, chosen.step, len(chosen)
    else:
        start, step, count = range(factor.size)[item], 1, 1
    bounds = tuple(min(max(-((start - bound) // step), 0), count) for bound in factor.bounds)
    rank = x.mesh.ranks[factor.axis]
    first, last = bounds[rank], bounds[rank + 1]
    begin = start + first * step - factor.bounds[rank]
    rows = slice(begin, begin + (last - first - 1) * step + 1, step) if first < last else slice(0, 0)
    dim = plain(1) if isinstance(item, int) else (Factor(count, factor.axis, bounds),)
    return rows, dim
