"""What the tags of a TIFF say beside its samples: where it lies on the ground, how large a pixel is, what the bands are called."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

from ziggurat.data.readers.opened import Georeference

DESCRIPTION, GDAL_METADATA, GDAL_NODATA = 270, 42112, 42113
SCALE, TIES, TRANSFORM, KEYS = 33550, 33922, 34264, 34735  # of GeoTIFF 1.1
RASTER_TYPE, PROJECTED, GEOGRAPHIC = 1025, 3072, 2048  # its keys
POINT, USER_DEFINED = 2, 32767

_IMAGEJ = re.compile(r"^ImageJ=.*?^images=(\d+)", re.DOTALL | re.MULTILINE)
_MICRONS = {"µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
_MOST_TEXT = 1 << 22


def _text(found: Any, tag: int) -> str:
    value = found.tags.valueof(tag, "")
    return value if isinstance(value, str) and len(value) <= _MOST_TEXT else ""


def nodata_of(found: Any) -> float | None:
    """Return the value of pixels that hold nothing, as GDAL writes it."""
    try:
        return float(_text(found, GDAL_NODATA).strip(" \0").replace(",", "."))
    except ValueError:
        return None


def stack_of(found: Any) -> int:
    """Return the pictures that ImageJ has written one behind the other into the first page of a file; 1 where it has not."""
    said = _IMAGEJ.search(_text(found, DESCRIPTION))
    return max(1, int(said[1])) if said and len(said[1]) < 10 else 1


def names_of(found: Any, count: int) -> tuple[str, ...]:
    """Return what GDAL's metadata call the bands; empty where they do not name each."""
    text = _text(found, GDAL_METADATA).strip(" \0")
    if "<!" in text or not text:
        return ()
    names: dict[int, str] = {}
    with suppress(ElementTree.ParseError, ValueError):
        for item in ElementTree.fromstring(text).iter("Item"):
            if item.get("role") == "description" and item.text:
                names[int(item.get("sample", "0"))] = item.text
    return tuple(names[band] for band in range(count)) if set(names) >= set(range(count)) else ()


def georeference_of(found: Any) -> Georeference | None:
    """Return where the pixels lie on the ground, of a file whose tags say it plainly; None of others."""
    transform = _transform(found)
    if transform is None or not all(map(math.isfinite, transform)):
        return None
    keys = _keys(found)
    if keys.get(RASTER_TYPE) == POINT:  # the first pixel's centre is named, not its corner
        a, b, c, d, e, f = transform
        transform = a, b, c - (a + b) / 2, d, e, f - (d + e) / 2
    code = keys.get(PROJECTED, keys.get(GEOGRAPHIC, USER_DEFINED))
    return Georeference(transform, "" if code >= USER_DEFINED else _wkt(code))


def _transform(found: Any) -> tuple[float, float, float, float, float, float] | None:
    scale, ties, matrix = (_floats(found, tag) for tag in (SCALE, TIES, TRANSFORM))
    if len(matrix) == 16:
        return matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7]
    if len(scale) >= 2 and len(ties) == 6 and scale[0] and scale[1]:
        x, y = ties[3] - ties[0] * scale[0], ties[4] + ties[1] * scale[1]
        return scale[0], 0.0, x, 0.0, -scale[1], y
    return None


def _floats(found: Any, tag: int) -> tuple[float, ...]:
    value = found.tags.valueof(tag, ())
    return tuple(map(float, value)) if isinstance(value, tuple) else ()


def _keys(found: Any) -> dict[int, int]:
    """Return the numbers among GeoTIFF's keys."""
    value = found.tags.valueof(KEYS, ())
    value = value if isinstance(value, tuple) else ()
    rows = [value[start : start + 4] for start in range(4, len(value) - 3, 4)]
    return {key: number for key, place, _, number in rows if place == 0}


@lru_cache(maxsize=64)
def _wkt(code: int) -> str:
    """Return a CRS of the EPSG's list as WKT, or as ``EPSG:CODE`` where pyproj, which has the list, is not installed."""
    try:
        from pyproj import CRS
        from pyproj.exceptions import CRSError
    except ModuleNotFoundError:
        return f"EPSG:{code}"
    try:
        return str(CRS.from_epsg(code).to_wkt())
    except CRSError:
        return ""


def microns_of(found: Any) -> tuple[float, ...] | None:
    """Return the distance of rows and of columns in microns, as OME and ImageJ say it; None where they do not."""
    text = _text(found, DESCRIPTION)
    sizes: tuple[float, ...] = ()
    if "<OME" in text[:4096]:
        sides = [_attribute(text, f"PhysicalSize{axis}") for axis in "YX"]
        units = [_MICRONS.get(_attribute(text, f"PhysicalSize{axis}Unit") or "µm", 0.0) for axis in "YX"]
        with suppress(ValueError):
            sizes = tuple(float(side) * unit for side, unit in zip(sides, units, strict=True))
    elif text.startswith("ImageJ="):
        unit = re.search(r"^unit=(.*)$", text, re.MULTILINE)
        scale = _MICRONS.get(unit[1].strip().replace("\\u00B5", "µ"), 0.0) if unit else 0.0
        per_unit = [_rational(found, tag) for tag in (283, 282)]
        sizes = tuple(scale / each for each in per_unit if each)
    return sizes if len(sizes) == 2 and min(sizes) > 0 and all(map(math.isfinite, sizes)) else None


def _attribute(text: str, name: str) -> str:
    found = re.search(rf'<Pixels\b[^>]*\b{name}="([^"]*)"', text)
    return found[1] if found else ""


def _rational(found: Any, tag: int) -> float:
    value = found.tags.valueof(tag, ())
    return (
        float(value[0]) / float(value[1])
        if isinstance(value, tuple) and len(value) == 2 and value[1]
        else 0.0
    )
