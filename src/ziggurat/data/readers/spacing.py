"""How far the pixels of an image lie apart, on the ground or under a microscope, as its header says it.

``data.gsd`` counts in metres on the ground: the georeference gives the sides of a pixel in units of its CRS, which may be metres, feet or degrees, and need
not be true lengths: Web Mercator's metres are half as long in Oslo. They are measured at the middle of the image, on the ellipsoid; where they differ from the CRS's own by
less than one hundredth, as in UTM and the grids of countries, the CRS is taken at its word: pixels of 0.1 m are then of 0.1 m. ``data.mpp`` counts in microns, which
slides, OME-TIFF, OME-Zarr and ImageJ say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ziggurat.config import DataConfig
from ziggurat.data.extents import Extent
from ziggurat.data.readers.opened import Georeference, ImageInfo
from ziggurat.data.readers.places import info_of
from ziggurat.data.readers.registry import open_image_file
from ziggurat.errors import UserError
from ziggurat.system.packages import extra_package

Spacing = tuple[float, ...]  # between rows, between columns

MOST_ENLARGED = 32.0  # times: what is asked for more is a slip of the unit
_EQUAL = 0.01
_SHOWN = 20  # images of a kind that are named
_STEP = 500.0  # metres to both sides of the middle, over which lengths are measured
_DEGREES = 0.005  # about as far


class UnscaledError(UserError):
    """An image does not say how far its pixels lie apart, or cannot be resized to what is wanted."""


@dataclass(frozen=True)
class Scaling:
    """The resolution to which all images of a data set are resized.

    Attributes:
        setting: Which setting says it, and so in which unit.
        wanted: Metres on the ground, or microns, that a pixel is to span.
        keeps_unscaled: Whether images that do not say theirs are taken as they are; else they are refused.
    """

    setting: Literal["data.gsd", "data.mpp"]
    wanted: float
    keeps_unscaled: bool = False

    @classmethod
    def of(cls, config: DataConfig) -> Scaling | None:
        """Return what a config says; None where images keep their resolution, and no header needs to be read for it."""
        keeps = config.unscaled == "keep"
        if config.gsd:
            return cls("data.gsd", config.gsd, keeps)
        return cls("data.mpp", config.mpp, keeps) if config.mpp else None

    def __str__(self) -> str:
        return f"{self.setting}={self.wanted:g}"

    def spacing(self, path: Path) -> Spacing:
        """Return the distance of an image's rows and of its columns, in the unit of the setting, from its header.

        Raises:
            UnscaledError: If it does not say it, or to be resized makes no sense; `why` without the image's name.
            UserError: If the header cannot be read, or a package is missing.
        """
        if self.setting == "data.gsd":
            info = info_of(path)
        else:
            with open_image_file(path) as image:
                info = image.info
        found = self._spacing(info)
        for own, size in zip(found, info.extent, strict=True):
            if own > MOST_ENLARGED * self.wanted or own * size < self.wanted:
                unit = "m" if self.setting == "data.gsd" else "microns"
                shown = " x ".join(f"{side:.6g}" for side in reversed(found))
                raise UnscaledError(f"its pixels span {shown} {unit}, too far from {self}: check the unit")
        return found

    def _spacing(self, info: ImageInfo) -> Spacing:
        place, microns = info.georeference, info.microns_per_pixel
        if self.setting == "data.mpp":
            if microns is not None:
                return microns
            raise UnscaledError(
                "it lies on the ground, and does not say microns: data.gsd is for such images"
                if place is not None
                else "it does not say how many microns a pixel spans"
            )
        if place is not None:
            return ground_spacing(place, info.extent)
        raise UnscaledError(
            f"it says microns ({microns[1]:g} x {microns[0]:g} a pixel), and not metres on the ground: data.mpp is for such images"
            if microns is not None
            else "no georeference"
        )

    def unscaled(self, why: str) -> str:
        """Return what is wrong with an image that has no resolution, with the remedy."""
        return f"no resolution for {self}: {why}; --set data.unscaled=keep takes such images as they are"

    def unscaled_images(self, why: Mapping[str, str]) -> str:
        """Return one message of all images that have no resolution, from their names to the reasons."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in why.items():
            by_reason.setdefault(reason, []).append(name)
        groups = "; ".join(f"{_listed(names)}: {reason}" for reason, names in by_reason.items())
        those = f"{len(why)} images have" if len(why) > 1 else "an image has"
        return f"{those} no resolution for {self}: {groups}; --set data.unscaled=keep takes such images as they are, --set data.on_error=skip leaves them out"

    def kept(self, names: Sequence[str] = ()) -> str:
        """Return what is said of images that are taken as they are; of some, or of each of which it is noted."""
        those = f"{len(names)} images do not say their" if len(names) > 1 else "an image does not say its"
        which = f" ({_listed(names)})" if names else ""
        taken = "are taken as they are" if len(names) > 1 else "is taken as it is"
        return f"{those} resolution, and {taken}, not resized to {self}: data.unscaled=keep{which}"


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def ground_spacing(place: Georeference, extent: Extent) -> Spacing:
    """Return the distance of rows and of columns on the ground in metres, at the middle of an image.

    Args:
        place: Where the image lies; it may be turned, or have the south on top.
        extent: Its rows and columns.

    Raises:
        UnscaledError: If there is no CRS, or one without lengths.
        UserError: If pyproj is not installed.

    Example:
        >>> ground_spacing(Georeference((0.3, 0, 500000, 0, -0.2, 5600000), "EPSG:32632"), (100, 100))
        (0.2, 0.3)
    """
    if not place.crs:
        raise UnscaledError("its georeference does not name the CRS")
    a, b, _, d, e, _ = place.transform
    x, y = place.ground(extent[1] / 2, extent[0] / 2)
    ground = _ground_of(place.crs)
    return ground.length(x, y, b, e), ground.length(x, y, a, d)


