"""Polygons around the areas of a mask of any size: rows come one after the other, and an area leaves as soon as it has ended.

Borders are walked with their area on the right hand (y downwards). Between two rows they run along horizontal *segments*; from each end of a
segment a border goes on vertically, up or down::

      up      1 1 1 0 0            the border of 1 comes down at x = 3, and
              -----+-----  y       walks to the left to x = 1, where it goes
      down    1 0 0 0 0            on downwards: a segment of the area above

So a border is a *chain* of corners, of which one end waits for rows below (``_ends``, by its x, where it walks down) and its beginning too
(``_starts``, where it walks up); a segment begins, lengthens, joins or closes chains. Pixels that touch by a side are one area; which runs of
pixels are is kept in a union-find. Memory is that of a row, and of the corners of those areas that the row meets, eight bytes each.

References:
    Capson, An improved algorithm for the sequential extraction of boundaries from a raster scan, 1984 (the walk; areas and holes are put together here).
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ziggurat.inference.outputs.polygons import Ring

OUTSIDE = -1  # label of what lies around the mask


class Area(NamedTuple):
    """An area of pixels that touch by their sides.

    Attributes:
        label: Of its pixels.
        rings: Around it, and around its holes; corners of pixels.
    """

    label: int
    rings: list[Ring]


def trace_areas(bands: Iterable[np.ndarray], skipped: Collection[int] = ()) -> Iterator[Area]:
    """Yield the areas of a mask, each as soon as its last row has come.

    Args:
        bands: Rows of labels from above, uint8, shapes ``(rows, W)``.
        skipped: Labels whose areas are not wanted.
    """
    tracer: _Tracer | None = None
    for band in bands:
        for row in np.pad(band.astype(np.int16), ((0, 0), (1, 1)), constant_values=OUTSIDE):
            if tracer is None:
                tracer = _Tracer(len(row), skipped)
            yield from tracer.add(row)
    if tracer is not None:
        yield from tracer.add(np.full_like(tracer.up, OUTSIDE))


class _Chain:
    """Part of a border.

    Attributes:
        points: x and y of each corner, in the order of the walk.
        start: Where it comes from below.
        end: Where it goes on downwards.
        area: Number of its area, or of one that is part of it.
    """

    __slots__ = ("area", "end", "points", "start")

    def __init__(self, area: int) -> None:
        self.points, self.area, self.start, self.end = array("i"), area, 0, 0


class _Areas:
    """Which areas are one, with their closed borders."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}
        self._members: dict[int, list[int]] = {}
        self._rings: dict[int, list[array[int]]] = {}
        self._next = 0

    def make(self) -> int:
        """Return the number of a new area."""
        number = self._next
        self._next += 1
        self._parents[number], self._members[number], self._rings[number] = number, [number], []
        return number

    def find(self, number: int) -> int:
        """Return the number that stands for an area."""
        parents, root = self._parents, number
        while parents[root] != root:
            root = parents[root]
        while parents[number] != root:
            parents[number], number = root, parents[number]
        return root

    def join(self, one: int, other: int) -> None:
        """Let two areas be one."""
        one, other = self.find(one), self.find(other)
        if one == other:
            return
        if len(self._members[one]) < len(self._members[other]):
            one, other = other, one
        self._parents[other] = one
        self._members[one] += self._members.pop(other)
        self._rings[one] += self._rings.pop(other)

    def close(self, number: int, ring: array[int]) -> None:
        """Add a border that is closed."""
        self._rings[self.find(number)].append(ring)

    def take(self, root: int) -> list[array[int]]:
        """Return the borders of an area that has ended, and forget it."""
        for number in self._members.pop(root):
            del self._parents[number]
        return self._rings.pop(root)


