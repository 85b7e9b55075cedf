"""Suppression among very many boxes of one class: a box is compared with those near to it only.

Boxes are taken in blocks, the best first. Of a block go those that overlap a box that remains of the blocks before, then
those that overlap a better one of their own block: what remains is what comparing all with all leaves.

What remains so far lies in cells. A box of level `L` is at most ``2**L`` pixels wide and high, and lies in the cell of that
side that holds its first corner; so whatever meets a box ``x1..x2`` begins, of level `L`, in the columns::

    floor(x1 / 2**L) - 1  ...  floor(x2 / 2**L)

and rows likewise. Levels whose boxes are too small for the threshold are passed over: an IoU is at most the ratio of areas.
Time grows with the boxes and their neighbours, memory with the boxes alone.

Shapes: ``N`` boxes, ``K`` of them that remain, ``P`` pairs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

BLOCK = 2048  # boxes that are compared all with all
PAIRS = 1 << 20  # that are compared at once
CELL_LIMIT = 1 << 20  # cells along a dim: level and both numbers of a cell share 64 bits
WIDTH = 2 * CELL_LIMIT + 3  # numbers of cells, with one before the first
SMALLEST, LARGEST = -8, 128  # levels: of a 256th of a pixel, and of all that float32 holds


def suppress_crowd(boxes_N4: Tensor, scores_N: Tensor, threshold: float) -> Tensor:
    """Return the numbers of the boxes that remain, rising, as torchvision's `nms` finds them, int64, shape ``(K,)``.

    Args:
        boxes_N4: Corners in pixels, the best first, on the CPU, finite.
        scores_N: Falling.
        threshold: Largest IoU of two boxes that both remain.
    """
    kept: list[Tensor] = []
    grid = Cells.of(boxes_N4[:0])
    for block in torch.arange(len(boxes_N4)).split(BLOCK):
        alone = block[~grid.meets(boxes_N4[block], threshold)]
        remaining = alone[nms(boxes_N4[alone], scores_N[alone], threshold).sort().values]
        kept.append(remaining)
        grid = grid.with_boxes(boxes_N4[remaining])
    return torch.cat(kept) if kept else torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True)
class Cells:
    """Boxes by level and cell.

    Attributes:
        boxes_K4: In the order of their keys.
        keys_K: Of each box level, row and column of its cell in one number, rising.
        levels: Those that have boxes.
    """

    boxes_K4: Tensor
    keys_K: Tensor
    levels: tuple[int, ...]

    @classmethod
    def of(cls, boxes_K4: Tensor) -> Cells:
        """Put boxes into cells."""
        return cls(boxes_K4[:0], torch.zeros(0, dtype=torch.int64), ()).with_boxes(boxes_K4)

    def with_boxes(self, boxes_N4: Tensor) -> Cells:
        """Return the same with some more boxes."""
        level = _levels(boxes_N4)
        side = torch.exp2(level.double())
        column, row = (_cell(boxes_N4[:, dim], side) for dim in (0, 1))
        keys = torch.cat([self.keys_K, _key(level, row, column)])
        order = keys.argsort()
        levels = {*self.levels, *level.unique().tolist()}
        return Cells(torch.cat([self.boxes_K4, boxes_N4])[order], keys[order], tuple(sorted(levels)))

    def meets(self, boxes_N4: Tensor, threshold: float) -> Tensor:
        """Return which boxes have an IoU above the threshold with one of these, bool, shape ``(N,)``."""
        met = torch.zeros(len(boxes_N4), dtype=torch.bool)
        area_N = _areas(boxes_N4.double())
        for level in self.levels:
            # a little more than the ratio of areas allows, for what is rounded
            asked = ((4.0**level >= 0.99 * threshold * area_N) & ~met).nonzero().squeeze(1)
            self._meet_level(boxes_N4, asked, level, threshold, met)
        return met

    def _meet_level(self, boxes_N4: Tensor, asked: Tensor, level: int, threshold: float, met: Tensor) -> None:
        """Mark those of the boxes that are asked for that meet a box of a level."""
        box, first, last = self._runs(boxes_N4[asked], level)
        counts = last - first
        for start, stop in _portions(counts):
            run = torch.arange(start, stop).repeat_interleave(counts[start:stop])
            other = first[run] + _count_up(counts[start:stop])
            mine = asked[box[run]]
            above = _iou(boxes_N4[mine], self.boxes_K4[other]) > threshold
            met[mine[above]] = True

    def _runs(self, boxes_N4: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return runs of boxes of a level that some boxes may meet: whose each is, its first, and the one behind its last.

        There is one for each row of cells, as its columns follow each other; or the whole level, where a box reaches over more
        rows than that has boxes.
        """
        side = torch.tensor(2.0**level, dtype=torch.float64)
        left, top, right, bottom = (_cell(boxes_N4[:, dim], side) for dim in range(4))
        left, top = left - 1, top - 1
        begin, end = (
            int(torch.searchsorted(self.keys_K, (one - SMALLEST) * WIDTH**2)) for one in (level, level + 1)
        )
        rows = bottom - top + 1
        is_long = rows > end - begin
        rows[is_long] = 1
        box = torch.arange(len(boxes_N4)).repeat_interleave(rows)
        row = top[box] + _count_up(rows)
        number = torch.full_like(row, level)
        first = torch.searchsorted(self.keys_K, _key(number, row, left[box]))
        last = torch.searchsorted(self.keys_K, _key(number, row, right[box]), right=True)
        first[is_long[box]], last[is_long[box]] = begin, end
        return box, first, last


