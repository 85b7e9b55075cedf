"""The formats that results are written in, by the names that ``--format`` takes.

Formats from outside: entry points of the group ``ziggurat.outputs``, or `OUTPUTS.register` in a script; an entry is a class derived from `Output`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ziggurat.config.registry import Registry
from ziggurat.errors import UserError, nearest
from ziggurat.inference.outputs.base import Output, Target, refuse_rows
from ziggurat.inference.outputs.crops import Crops
from ziggurat.inference.outputs.geojson import GeoJson
from ziggurat.inference.outputs.mask_rasters import DisagreementRaster, MaskRaster
from ziggurat.inference.outputs.ome_zarr import OmeZarr
from ziggurat.inference.outputs.polygons import PolygonRules
from ziggurat.inference.outputs.probabilities import Probabilities
from ziggurat.inference.outputs.qupath import QuPath
from ziggurat.inference.outputs.vectors import GeoPackage, Shapefile
from ziggurat.inference.outputs.yolo import YoloTexts
from ziggurat.tasks.base import LiesOn

# What `predict` writes itself: the list that all others are made of, always, and the table.
TABLES = ("coco", "csv")
OUTPUTS: Registry[type[Output]] = Registry("format of results", "ziggurat.outputs")

for _output in (
    GeoPackage,
    GeoJson,
    Shapefile,
    QuPath,
    MaskRaster,
    DisagreementRaster,
    Probabilities,
    OmeZarr,
    YoloTexts,
    Crops,
):
    OUTPUTS.register(_output.name, _output)


def check_formats(names: Sequence[str], lies_on: LiesOn | None = None) -> None:
    """See whether results can be written in some formats.

    Args:
        names: Of the formats.
        lies_on: What the rows lie on; None where that is not known yet.

    Raises:
        UserError: Listing each that is unknown, or cannot hold such rows.
    """
    known = [*TABLES, *OUTPUTS]
    faults = [
        f"unknown format of results '{name}': {nearest(name, known)}" for name in names if name not in known
    ]
    if lies_on is not None:
        faults += [refuse_rows(OUTPUTS[name], lies_on) for name in names if name in OUTPUTS]
    if any(faults):
        raise UserError([fault for fault in faults if fault])


def check_polygons(rules: PolygonRules, names: Sequence[str], lies_on: LiesOn | None = None) -> None:
    """See whether rules for polygons have an effect.

    Args:
        rules: What is asked for.
        names: Of the formats.
        lies_on: What the rows lie on; None where that is not known yet.

    Raises:
        UserError: If there are rules, and no format writes polygons of masks.
    """
    if rules == PolygonRules():
        return
    writing = [name for name, output in OUTPUTS.items() if output.writes_polygons]
    if not set(writing) & set(names):
        raise UserError(f"--polygons is for formats of polygons: add one by --format ({', '.join(writing)})")
    if lies_on not in (None, "masks"):
        raise UserError(
            f"--polygons is for the areas of masks (segment): this task's results lie on {lies_on}; leave it out"
        )


def make_outputs(names: Sequence[str], target: Target) -> list[Output]:
    """Return what writes results in some formats, each once; the tables are `predict`'s own."""
    return [OUTPUTS[name](target) for name in dict.fromkeys(names) if name not in TABLES]