class _Tracer:
    """Follows the borders of areas from row to row.

    Args:
        width: Of a row, with a pixel of `OUTSIDE` at both ends.
        skipped: Labels that are not wanted.

    Attributes:
        up: The last row.
    """

    def __init__(self, width: int, skipped: Collection[int]) -> None:
        self.up = np.full(width, OUTSIDE, dtype=np.int16)
        self._wanted = np.ones(257, dtype=bool)
        self._wanted[[OUTSIDE, *skipped]] = False  # the last one is found by -1
        self._y = 0
        self._areas = _Areas()
        self._run_starts, self._run_areas = np.zeros(1, dtype=np.int64), [OUTSIDE]  # of `up`
        self._starts: dict[int, _Chain] = {}
        self._ends: dict[int, _Chain] = {}
        self._new_starts: dict[int, _Chain] = {}
        self._new_ends: dict[int, _Chain] = {}

    def add(self, down: np.ndarray) -> Iterator[Area]:
        """Take the next row, and yield the areas that ended with the one before."""
        up, y = self.up, self._y
        self._y += 1
        if np.array_equal(up, down):
            return
        areas, starts = self._areas, np.concatenate([[0], np.flatnonzero(down[1:] != down[:-1]) + 1])
        run_areas = self._connect(down, starts)
        differs = up != down
        for labels, is_below, run_starts, of_run in (
            (down, True, starts, run_areas),
            (up, False, self._run_starts, self._run_areas),
        ):
            inside = differs & self._wanted[labels]
            changes = labels[1:] != labels[:-1]
            first = np.flatnonzero(inside[1:] & (~inside[:-1] | changes)) + 1
            last = np.flatnonzero(inside[:-1] & (~inside[1:] | changes)) + 1
            goes_on = labels[first - 1] == labels[first], labels[last] == labels[last - 1]
            runs = np.searchsorted(run_starts, first, side="right") - 1
            for a, b, left, right, run in zip(
                (first - 1).tolist(), (last - 1).tolist(), goes_on[0].tolist(), goes_on[1].tolist(), runs.tolist(), strict=True
            ):  # fmt: skip
                if is_below:
                    self._walk(y, (a, left), (b, right), of_run[run])
                else:
                    self._walk(y, (b, not right), (a, not left), of_run[run])
        self._starts |= self._new_starts
        self._ends |= self._new_ends
        self._new_starts, self._new_ends = {}, {}
        alive = {areas.find(area) for area in run_areas if area != OUTSIDE}
        ended = {areas.find(area): place for place, area in enumerate(self._run_areas) if area != OUTSIDE}
        before = self._run_starts
        self.up, self._run_starts, self._run_areas = down, starts, run_areas
        for root, place in ended.items():
            if root not in alive:
                yield Area(int(up[before[place]]), _polygon(areas.take(root)))

    def _connect(self, down: np.ndarray, starts: np.ndarray) -> list[int]:
        """Return the area of each run of a row; `OUTSIDE` of those that are not wanted."""
        areas, up = self._areas, self.up
        found = [OUTSIDE] * len(starts)
        places = np.union1d(self._run_starts, starts)
        same = (up[places] == down[places]) & self._wanted[down[places]]
        above = np.searchsorted(self._run_starts, places[same], side="right") - 1
        below = np.searchsorted(starts, places[same], side="right") - 1
        for u, d in zip(above.tolist(), below.tolist(), strict=True):
            if found[d] == OUTSIDE:
                found[d] = self._run_areas[u]
            else:
                areas.join(found[d], self._run_areas[u])
        for d in np.flatnonzero(self._wanted[down[starts]]).tolist():
            if found[d] == OUTSIDE:
                found[d] = areas.make()
        return found

    def _walk(self, y: int, begin: tuple[int, bool], end: tuple[int, bool], area: int) -> None:
        """Walk along a segment.

        Args:
            y: Of the segment.
            begin: x, and whether the border comes from above there.
            end: x, and whether it goes on upwards there.
            area: Whose border it is.
        """
        if begin[1]:
            chain = self._ends.pop(begin[0])
        else:
            chain = _Chain(area)
            chain.start = begin[0]
            self._new_starts[begin[0]] = chain
        chain.points.extend((begin[0], y, end[0], y))
        if not end[1]:
            chain.end = end[0]
            self._new_ends[end[0]] = chain
            return
        other = self._starts.pop(end[0])
        if other is chain:
            self._areas.close(area, chain.points)
        else:
            self._join(chain, other)

    def _join(self, chain: _Chain, other: _Chain) -> None:
        """Let a chain go on as another one."""
        if len(chain.points) >= len(other.points):
            chain.points.extend(other.points)
            chain.end = other.end
            ends = self._ends if self._ends.get(other.end) is other else self._new_ends
            ends[other.end] = chain
        else:
            other.points[0:0] = chain.points
            other.start = chain.start
            starts = self._starts if self._starts.get(chain.start) is chain else self._new_starts
            starts[chain.start] = other


def _polygon(borders: list[array[int]]) -> list[Ring]:
    """Return the rings of an area, the one around it first."""
    loops = [loop for border in borders for loop in _loops(border)]
    outer = max(range(len(loops)), key=lambda number: _twice_area(loops[number]))
    ordered = [loops[outer], *loops[:outer], *loops[outer + 1 :]]
    return [[(float(x), float(y)) for x, y in [*loop.tolist(), loop[0].tolist()]] for loop in ordered]


def _twice_area(loop: np.ndarray) -> int:
    x, y = loop.astype(np.int64).T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def _loops(border: array[int]) -> list[np.ndarray]:
    """Return a border as loops that meet no corner twice: where a hole touches another border by a corner, the walk passes there twice."""
    points = np.frombuffer(border, dtype=np.int32).reshape(-1, 2)
    keys = points[:, 0].astype(np.int64) << 32 | points[:, 1]
    if len(np.unique(keys)) == len(keys):
        return [points]
    found, path, places = [], list[int](), dict[int, int]()
    for number, key in enumerate(keys.tolist()):
        place = places.get(key)
        if place is not None:
            found.append(points[path[place:]])
            for gone in path[place:]:
                del places[int(keys[gone])]
            del path[place:]
        places[key] = len(path)
        path.append(number)
    return [points[path], *found]
