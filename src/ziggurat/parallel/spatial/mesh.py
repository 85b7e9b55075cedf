"""The spatial axes of the mesh: where extents are cut, what that has cost, and how workers are arranged in a grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.parallel.collectives.observer import Observer
from ziggurat.parallel.collectives.pieces import add_up_in_pieces
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.frames import known_layer, line_of_network
from ziggurat.parallel.spatial.axis import Axis
from ziggurat.parallel.spatial.geometry import partition
from ziggurat.parallel.spatial.layout import Factor
from ziggurat.parallel.spatial.sums import reduce_over
from ziggurat.torch_internals.default_group import default_group_hidden

MIN_ROWS = 2  # an extent is cut while every worker has at least so many rows of it


REMEDY = "run the model without sp, replace the layer, or declare the operation with ziggurat.parallel.spatial.declare"


class UnsupportedOperation(UserError):  # noqa: N818 - reads as what happened
    """An operation of no declared kind, or one that cannot be computed on bands.

    Attributes:
        operation: Its name.
        layer: The layer that uses it, as far as is known.
        reason: Why it cannot be computed.
        remedy: What to do about it.
        line: The line of the network's code that uses it, as ``file:line``; empty where none is known.
    """

    def __init__(self, operation: str, layer: str, reason: str, remedy: str = REMEDY, line: str = "") -> None:
        place = f"the layer '{layer}' ({line})" if line else f"the layer '{layer}'"
        super().__init__(f"{operation} in {place} cannot run on bands of an image: {reason}; {remedy}")
        self.operation, self.layer, self.reason = operation, layer, reason
        self.remedy, self.line = remedy, line

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        """Travel between processes."""
        return type(self), (self.operation, self.layer, self.reason, self.remedy, self.line)


@dataclass
class SpatialMesh:
    """The spatial axes of the mesh, and what they have cost.

    Attributes:
        axes: At most one for each spatial dim.
        min_rows: The apex: an extent that gives a worker fewer rows is gathered, and computed by every worker.
        names: Name of each module of the model, by its ``id``, for messages and reports.
        parameters: Of the model; a backward pass from a spatial tensor leaves the whole's gradient in them.
        gathers: Bytes that this worker has received for each layer and operation that had to gather.
        apex: The same, for levels that are too small to cut.
        running: The context in which backward runs.
        in_hook: Whether a hook on a gradient is being called.
    """

    axes: tuple[Axis, ...]
    min_rows: int = MIN_ROWS
    names: dict[int, str] = field(default_factory=dict)
    parameters: list[nn.Parameter] = field(default_factory=list)
    gathers: Counter[tuple[str, str]] = field(default_factory=Counter)
    apex: Counter[tuple[str, str]] = field(default_factory=Counter)
    running: Callable[[], AbstractContextManager[Any]] = default_group_hidden
    in_hook: bool = False

    @property
    def ranks(self) -> tuple[int, ...]:
        """This worker's number along each axis."""
        return tuple(axis.rank for axis in self.axes)

    @property
    def num_workers(self) -> int:
        """Workers of all axes."""
        count = 1
        for axis in self.axes:
            count *= axis.size
        return count

    @property
    def observer(self) -> Observer | None:
        """Who is told of what these workers do; None in a real run."""
        return self.axes[0].workers.observer if self.axes else None

    def is_cut(self, extent: int, axis: int) -> bool:
        """Whether an extent is cut: a rule of the extent alone, the same for every operation."""
        return extent >= self.axes[axis].size * self.min_rows

    def factor(self, extent: int, axis: int | None) -> Factor:
        """Return a factor with the bounds that the extent has by the rule."""
        if axis is None:
            return Factor(extent)
        bounds = partition(extent, self.axes[axis].size) if self.is_cut(extent, axis) else None
        return Factor(extent, axis, bounds)

    def layer(self) -> str:
        """Return the name of the layer that is being computed, as far as the call stack tells."""
        return known_layer(self.names)

    def start_backward(self, loss: Tensor, retain_graph: bool | None = None) -> None:
        """Run backward from a number that every worker has, and add the gradient to that of every parameter.

        Communication:
            One all-reduce of all gradients for each axis.
        """
        before = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        with self.running():
            (loss / self.num_workers).backward(retain_graph=retain_graph)
        self.sum_gradients()
        for parameter, old in zip(self.parameters, before, strict=True):
            if old is not None:
                parameter.grad = old if parameter.grad is None else old.add_(parameter.grad)

    def sum_gradients(self) -> None:
        """Replace each parameter's gradient, of which every worker has a part, by the sum of the parts."""

        def add_up(part: Tensor) -> Tensor:
            for axis in self.axes:
                part = reduce_over(part, axis)
            return part

        add_up_in_pieces((p.grad for p in self.parameters if p.grad is not None), add_up)

    def unsupported(self, operation: str, reason: str, remedy: str = REMEDY) -> UnsupportedOperation:
        """Return the error for an operation, with the layer, the line of the network's code and the remedy."""
        return UnsupportedOperation(operation, self.layer(), reason, remedy, line_of_network())


def spatial_mesh(workers: Workers, degrees: tuple[int, ...], min_rows: int = MIN_ROWS) -> SpatialMesh:
    """Arrange workers in a grid over the spatial dims.

    Args:
        workers: As many as the product of the degrees, row by row of the grid.
        degrees: Workers along each spatial dim: ``(2,)`` cuts rows, ``(1, 2)`` columns, ``(2, 2)`` makes tiles.
        min_rows: Fewest rows of a worker, see `SpatialMesh`.

    Raises:
        ValueError: If the number of workers is not the product.

    Communication:
        The workers of each line meet to make its process group, which `Workers.close` of the workers destroys.
    """
    count = 1
    for degree in degrees:
        count *= degree
    if count != workers.size:
        raise ValueError(f"the degrees {degrees} need {count} workers: got {workers.size}")
    axes = []
    stride = workers.size
    for place, degree in enumerate(degrees):
        stride //= degree
        if degree > 1:
            axes.append(Axis(_line(workers, degree, stride), place))
    return SpatialMesh(tuple(axes), min_rows)


def _line(workers: Workers, degree: int, stride: int) -> Workers:
    """Return the workers of one axis that this worker is among."""
    if degree == workers.size:
        return workers
    first = workers.rank - workers.rank // stride % degree * stride
    return workers.subgroup([first + stride * number for number in range(degree)])
