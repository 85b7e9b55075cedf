"""Images that lie in their files turned or mirrored (the tag Orientation): regions of the upright image as they lie there.

======  =========================  =====================================
number  from the file to upright   as steps
======  =========================  =====================================
2       mirrored left to right     columns turned round
3       turned by half             rows and columns turned round
4       mirrored top to bottom     rows turned round
5       mirrored at the diagonal   exchanged
6       turned right               exchanged, columns turned round
7       mirrored at the other      exchanged, rows and columns turned round
8       turned left                exchanged, rows turned round
======  =========================  =====================================

Shapes: ``C`` bands, ``H`` rows, ``W`` columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ziggurat.data.extents import Extent, Region

# of each orientation: are rows and columns exchanged; then, are rows, are columns turned round
_STEPS = {
    1: (False, False, False), 2: (False, False, True), 3: (False, True, True), 4: (False, True, False),
    5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """How an image of a file becomes upright.

    Attributes:
        orientation: 1 to 8; others stand for 1.
    """

    orientation: int = 1

    @property
    def _steps(self) -> tuple[bool, bool, bool]:
        return _STEPS.get(self.orientation, _STEPS[1])

    def extent(self, stored: Extent) -> Extent:
        """Return the upright extent of one in the file, or the other way round.

        Example:
            >>> Turn(6).extent((20, 30)), Turn(3).extent((20, 30))
            ((30, 20), (20, 30))
        """
        return (stored[1], stored[0]) if self._steps[0] else (stored[0], stored[1])

    def stored(self, region: Region, stored: Extent) -> Region:
        """Return where a region of the upright image lies in the file, whose extent is `stored`.

        Example:
            >>> Turn(6).stored(Region((0, 0), (5, 2)), (20, 30))
            Region(start=(18, 0), size=(2, 5))
        """
        are_exchanged, *turned_round = self._steps
        starts = [
            size - end if is_turned else start
            for start, end, size, is_turned in zip(
                region.start, region.end, self.extent(stored), turned_round, strict=True
            )
        ]
        found = Region(tuple(starts), region.size)
        return Region(found.start[::-1], found.size[::-1]) if are_exchanged else found

    def upright(self, samples_CHW: np.ndarray) -> np.ndarray:
        """Return samples as they lie in the file, turned upright."""
        are_exchanged, rows, columns = self._steps
        turned = samples_CHW.swapaxes(-1, -2) if are_exchanged else samples_CHW
        turned = turned[..., ::-1, :] if rows else turned
        return turned[..., ::-1] if columns else turned

    def transform(self, stored: tuple[float, ...], extent: Extent) -> tuple[float, ...]:
        """Return the transform of the upright image (see `Georeference`) from that of the file.

        Args:
            stored: Of the image as it lies in the file.
            extent: Rows and columns, upright.

        Example:
            >>> Turn(3).transform((1, 0, 100, 0, -1, 200), (20, 30))
            (-1, 0, 130, 0, 1, 180)
        """
        a, b, c, d, e, f = stored
        are_exchanged, rows, columns = self._steps
        if are_exchanged:
            a, b, d, e = b, a, e, d
        if columns:
            a, c, d, f = -a, c + a * extent[1], -d, f + d * extent[1]
        if rows:
            b, c, e, f = -b, c + b * extent[0], -e, f + e * extent[0]
        return a, b, c, d, e, f