@lru_cache(maxsize=64)
def _ground_of(crs: str) -> _Ground:
    return _Ground(crs)


class _Ground:
    """Measures steps in a CRS in metres on the ground."""

    def __init__(self, crs: str) -> None:
        pyproj = extra_package("pyproj", "geo", "data.gsd")
        try:
            horizontal = _horizontal(pyproj.CRS.from_user_input(crs))
        except pyproj.exceptions.CRSError:
            raise UnscaledError(f"its CRS is not known: {crs[:60]}") from None
        axes = horizontal.axis_info
        if not axes or horizontal.is_geocentric or horizontal.is_vertical:
            raise UnscaledError(f"its CRS {horizontal.name} has no lengths on the ground")
        self.unit: float = axes[0].unit_conversion_factor  # metres, or radians
        self.is_geographic: bool = horizontal.is_geographic
        geodetic = horizontal.geodetic_crs
        self._geod: Any = None
        self._to_degrees: Any = None
        if geodetic is not None:
            geod = self._geod = geodetic.get_geod()
            plain = pyproj.CRS.from_dict({"proj": "longlat", "a": geod.a, "b": geod.b})
            plain = geodetic if geodetic.axis_info[0].unit_name == "degree" else plain
            self._to_degrees = pyproj.Transformer.from_crs(horizontal, plain, always_xy=True)

    def length(self, x: float, y: float, dx: float, dy: float) -> float:
        """Return the length of a step at a place, in metres."""
        long = math.hypot(dx, dy)
        if not (0 < long < math.inf):
            raise UnscaledError("its georeference gives pixels without a size")
        ahead = dx / long, dy / long
        if self.is_geographic:
            degrees = math.degrees(self.unit)
            metres = self._between(x, y, ahead, _DEGREES / degrees)
            if metres is None:
                raise UnscaledError("it does not lie on Earth as its georeference has it")
            return metres * long
        if self._geod is None:  # a plan of a building site
            return long * self.unit
        metres = self._between(x, y, ahead, _STEP / self.unit)
        if metres is None or abs(metres / self.unit - 1) < _EQUAL:
            return long * self.unit
        return metres * long

    def _between(self, x: float, y: float, ahead: tuple[float, float], step: float) -> float | None:
        """Return the metres of one unit of the CRS around a place; None off the Earth."""
        (x1, y1), (x2, y2) = (
            self._to_degrees.transform(x + sign * step * ahead[0], y + sign * step * ahead[1])
            for sign in (-1, 1)
        )
        if not all(map(math.isfinite, (x1, y1, x2, y2))) or max(abs(y1), abs(y2)) > 90:
            return None
        metres: float = self._geod.inv(x1, y1, x2, y2)[2] / (2 * step)
        return metres if metres > 0 else None


def _horizontal(crs: Any) -> Any:
    """Return the part of a CRS that says where things lie, not how high."""
    while crs.is_bound or crs.is_compound:
        crs = crs.source_crs if crs.is_bound else crs.sub_crs_list[0]
    return crs
