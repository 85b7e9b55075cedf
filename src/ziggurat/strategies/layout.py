"""The layout: where each tensor of a run's state lies, and what follows from that alone.

Each worker holds some boxes of each whole tensor: all of it (dp, lp, sp), nothing (another stage's, under pp), a slice of one dim
(tp), some rows (fsdp), or what is left of a slice after its rows are spread (fsdp and tp). Everything else follows:

    who answers for an element    the first worker that holds it
    norm                          each adds up the rows that it answers for, and all add these in one order
    first bad tensor              the first by name, on whichever worker
    gathering                     a worker answers with its elements to the one that asks
    a checkpoint's chunks         each worker writes what it answers for

Nothing here knows of axes, models or optimizers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.boxes import Box, subtract
from ziggurat.strategies.squares import fold, row_squares

Boxes = tuple[Box, ...]
Held = Tensor | tuple[Tensor, ...]  # of a tensor: what this worker has of it, a tensor for each of its boxes


@dataclass(frozen=True)
class Placement:
    """Where one tensor lies.

    Attributes:
        shape: Of the whole.
        boxes: Of each worker, in order of rank: those that it holds, none in common with each other.

    Raises:
        ValueError: If an element lies nowhere.
    """

    shape: tuple[int, ...]
    boxes: tuple[Boxes, ...]

    def __post_init__(self) -> None:
        left = [Box.of(self.shape)]
        for boxes in dict.fromkeys(self.boxes):
            left = [part for one in left for part in subtract(one, boxes)]
        if any(box.numel for box in left):
            raise ValueError(f"no worker holds {left} of a tensor of shape {self.shape}")

    @property
    def is_whole(self) -> bool:
        """Whether every worker holds the whole."""
        return all(boxes == (Box.of(self.shape),) for boxes in self.boxes)

    @cache  # noqa: B019 - a frozen value; as many as a network has shapes
    def owned(self, rank: int) -> tuple[tuple[int, Box], ...]:
        """Return what a worker answers for: boxes, each with the number of the box of its own that it lies in."""
        mine = tuple(enumerate(self.boxes[rank]))
        if not Box.of(self.shape).numel:  # there is nothing, and the first worker says so
            return () if any(self.boxes[:rank]) else mine
        before = [box for boxes in dict.fromkeys(self.boxes[:rank]) for box in boxes]
        return tuple((number, part) for number, box in mine for part in subtract(box, before))


class Chunk(NamedTuple):
    """What one worker writes of a tensor.

    Attributes:
        tensor: Some elements.
        offsets: Where they begin in the whole, along each dim.
    """

    tensor: Tensor
    offsets: tuple[int, ...]

    @classmethod
    def whole(cls, tensor: Tensor) -> Chunk:
        """Return a chunk that is the whole tensor."""
        return cls(tensor, (0,) * tensor.dim())


class Layout(Mapping[str, Placement]):
    """The placements of named tensors over some workers.

    Args:
        placements: By name, the same on every worker.
        workers: Those that together hold one copy of each tensor at least.
    """

    def __init__(self, placements: Mapping[str, Placement], workers: Workers) -> None:
        self._placements, self.workers = dict(placements), workers

    @classmethod
    def agree(cls, mine: Mapping[str, tuple[tuple[int, ...], Boxes]], workers: Workers) -> Layout:
        """Return the layout of which each worker knows its own boxes.

        Args:
            mine: By name the shape of the whole, and this worker's boxes; the same names on every worker.
            workers: All of them call this.

        Communication:
            One gather of the boxes.
        """
        of_all = workers.gather({name: boxes for name, (_, boxes) in mine.items()})
        known: dict[Placement, Placement] = {}  # most tensors of a shape lie alike
        placements = {}
        for name, (shape, _) in mine.items():
            placement = Placement(shape, tuple(boxes[name] for boxes in of_all))
            placements[name] = known.setdefault(placement, placement)
        return cls(placements, workers)

    def __getitem__(self, name: str) -> Placement:
        return self._placements[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._placements)

    def __len__(self) -> int:
        return len(self._placements)

    @property
    def is_whole(self) -> bool:
        """Whether every worker holds the whole of every tensor."""
        return all(placement.is_whole for placement in self.values())

    def mine(self, name: str) -> Boxes:
        """Return this worker's boxes of a tensor."""
        return self[name].boxes[self.workers.rank]

    def owned(self, name: str, held: Held) -> list[Chunk]:
        """Return views of the elements of a tensor for which this worker answers.

        Args:
            name: Of the tensor.
            held: What this worker has of it.
        """
        parts = _parts(held)
        boxes = self.mine(name)
        return [
            Chunk(
                parts[number][box.within(boxes[number])] if box != boxes[number] else parts[number], box.start
            )
            for number, box in self[name].owned(self.workers.rank)
        ]

    def norm(self, tensors: Mapping[str, Held]) -> Tensor:
        """Return the Euclidean norm of all tensors together, float64, the same on every worker.

        The same bits whichever rows (indices of dim 0) lie where; where a row is divided, the same to rounding.

        Args:
            tensors: By name what this worker has of each; the same names on every worker, nothing as an empty tuple.

        Communication:
            None where every worker has everything; else one all-reduce of a number for each row.
        """
        counts = [self[name].shape[0] if self[name].shape else 1 for name in tensors]
        squares = torch.zeros(sum(counts), dtype=torch.float64, device=self.workers.device)
        is_whole = self.is_whole
        mine = [
            (rows, chunk)
            for rows, (name, held) in zip(squares.split(counts), tensors.items(), strict=True)
            for chunk in (map(Chunk.whole, _parts(held)) if is_whole else self.owned(name, held))
        ]
        found = row_squares(chunk.tensor for _, chunk in mine)
        for (rows, (_, offsets)), sums in zip(mine, found, strict=True):
            first = offsets[0] if offsets else 0
            rows[first : first + len(sums)].add_(sums)
        if not is_whole:
            self.workers.add_up(squares)  # a row that lies on one worker is added to zeros
        return fold(squares).sum().sqrt()

    def first_bad(self, tensors: Mapping[str, Held]) -> str:
        """Return the first name, in the layout's order, of a tensor with an element that is not finite; or nothing.

        Communication:
            None where every worker has everything; else one gather of a name.
        """
        bad = {
            name for name, held in tensors.items() if not all(part.isfinite().all() for part in _parts(held))
        }
        mine = next((name for name in self if name in bad), "")
        found = {mine} if self.is_whole else set(self.workers.gather(mine))
        return next((name for name in self if name in found), "")

    def gather(self, tensors: Mapping[str, Held], to: int = 0) -> Iterator[tuple[str, Tensor | None]]:
        """Yield each tensor by its name: the whole on one worker, elsewhere None; all workers walk through.

        Args:
            tensors: By name what this worker has of each; the same names on every worker, nothing as an empty tuple.
            to: The worker that receives.

        Placement:
            What the receiving worker has whole already is not copied.

        Communication:
            One gather of the tensors' types; then each element that the receiver has not is sent once, by the worker that
            answers for it.
        """
        is_here = self.workers.rank == to
        types = {name: parts[0].dtype for name, held in tensors.items() if (parts := _parts(held))}
        dtypes = {name: dtype for part in self.workers.gather(types) for name, dtype in part.items()}
        for name, held in tensors.items():
            placement, parts = self[name], _parts(held)
            if placement.boxes[to] == (Box.of(placement.shape),):
                yield name, parts[0] if is_here else None
                continue
            have = placement.boxes[to]
            wanted = [
                (source, box)
                for source in range(self.workers.size)
                if source != to
                for _, one in placement.owned(source)
                for box in subtract(one, have)
            ]
            dtype, whole = dtypes[name], None
            if is_here:
                whole = torch.empty(placement.shape, dtype=dtype, device=self.workers.device)
                for part, box in zip(parts, have, strict=True):
                    box.of_tensor(whole).copy_(part)
            for source, box in wanted:
                if is_here:
                    assert whole is not None
                    room = torch.empty(box.shape, dtype=dtype, device=self.workers.device)
                    self.workers.start_receive(room, source).wait()
                    box.of_tensor(whole).copy_(room)
                elif self.workers.rank == source:
                    outer = next(n for n, one in enumerate(self.mine(name)) if one.intersect(box) == box)
                    view = parts[outer][box.within(self.mine(name)[outer])]
                    self.workers.start_send(view.to(self.workers.device).contiguous(), to).wait()
            yield name, whole


def _parts(held: Held) -> tuple[Tensor, ...]:
    return (held,) if isinstance(held, Tensor) else held
