"""What becomes of a mask's areas before they are written as polygons: small ones left out, small holes closed, borders simplified.

Everything is measured in pixels of the image, on the area as the mask has it; so results depend on the mask alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from ziggurat.errors import UserError, nearest
from ziggurat.system.packages import extra_package

Ring = Sequence[tuple[float, float]]  # (x, y) of each corner; the last is the first


@dataclass(frozen=True)
class PolygonRules:
    """What is done to the areas of masks.

    Attributes:
        min_area: Areas of fewer pixels are left out.
        min_hole: Holes of fewer pixels are closed.
        simplify: How far in pixels a border may move for having fewer corners, nowhere more than twice as far; 0 follows each pixel.
    """

    min_area: float = 0.0
    min_hole: float = 0.0
    simplify: float = 0.0

    @classmethod
    def of(cls, given: Mapping[str, float | str]) -> PolygonRules:
        """Return rules by their names.

        Raises:
            UserError: Listing each name that is none, and each value that is no number from 0 on.

        Example:
            >>> PolygonRules.of({"min_area": "50"})
            PolygonRules(min_area=50.0, min_hole=0.0, simplify=0.0)
        """
        known, faults, values = [field.name for field in fields(cls)], [], {}
        for name, value in given.items():
            if name not in known:
                faults.append(f"--polygons has no '{name}': {nearest(name, known)}")
                continue
            try:
                values[name] = float(value)
            except ValueError:
                values[name] = math.nan
            if not 0 <= values[name] < math.inf:
                faults.append(f"--polygons takes numbers of pixels, 0 or more: got {name}={value}")
        if faults:
            raise UserError(faults)
        return cls(**values)

    def apply(self, rings: Sequence[Ring]) -> Sequence[Ring]:
        """Return what is left of an area.

        Args:
            rings: Around it, and around its holes.

        Returns:
            Rings as the argument has them; none if the area is left out.
        """
        if not self.min_area and not self.min_hole and not self.simplify:
            return rings
        outer, *holes = [abs(signed_area(ring)) for ring in rings]
        if outer - sum(holes) < self.min_area:
            return []
        kept = [
            rings[0],
            *(ring for ring, area in zip(rings[1:], holes, strict=True) if area >= self.min_hole),
        ]
        return _simplified(kept, self.simplify) if self.simplify else kept


def signed_area(ring: Ring) -> float:
    """Return the area within a ring, negative if it runs clockwise (y upwards).

    Example:
        >>> signed_area([(0, 0), (0, 2), (3, 2), (3, 0), (0, 0)])
        -6.0
    """
    x0, y0 = ring[0]  # seen from there, as places on the ground are large numbers
    corners = [(x - x0, y - y0) for x, y in ring]
    return sum(x * v - u * y for (x, y), (u, v) in itertools.pairwise(corners)) / 2


def _simplified(rings: Sequence[Ring], tolerance: float) -> list[Ring]:
    """Return rings with fewer corners, which neither cross nor vanish."""
    shapely = extra_package("shapely", "geo", "--polygons simplify")
    polygon = shapely.simplify(shapely.Polygon(rings[0], rings[1:]), tolerance, preserve_topology=True)
    return [list(ring.coords) for ring in (polygon.exterior, *polygon.interiors)]
