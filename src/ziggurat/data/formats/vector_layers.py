"""Layers of polygons in GeoPackages, GeoJSON and shapefiles: their places, their CRS and the column that holds the class.

GDAL chooses what reads a file by looking into it, and some of what it knows names other files and servers: so a file is opened only if it begins
as its suffix says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ziggurat.data.formats.csv_layout import NAMES
from ziggurat.errors import UserError, nearest
from ziggurat.system.packages import extra_package

SUFFIXES = (".gpkg", ".geojson", ".shp")
_HEADS = {".gpkg": b"SQLite format 3\0", ".geojson": b"{", ".shp": b"\0\0\x27\x0a"}
_CLASS_NAMES = (*NAMES["label"], "type", "species", "kind", "name", "classid", "labelid")
_POLYGONS = (3, 6)  # shapely's numbers of polygons, and of several in one


@dataclass(frozen=True)
class Layer:
    """The features of a layer.

    Attributes:
        name: Of the layer.
        crs: Of the places, as text; empty where the layer does not say.
        fids: The number of each feature.
        shapes: shapely's polygons, shape ``(N,)``; None of features without area.
        classes: Of each feature, as text; empty where it has none.
        guess: Which column was taken for the class.
    """

    name: str
    crs: str
    fids: np.ndarray
    shapes: np.ndarray
    classes: list[str]
    guess: str


def read_layers(file: Path, label_column: str) -> list[Layer]:
    """Return the layers of a file that may have polygons.

    Args:
        file: A GeoPackage, GeoJSON, or a shapefile.
        label_column: The column of the class; empty looks for it.

    Raises:
        UserError: If it cannot be read, or no layer has the column.
    """
    pyogrio = extra_package("pyogrio", "geo", f"the annotation file {file}")
    extra_package("shapely", "geo", f"the annotation file {file}")
    with file.open("rb") as stream:
        head = stream.read(64)
    if not head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").startswith(_HEADS[file.suffix.lower()]):
        raise UserError(
            f"cannot read the annotation file {file}: it does not begin as a {file.suffix} file does"
        )
    try:
        names = [
            name for name, kind in pyogrio.list_layers(file) if kind is not None and _may_have_area(kind)
        ]
        layers = [_read(file, name, label_column) for name in names]
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read the annotation file {file}: its text is not in the encoding that it says ({error}); save it as UTF-8"
        ) from None
    except Exception as error:  # pyogrio and shapely raise kinds of their own
        raise UserError(f"cannot read the annotation file {file}: {error}") from error
    if not layers:
        raise UserError(
            f"the annotation file {file} has no layer of polygons: draw objects as polygons or boxes"
        )
    return layers


def _may_have_area(kind: str) -> bool:
    return "Polygon" in kind or "Surface" in kind or kind.startswith(("Unknown", "Geometry"))


def _read(file: Path, name: str, label_column: str) -> Layer:
    import shapely
    from pyogrio.raw import read

    meta, fids, geometry, columns = read(file, layer=name, force_2d=True, return_fids=True)
    shapes = shapely.from_wkb(geometry, on_invalid="ignore")
    broken = ~np.isin(shapely.get_type_id(shapes), _POLYGONS) | shapely.is_empty(shapes)
    polygons = np.array(shapes, dtype=object)
    polygons[broken] = None
    fields = dict(zip(map(str, meta["fields"]), columns, strict=True))
    column, guess = _class_column(file, name, fields, label_column)
    classes = [name] * len(fids) if column is None else [_text(value) for value in fields[column]]
    return Layer(name, meta["crs"] or "", np.asarray(fids), polygons, classes, guess)


def _class_column(
    file: Path, layer: str, fields: dict[str, np.ndarray], asked: str
) -> tuple[str | None, str]:
    """Return the column of the class and what was guessed; no column where the layer's name is all that there is."""
    if asked:
        if asked not in fields:
            raise UserError(
                f"data.label_column must be a column of {file}, layer {layer}: got '{asked}', {nearest(asked, list(fields))}"
            )
        return asked, ""
    by_name = {
        name.lower().replace("_", "").replace(" ", "").replace("-", ""): name for name in reversed(fields)
    }
    named = [by_name[known] for known in _CLASS_NAMES if known in by_name]
    texts = [name for name, values in fields.items() if values.dtype == object]
    column = named[0] if named else texts[0] if len(texts) == 1 else None
    if column is None:
        return (
            None,
            f"the name of the layer is the class of its features, as no column is called label or class ({', '.join(fields) or 'none'})",
        )
    return column, "" if column in ("label", "class") else f"the column '{column}' is taken for the class"


def _text(value: Any) -> str:
    """Return a class as text: whole numbers without a point, nothing for what is missing."""
    if value is None or (isinstance(value, (float, np.floating)) and np.isnan(value)):
        return ""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()
