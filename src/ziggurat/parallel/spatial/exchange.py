"""Rows that one worker has and others need: one primitive, and its adjoint.

`fetch` moves rows between the workers of one mesh axis: halos of any width over any number of neighbours, a change
of bounds, or all rows to every worker. Every worker knows the geometry of all of them, so no shapes are exchanged.

    worker 1 has [4, 8) and needs [2, 9)

        worker 0  [0 1 2 3]            worker 2  [8 9 ..]
                       2 3 ------+  +------ 8
                                 v  v
        worker 1              [2 3|4 5 6 7|8]

Gradients go back the same way and are added to the owner's, in the order of the workers.

**Partial gradients.** A tensor that is whole on every worker has, on each of them, a *part* of its gradient: the
parts of all workers add up to it. So the gradient of rows that several workers have fetched is the sum of theirs, the
gradient of a sum over workers is the sum of theirs, and parameters are summed once, after the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.collectives.requests import Request
from ziggurat.parallel.spatial.axis import Axis
from ziggurat.parallel.spatial.geometry import Range, intersect, range_of
from ziggurat.torch_internals.tensors import memory_key


@dataclass(frozen=True)
class Fetch:
    """Which rows move along one dim.

    Attributes:
        dim: The dim of the local tensors.
        have: Bounds of the bands.
        need: Rows that each worker needs; virtual ones are filled.
        fill: Value of virtual rows.
    """

    dim: int
    have: tuple[int, ...]
    need: tuple[Range, ...]
    fill: float = 0.0

    @property
    def extent(self) -> int:
        """Rows of the whole."""
        return self.have[-1]

    def is_local(self) -> bool:
        """Whether every worker needs exactly its own rows."""
        return all(need == range_of(self.have, rank) for rank, need in enumerate(self.need))

    def piece(self, source: int, target: int) -> Range:
        """Return the rows that `source` has and `target` needs."""
        return intersect(range_of(self.have, source), self.need[target])

    def virtual(self, rank: int) -> tuple[int, int]:
        """Return the numbers of virtual rows before and after a worker's real ones."""
        start, stop = self.need[rank]
        if stop <= 0 or start >= self.extent:
            return stop - start, 0
        return max(0, -start), max(0, stop - self.extent)


def start_swap(sends: dict[int, Tensor], receives: dict[int, Tensor], axis: Axis) -> Request:
    """Start sending tensors to workers and receiving others from them.

    Args:
        sends: By the target's rank, contiguous.
        receives: By the source's rank, contiguous; overwritten.
        axis: Whose workers.

    Returns:
        What to wait for; it keeps the tensors until then.
    """
    axis.traffic.bytes_sent += sum(t.numel() * t.element_size() for t in sends.values())
    axis.traffic.messages += len(sends)
    return axis.workers.start_swap([*sends.items()], [*receives.items()])


def _wire_order(num_dims: int, dim: int) -> tuple[int, ...]:
    """Return the order of dims on the wire: channels last where rows of maps travel."""
    return (0, *range(2, num_dims), 1) if num_dims > 3 and dim >= 2 else tuple(range(num_dims))


def _pack(rows: Tensor, dim: int) -> Tensor:
    return rows.permute(_wire_order(rows.dim(), dim)).contiguous()


def _room(like: Tensor, dim: int, count: int) -> Tensor:
    """Return empty memory for rows, in the order of the wire."""
    shape = list(like.shape)
    shape[dim] = count
    order = _wire_order(like.dim(), dim)
    return torch.empty([shape[d] for d in order], dtype=like.dtype, device=like.device)


def _unpack(room: Tensor, dim: int) -> Tensor:
    order = _wire_order(room.dim(), dim)
    return room.permute([order.index(d) for d in range(room.dim())])


def memory_format_of(tensor: Tensor) -> torch.memory_format:
    """Return channels-last if the tensor is laid out so, and not also contiguous."""
    for format, num_dims in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if tensor.dim() == num_dims and tensor.is_contiguous(memory_format=format):
            return torch.contiguous_format if tensor.is_contiguous() else format
    return torch.contiguous_format


def crop(rows: Tensor, dim: int, start: int, count: int) -> Tensor:
    """Return some rows, dense and in the memory format of all; all of them are returned as they are."""
    if count == rows.shape[dim]:
        return rows
    return rows.narrow(dim, start, count).contiguous(memory_format=memory_format_of(rows))