def _portions(counts: Tensor) -> list[tuple[int, int]]:
    """Cut runs into portions with about `PAIRS` pairs, or a single run."""
    bounds, total = [0], counts.cumsum(0)
    while bounds[-1] < len(counts):
        before = int(total[bounds[-1] - 1]) if bounds[-1] else 0
        end = int(torch.searchsorted(total, before + PAIRS, right=True))
        bounds.append(max(end, bounds[-1] + 1))
    return list(itertools.pairwise(bounds))


def _count_up(counts: Tensor) -> Tensor:
    """Return 0, 1, ... for each count, one after the other."""
    ends = counts.cumsum(0)
    return torch.arange(int(ends[-1]) if len(ends) else 0) - (ends - counts).repeat_interleave(counts)


def _levels(boxes_N4: Tensor) -> Tensor:
    sides = (boxes_N4[:, 2:] - boxes_N4[:, :2]).amax(dim=1) if len(boxes_N4) else boxes_N4[:, 0]
    return sides.double().clamp(min=2.0**SMALLEST).log2().ceil().clamp(max=LARGEST).long()


def _cell(values_N: Tensor, side: Tensor) -> Tensor:
    # cells far away share one number: too many are compared then, and none too few
    return (values_N.double() / side).floor().long().clamp(-CELL_LIMIT, CELL_LIMIT)


def _key(level: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return ((level - SMALLEST) * WIDTH + row + CELL_LIMIT + 1) * WIDTH + column + CELL_LIMIT + 1


def _areas(boxes_N4: Tensor) -> Tensor:
    return (boxes_N4[:, 2] - boxes_N4[:, 0]) * (boxes_N4[:, 3] - boxes_N4[:, 1])


def _iou(boxes_P4: Tensor, others_P4: Tensor) -> Tensor:
    """Return the IoU of each pair in float64 of what is computed in the boxes' type, as torchvision's `nms` does."""
    low = torch.maximum(boxes_P4[:, :2], others_P4[:, :2])
    high = torch.minimum(boxes_P4[:, 2:], others_P4[:, 2:])
    both = (high - low).clamp(min=0).prod(dim=1)
    return (both / (_areas(others_P4) + _areas(boxes_P4) - both)).double()
