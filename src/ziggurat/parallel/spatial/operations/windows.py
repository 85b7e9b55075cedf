"""What convolutions and poolings share: which rows a worker fetches, and where the result is cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.spatial.exchange import Fetch, Halos, ReturnedRows, assemble
from ziggurat.parallel.spatial.geometry import Range, partition, ranges
from ziggurat.parallel.spatial.layout import Dims, Factor, plain
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.operations.pointwise import join_factors
from ziggurat.parallel.spatial.table import Call
from ziggurat.parallel.spatial.tensor import SpatialTensor, gather, take_rows


def per_dim(value: int | Sequence[int] | None, num_dims: int, default: int = 0) -> tuple[int, ...]:
    """Return one number for each spatial dim.

    Example:
        >>> per_dim(3, 2), per_dim([1, 2], 2), per_dim((5,), 2)
        ((3, 3), (1, 2), (5, 5))
    """
    if value is None or (isinstance(value, (tuple, list)) and not value):
        return (default,) * num_dims
    if isinstance(value, int):
        return (value,) * num_dims
    numbers = tuple(int(v) for v in value)
    return numbers * num_dims if len(numbers) == 1 else numbers


@dataclass(frozen=True)
class Step:
    """What happens along one dim before the local operation.

    Attributes:
        dim: The dim.
        rows: Rows that each worker needs, if the dim is spatial; virtual ones are filled.
        bounds: Of the input's bands; None where it is whole.
        out: The output rows of each worker.
        axis: Number of the mesh axis.
    """

    dim: int
    rows: tuple[Range, ...]
    bounds: tuple[int, ...] | None
    out: tuple[Range, ...]
    axis: int

    def fetch(self, fill: float) -> Fetch:
        """Return the exchange, where the input is cut."""
        assert self.bounds is not None
        return Fetch(self.dim, self.bounds, self.rows, fill)

    def is_local(self, extent: int) -> bool:
        """Whether every worker has exactly the rows that it needs."""
        own = ranges(self.bounds) if self.bounds is not None else [(0, extent)] * len(self.rows)
        return list(self.rows) == own


@dataclass(frozen=True)
class WindowPlan:
    """How a window operation runs.

    Attributes:
        x: The input, with simple dims.
        steps: One for each dim that is computed in bands.
        dims: Layout of the output in bands.
        after: Dims of the output that are gathered afterwards, being too small to cut.
    """

    x: SpatialTensor
    steps: tuple[Step, ...]
    dims: Dims
    after: tuple[int, ...]

    @property
    def is_local(self) -> bool:
        """Whether nothing moves and nothing is filled."""
        return all(step.is_local(self.x.dims[step.dim][0].size) for step in self.steps)

    def finish(self, local: Tensor) -> SpatialTensor:
        """Return the output, gathered where it is too small to cut."""
        out = SpatialTensor(local, self.dims, self.x.mesh)
        return gather(out, only=self.after) if self.after else out


def plan_windows(
    call: Call,
    x: SpatialTensor,
    channels: int | None,
    extents: Sequence[int],
    needed: Callable[[int, Range], Range],
    strides: Sequence[int] = (),
) -> WindowPlan:
    """Plan a window operation on the last dims of a tensor.

    Args:
        call: For messages.
        x: Shape ``(B, C, *spatial)`` or ``(C, *spatial)``.
        channels: Of the output; None leaves them.
        extents: Of the output's spatial dims.
        needed: From a spatial dim's number and output rows to input rows.
        strides: Of each spatial dim, where a local operation that is given fewer than that many rows more computes the
            same; none otherwise.
    """
    mesh, first = x.mesh, len(x.dims) - len(extents)
    x = simple_dims(x, range(first, len(x.dims)), call.name)
    x = gather(
        x, call.name, only=[first - 1]
    )  # channels are cut where a reshape has mixed them with positions
    head = x.dims[:first] if channels is None else (*x.dims[: first - 1], plain(channels))
    steps, dims, after = [], list(head), []
    for i, extent in enumerate(extents):
        d = first + i
        factor = x.dims[d][0]
        if factor.axis is None:
            dims.append(plain(extent))
            continue
        size = mesh.axes[factor.axis].size
        if not mesh.is_cut(extent, factor.axis) and (not factor.is_cut or extent < size):
            x = gather(x, only=[d])  # the apex: computed by every worker
            dims.append((Factor(extent, factor.axis),))
            continue
        factor = x.dims[d][0]
        bounds = partition(extent, size)
        outputs = tuple(ranges(bounds))
        rows = tuple(needed(i, out) for out in outputs)
        if factor.bounds is not None and strides:
            own = ranges(factor.bounds)
            rows = tuple(keep_last_rows(r, o, strides[i]) for r, o in zip(rows, own, strict=True))
        assert factor.axis is not None
        steps.append(Step(d, rows, factor.bounds, outputs, factor.axis))
        dims.append((Factor(extent, factor.axis, bounds),))
        if not mesh.is_cut(extent, factor.axis):
            after.append(d)
    return WindowPlan(x, tuple(steps), tuple(dims), tuple(after))


def keep_last_rows(rows: Range, own: Range, stride: int) -> Range:
    """Return the rows with those of the worker's own that follow them, if they are too few for a window more.

    They cost nothing, and leaving them out would cost a copy: every second row of a band of 8 is read up to the seventh.

    Example:
        >>> keep_last_rows((0, 7), (0, 8), stride=2), keep_last_rows((0, 6), (0, 8), stride=2)
        ((0, 8), (0, 6))
    """
    first_missing = rows[1]
    if rows[0] < first_missing and own[0] < first_missing < own[1] < first_missing + stride:
        return rows[0], own[1]
    return rows


def simple_dims(x: SpatialTensor, dims: Sequence[int] | range, operation: str) -> SpatialTensor:
    """Return a tensor whose given dims are one factor each, so that their rows can be counted.

    Rows and columns that were flattened together are rows of one dim already, where only the rows are cut.
    """
    for d in dims:
        if len(x.dims[d]) > 1:
            x = join_factors(x, d)
        if len(x.dims[d]) > 1:
            x = gather(x, operation, only=[d])
            size = x.local.shape[d]
            x = SpatialTensor(x.local, (*x.dims[:d], plain(size), *x.dims[d + 1 :]), x.mesh)
    return x


@dataclass
class Rows:
    """A band with what was fetched for it, kept apart, so that backward can join them again at no cost of memory.

    Attributes:
        steps: In the order in which dims were widened.
        received: For each step the rows of other workers.
        shapes: Of the local tensor before each step.
    """

    steps: tuple[Step, ...]
    mesh: SpatialMesh
    fill: float
    received: list[list[Tensor]]
    shapes: list[torch.Size]

    @classmethod
    def exchange(
        cls, band: Tensor, steps: tuple[Step, ...], mesh: SpatialMesh, fill: float
    ) -> tuple[Rows, Tensor]:
        """Fetch rows; returns them and the band widened by them."""
        rows = cls(steps, mesh, fill, [], [])
        for step in steps:
            rows.shapes.append(band.shape)
            if step.bounds is None:
                band = take_rows(band, step.dim, step.rows[mesh.ranks[step.axis]], fill)
                rows.received.append([])
            elif step.fetch(fill).is_local():
                rows.received.append([])
            else:
                axis, plan = mesh.axes[step.axis], step.fetch(fill)
                with axis.traffic.move():
                    received = Halos(band, plan, axis).wait()
                    rows.received.append(received)
                    band = assemble(band, received, plan, axis.rank)
        return rows, band

    def join(self, band: Tensor) -> Tensor:
        """Return the widened band again, without communication."""
        for step, received in zip(self.steps, self.received, strict=True):
            rank = self.mesh.ranks[step.axis]
            if step.bounds is None:
                band = take_rows(band, step.dim, step.rows[rank], self.fill)
            elif not step.fetch(self.fill).is_local():
                with self.mesh.axes[step.axis].traffic.move():
                    band = assemble(band, received, step.fetch(self.fill), rank)
        return band

    def start_return(self, gradient: Tensor, owned: bool = False) -> Callable[[], Tensor]:
        """Begin the adjoint of `exchange`; the function returned waits for the gradient of the band.

        Args:
            gradient: Of the widened band.
            owned: Whether it is the caller's alone, and may be changed.
        """
        steps = list(zip(self.steps, self.shapes, strict=True))
        while steps and self._is_local(steps[-1][0]):
            steps.pop()
        if not steps:
            return lambda: gradient
        step, shape = steps.pop()
        if step.bounds is None:
            started = _put_rows(gradient, step.dim, step.rows[self.mesh.ranks[step.axis]], shape)
            return lambda: self._finish_return(started, steps)
        axis = self.mesh.axes[step.axis]
        with axis.traffic.move():
            returned = ReturnedRows(gradient, shape, step.fetch(self.fill), axis, owned)

        def finish() -> Tensor:
            with axis.traffic.move():
                rows = returned.wait()
            return self._finish_return(rows, steps)

        return finish

    def _finish_return(self, gradient: Tensor, steps: list[tuple[Step, torch.Size]]) -> Tensor:
        """Give back what the steps before the last one have fetched."""
        earlier = Rows(tuple(s for s, _ in steps), self.mesh, self.fill, [], [shape for _, shape in steps])
        return earlier.start_return(gradient, owned=True)()

    def _is_local(self, step: Step) -> bool:
        return step.bounds is not None and step.fetch(self.fill).is_local()

    def give_back(self, gradient: Tensor, owned: bool = False) -> Tensor:
        """Return the gradient of the band from that of the widened band: the adjoint of `exchange`."""
        return self.start_return(gradient, owned)()


def _put_rows(gradient: Tensor, dim: int, rows: Range, shape: torch.Size) -> Tensor:
    """Return the adjoint of `take_rows`."""
    whole = gradient.new_zeros(shape)
    start, stop = max(0, rows[0]), min(shape[dim], rows[1])
    if start < stop:
        whole.narrow(dim, start, stop - start).copy_(gradient.narrow(dim, start - rows[0], stop - start))
    return whole


class _Widen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, band: Tensor, steps: tuple[Step, ...], mesh: SpatialMesh, fill: float) -> Tensor:
        ctx.rows, widened = Rows.exchange(band, steps, mesh, fill)
        ctx.rows.received = []  # backward needs the geometry only
        return widened

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.rows.give_back(gradients[0]), None, None, None


def lowest(dtype: torch.dtype) -> float:
    """Return what is no larger than any number of a type: what pads a map of which the largest are taken."""
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def widen(plan: WindowPlan, fill: float) -> Tensor:
    """Return the local tensor with all the rows that this worker needs.

    Communication:
        Halos, dim by dim: those of the second dim hold the corners.
    """
    if plan.is_local:
        return plan.x.local
    widened: Tensor = _Widen.apply(plan.x.local, plan.steps, plan.x.mesh, fill)
    return widened