class Halos:
    """The rows of other workers that one worker has received, in the order of their owners.

    Args:
        band: This worker's rows.
        plan: What moves.
        axis: Between whom.
    """

    def __init__(self, band: Tensor, plan: Fetch, axis: Axis) -> None:
        self.plan = plan
        self.rank = axis.rank
        me, dim = axis.rank, plan.dim
        start = plan.have[me]
        sends, rooms = {}, {}
        for other in range(axis.size):
            if other == me:
                continue
            first, last = plan.piece(me, other)
            if first < last:
                sends[other] = _pack(band.narrow(dim, first - start, last - first), dim)
            first, last = plan.piece(other, me)
            if first < last:
                rooms[other] = _room(band, dim, last - first)
        self.request = start_swap(sends, rooms, axis)
        self.axis = axis
        self.rooms = rooms

    def wait(self) -> list[Tensor]:
        """Return the received rows, in the order of their owners."""
        self.request.wait(self.axis.traffic.clock)
        return [_unpack(self.rooms[owner], self.plan.dim) for owner in self.owners]

    @property
    def owners(self) -> list[int]:
        """The workers that rows come from."""
        return sorted(self.rooms)


def assemble(band: Tensor, received: Sequence[Tensor], plan: Fetch, rank: int) -> Tensor:
    """Join a worker's rows with received and virtual ones; the memory format is the band's."""
    dim = plan.dim
    shape = list(band.shape)
    shape[dim] = plan.need[rank][1] - plan.need[rank][0]
    out = torch.empty(shape, dtype=band.dtype, device=band.device, memory_format=memory_format_of(band))
    before, after = plan.virtual(rank)
    if before:
        out.narrow(dim, 0, before).fill_(plan.fill)
    if after:
        out.narrow(dim, shape[dim] - after, after).fill_(plan.fill)
    place, waiting = before, list(received)
    for source in range(len(plan.need)):
        first, last = plan.piece(source, rank)
        if first == last:
            continue
        rows = band.narrow(dim, first - plan.have[rank], last - first) if source == rank else waiting.pop(0)
        out.narrow(dim, place, last - first).copy_(rows)
        place += last - first
    return out


class Returns:
    """Gradients of fetched rows on their way to the owners of the rows, begun.

    Args:
        sends: By owner, what this worker has computed of its rows' gradient.
        like: A tensor with the shape, but for the rows, and the type of the gradients.
        plan: What moved.
        axis: Between whom.

    Communication:
        The rows of the forward exchange, the other way.
    """

    def __init__(self, sends: dict[int, Tensor], like: Tensor, plan: Fetch, axis: Axis) -> None:
        self.plan, self.axis = plan, axis
        self.rooms: dict[int, Tensor] = {}
        for other in range(axis.size):
            first, last = plan.piece(axis.rank, other)
            if other != axis.rank and first < last:
                self.rooms[other] = _room(like, plan.dim, last - first)
        packed = {owner: _pack(rows, plan.dim) for owner, rows in sends.items()}
        self.request = start_swap(packed, self.rooms, axis)

    def add_to(self, gradient: Tensor) -> Tensor:
        """Add what other workers have computed to the gradient of this worker's rows, in their order."""
        self.request.wait(self.axis.traffic.clock)
        start = self.plan.have[self.axis.rank]
        for target in sorted(self.rooms):
            first, last = self.plan.piece(self.axis.rank, target)
            rows = gradient.narrow(self.plan.dim, first - start, last - first)
            rows.add_(_unpack(self.rooms[target], self.plan.dim))
        return gradient


