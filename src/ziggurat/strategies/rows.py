"""A sharded optimizer (ZeRO, stage 1): each worker of dp updates its rows of every weight, and keeps moments of these alone.

    worker 0   gradient of rows 0  -->  moments 0, rows 0 of the weights  --+-->  all weights
    worker 1   gradient of rows 1  -->  moments 1, rows 1 of the weights  --+-->  all weights

The gradient's sum stops at each worker's slice, which is its rows of all parameters, and the weights are shared in its place: the
bytes of dp, and its bits, as an optimizer changes each element by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ziggurat.parallel.collectives.canonical import partition
from ziggurat.parallel.collectives.gradients import GradientSum
from ziggurat.parallel.collectives.pieces import PartSum
from ziggurat.parallel.collectives.sliced import SlicedSum
from ziggurat.parallel.collectives.wire import FP32, Wire
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.boxes import Box
from ziggurat.strategies.layout import Boxes, Layout, Placement
from ziggurat.strategies.plan import Plan
from ziggurat.strategies.registry import STRATEGIES
from ziggurat.strategies.sums import Section, Sums

SETTING = "plan.shard_optimizer"


def sharding_fault(plan: Plan) -> str | None:
    """Return why a plan does not go with a sharded optimizer; None if it does, or has one worker."""
    others = [axis for axis in plan.degrees if not STRATEGIES[axis].goes_with_rows]
    if not others:
        return None
    known = [axis for axis, strategy in STRATEGIES.items() if strategy.goes_with_rows]
    return (
        f"{SETTING} keeps a part of the optimizer's moments on each worker that has whole weights: it goes with {' and '.join(known)}, "
        f"not with {' and '.join(others)}; got the plan {plan}"
    )


@dataclass(frozen=True)
class Rows:
    """How a parameter is cut into pieces that follow one another in memory.

    Attributes:
        shape: Of the parameter.
        dim: The outermost in memory of those that have more than one index; None of a lone number.
        counts: Rows of each worker, in order of rank.
    """

    shape: tuple[int, ...]
    dim: int | None
    counts: tuple[int, ...]

    @classmethod
    def of(cls, parameter: Tensor, size: int, block: int = 1) -> Rows:
        """Return the rows of a parameter without gaps in memory, as even as possible over workers.

        Args:
            parameter: Whose rows.
            size: Workers.
            block: So many neighbours in memory have one worker: pieces begin at multiples of it.

        Example:
            >>> Rows.of(torch.empty(5, 3), 2).counts, Rows.of(torch.empty(100, 8), 3, block=32).counts
            ((3, 2), (36, 32, 32))
        """
        shape = tuple(parameter.shape)
        dims = [dim for dim, extent in enumerate(shape) if extent > 1] or range(min(1, len(shape)))
        dim = max(dims, key=parameter.stride, default=None)
        count = 1 if dim is None else shape[dim]
        together = block // math.gcd(
            block, torch.Size(shape).numel() // max(1, count)
        )  # rows that are whole blocks
        parts = partition(-(-count // together), size)
        counts = [min(count, part.stop * together) - min(count, part.start * together) for part in parts]
        return cls(shape, dim, tuple(counts))

    def sizes(self) -> list[int]:
        """Return the elements of each worker's piece."""
        row = torch.Size(self.shape).numel() // (1 if self.dim is None else max(1, self.shape[self.dim]))
        return [count * row for count in self.counts]

    def boxes(self) -> tuple[Boxes, ...]:
        """Return the box of each worker's piece; none of a worker that has none."""
        whole, starts = Box.of(self.shape), itertools.accumulate(self.counts, initial=0)
        if self.dim is None:
            return tuple((whole,) if count else () for count in self.counts)
        dim = self.dim
        return tuple(
            (whole.narrow(dim, first, count),) if count else ()
            for first, count in zip(starts, self.counts, strict=False)
        )


class OptimizerRows:
    """This worker's rows of each trained parameter.

    Args:
        parameters: All of a model's, by name, whole; made to have no gaps in memory.
        data: The workers of dp, several.
        block: Neighbours in memory that are one worker's, as gradients travel together.

    Attributes:
        parts: Of each trained parameter this worker's rows, in its memory; without memory where there are none.
        layout: Where gradients and moments lie.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], data: Workers, block: int = 1) -> None:
        self.data = data
        self.rows: dict[int, Rows] = {}
        self.parts: dict[str, nn.Parameter] = {}
        placements = {}
        for name, parameter in parameters.items():
            shape = tuple(parameter.shape)
            if not parameter.requires_grad:
                placements[name] = Placement(shape, ((Box.of(shape),),) * data.size)
                continue
            parameter.data = torch.empty_like(parameter).copy_(parameter.detach())
            rows = self.rows[id(parameter)] = Rows.of(parameter, data.size, block)
            placements[name] = Placement(shape, rows.boxes())
            boxes = rows.boxes()[data.rank]
            mine = boxes[0].of_tensor(parameter.detach()) if boxes else torch.empty(0, device="meta")
            self.parts[name] = nn.Parameter(mine)
        self.layout = Layout(placements, data)


class RowSums(Sums):
    """The canonical sums, of whose gradients each worker has its rows.

    Args:
        sections: The model, as one.
        data: The workers that take other microbatches.
        parts: As `Sums` has them.
        rows: Which rows.
        wire: What gradients travel as; rows are cut between its blocks.
    """

    def __init__(
        self, sections: Sequence[Section], data: Workers, parts: PartSum | None, rows: OptimizerRows,
        wire: Wire = FP32,
    ) -> None:  # fmt: skip
        self.rows = rows
        super().__init__(sections, data, parts, wire)

    def make_gradients(self, section: Section, data: Workers, parts: PartSum | None) -> GradientSum:
        """Return what sums the gradients."""
        self.sliced = SlicedSum(
            section.parameters.values(),
            data,
            lambda p: self.rows.rows[id(p)].sizes(),
            parts=parts,
            wire=self.wire,
            part=0 if parts is None else parts.workers.rank,
        )
        return self.sliced

    def finish(self) -> dict[str, Tensor]:
        """Return the gradient of this worker's rows of each parameter, of the global batch."""
        names = {id(parameter): name for name, parameter in self.sections[0].parameters.items()}
        found = {}
        for parameter, gradient in self.sliced.pieces():
            part = self.rows.parts[names[id(parameter)]]
            if not part.is_meta:
                found[names[id(parameter)]] = gradient.as_strided(part.shape, part.stride())
        return found

    def assign(self, gradients: Mapping[str, Tensor]) -> None:
        """Set the gradients of the rows."""
        for name, part in self.rows.parts.items():
            part.grad = gradients.get(name)

    def share(self) -> None:
        """Give all workers this worker's rows of the weights."""
        self.sliced.share()

    def abandon(self) -> None:
        """Go back to the running statistics from before the step, and share nothing."""
        super().abandon()
        self.sliced.leave()