class ReturnedRows:
    """The gradient of a worker's own rows: the adjoint of `assemble` with its exchange, begun.

    Args:
        gradient: Of the assembled rows.
        band_shape: Of the worker's own rows.
        plan: What moved.
        axis: Between whom.
        owned: Whether the gradient is the caller's alone, and may be changed.

    Communication:
        The rows of the forward exchange, the other way.
    """

    def __init__(
        self, gradient: Tensor, band_shape: Sequence[int], plan: Fetch, axis: Axis, owned: bool = False
    ) -> None:
        self.plan, self.axis = plan, axis
        me, dim = axis.rank, plan.dim
        place, _ = plan.virtual(me)
        sends: dict[int, Tensor] = {}
        mine = None
        for other in range(axis.size):
            first, last = plan.piece(other, me)
            if first == last:
                continue
            rows = gradient.narrow(dim, place, last - first)
            if other == me:
                mine = rows
            else:
                sends[other] = rows
            place += last - first
        self.returns = Returns(sends, gradient, plan, axis)
        self.result = self._own_rows(gradient, mine, band_shape, owned)

    def _own_rows(
        self, gradient: Tensor, mine: Tensor | None, band_shape: Sequence[int], owned: bool
    ) -> Tensor:
        """Return what this worker itself has computed of its rows' gradient, in memory that may be added to."""
        format, me, dim = memory_format_of(gradient), self.axis.rank, self.plan.dim
        own, band = self.plan.piece(me, me), range_of(self.plan.have, me)
        if mine is not None and own == band:
            in_place = mine.is_contiguous(memory_format=format) and (owned or not self.returns.rooms)
            return mine if in_place else mine.clone(memory_format=format)
        result = torch.empty(
            list(band_shape), dtype=gradient.dtype, device=gradient.device, memory_format=format
        ).zero_()
        if mine is not None:
            result.narrow(dim, own[0] - band[0], own[1] - own[0]).copy_(mine)
        return result

    def wait(self) -> Tensor:
        """Return the gradient, with what other workers have computed of it added in their order."""
        return self.returns.add_to(self.result)


class _FetchRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, band: Tensor, plan: Fetch, axis: Axis) -> Tensor:
        ctx.plan, ctx.axis, ctx.shape = plan, axis, band.shape
        with axis.traffic.move():
            return assemble(band, Halos(band, plan, axis).wait(), plan, axis.rank)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        with ctx.axis.traffic.move():
            return ReturnedRows(gradients[0], ctx.shape, ctx.plan, ctx.axis).wait(), None, None


def fetch(band: Tensor, plan: Fetch, axis: Axis) -> Tensor:
    """Return the rows that this worker needs.

    Args:
        band: This worker's rows, ``plan.have[rank] .. plan.have[rank + 1]`` of the whole.
        plan: What moves, the same on every worker.
        axis: Between whom.

    Placement:
        Before, each worker holds its band; after, the rows that it needs, with virtual rows filled.

    Communication:
        Each row goes from its owner to each other worker that needs it; backward the same rows return.
    """
    if plan.is_local():
        return band
    if band.is_complex() and plan.fill:
        band = band.resolve_conj()
        return torch.complex(fetch(band.real, plan, axis), fetch(band.imag, replace(plan, fill=0.0), axis))
    if band.is_complex():  # no backend sends complex numbers
        return torch.view_as_complex(fetch(torch.view_as_real(band.resolve_conj()), plan, axis).contiguous())
    rows: Tensor = _FetchRows.apply(band, plan, axis)
    return rows


class _GiveRows(torch.autograd.Function):
    """The adjoint of `_FetchRows`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, plan: Fetch, axis: Axis) -> Tensor:
        ctx.plan, ctx.axis = plan, axis
        shape = list(rows.shape)
        shape[plan.dim] = plan.have[axis.rank + 1] - plan.have[axis.rank]
        with axis.traffic.move():
            band = ReturnedRows(rows, shape, plan, axis).wait()
        return band.clone() if memory_key(band) == memory_key(rows) else band

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        plan, axis, gradient = ctx.plan, ctx.axis, gradients[0].contiguous()
        with axis.traffic.move():
            return assemble(gradient, Halos(gradient, plan, axis).wait(), plan, axis.rank), None, None


def give(rows: Tensor, plan: Fetch, axis: Axis) -> Tensor:
    """Add up rows of which several workers have a part, each row at its owner: the adjoint of `fetch`.

    Args:
        rows: What this worker has of the rows ``plan.need[rank]``; virtual ones are dropped.
        plan: Whose the rows are, the same on every worker.
        axis: Between whom.

    Placement:
        Before, each worker holds its part of the rows that it has computed; after, the sum of its own band.

    Communication:
        Each row goes from each worker that has a part of it to its owner; backward the gradients come back.
    """
    if plan.is_local():
        return rows
    band: Tensor = _GiveRows.apply(rows, plan, axis)
    return band
