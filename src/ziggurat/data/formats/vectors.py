"""Polygons over georeferenced images, as users of QGIS draw them: GeoPackage, GeoJSON or shapefile.

Features are brought into the CRS of each image and from there into its pixels; each becomes the box around it, and, for segmentation, its outline.
A feature belongs to every image that holds a quarter of it at least, and is cut to that image. An image on which no feature lies is left out: nobody
says that anyone has looked at it. Both are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ziggurat.data.extents import Extent
from ziggurat.data.files import files_of
from ziggurat.data.formats.recognise import format_of
from ziggurat.data.formats.table import SPLIT_NAMES, BoxRow, ImageRow, Source, Split, Table, relative_name
from ziggurat.data.formats.vector_layers import SUFFIXES, Layer, read_layers
from ziggurat.data.readers.image_files import natural_key
from ziggurat.data.readers.opened import Georeference
from ziggurat.data.readers.places import info_of
from ziggurat.data.readers.registry import image_suffixes
from ziggurat.errors import UserError
from ziggurat.system.packages import extra_package

LEAST_SHARE = 0.25  # of a feature that an image must hold
NO_IMAGE = "a feature lies on no image, and is left out"
NO_FEATURE = "an image on which no feature lies is left out"
NO_PLACE = "an image without a georeference is left out"
NO_MOSAIC = "a VRT beside other images is left out"
NO_AREA = "a feature without area (a point, a line) is left out"
NO_CRS = "a layer or image does not say its CRS: they are taken for the same"
WRITTEN = "predictions"  # files that `predict` has written are no annotations, unless they are named


@dataclass(frozen=True)
class Raster:
    """An image that features may lie on.

    Attributes:
        name: As the table has it.
        extent: Rows and columns.
        georeference: Where it lies.
    """

    name: str
    extent: Extent
    georeference: Georeference


def find_vectors(path: Path) -> dict[str, dict[Split, Source]]:
    """Return where the splits lie: one file for all, or ``train.gpkg`` and ``val.gpkg``, or the only such file of a folder; nothing if there is none."""
    splits: dict[Split, Source] = {}
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            return {}
        source = _source(path, path.parent)
        splits = {"train": source, "val": source, "test": source}
    elif path.is_dir() and not any(map(format_of, files_of(path, (".json", ".csv")))):  # else those are meant
        files = [file for file in files_of(path, SUFFIXES) if not file.stem.startswith(WRITTEN)]
        by_stem = {file.stem.lower(): file for file in reversed(files)}
        for split, names in SPLIT_NAMES.items():
            found = [by_stem[name] for name in names if name in by_stem]
            splits |= {split: _source(found[0], path)} if found else {}
        if not splits and len(files) == 1:
            splits["train"] = _source(files[0], path)
    outlines = {split: replace(source, kind="outlines") for split, source in splits.items()}
    return {"boxes": splits, "outlines": outlines} if splits else {}


def read_vectors(source: Source) -> Table:
    """Read the features of a file over the images beside it; whatever is wrong with them stands in the table's faults."""
    table = Table(source)
    (file,) = source.files
    try:
        layers = read_layers(file, source.label_column)
    except UserError as error:
        for fault in error.faults:
            table.add_fault(file, None, fault)
        return table
    grounds = [_Ground(layer) for layer in layers]
    num_rasters = 0
    for raster in _rasters(table):
        num_rasters += 1
        rows = [(ground.layer, index, shape) for ground in grounds for index, shape in ground.on(raster)]
        if not rows:
            table.note(NO_FEATURE, raster.name)
            continue
        if not all(ground.knows_crs(raster) for ground in grounds):
            table.note(NO_CRS, f"{file.name}, {raster.name}")
        table.images.append(ImageRow(raster.name, None, None, file))
        for layer, index, shape in rows:
            _add(table, file, layer, index, shape)
    for ground in grounds:
        _note(table, file, ground.layer, ground.is_placed)
    if num_rasters and not table.images:
        table.add_fault(
            file,
            None,
            f"no feature lies on one of the {num_rasters} images: {_places(layers)}; see to the CRS of both",
        )
    return table


def _places(layers: Sequence[Layer]) -> str:
    """Say where the features of layers lie, and in which CRSs."""
    import shapely

    said = []
    for layer in layers:
        bounds = ", ".join(f"{value:.8g}" for value in shapely.total_bounds(layer.shapes))
        crs = layer.crs if len(layer.crs) < 40 else "a CRS of its own"
        said.append(f"layer {layer.name} lies in {bounds} ({crs or 'no CRS'})")
    return ", ".join(said)


def _source(file: Path, root: Path) -> Source:
    folders = (
        file.parent,
        file.parent / "images",
        file.parent / file.stem,
        file.parent / "images" / file.stem,
    )
    return Source("vectors", "boxes", root, (file,), tuple(folder for folder in folders if folder.is_dir()))


def _rasters(table: Table) -> Iterator[Raster]:
    """Yield the georeferenced images beside the file, and in the folder that the user has named."""
    source, found = table.source, dict[Path, None]()
    folders = source.folders if source.elsewhere is None else (source.elsewhere, *source.folders)
    for folder in folders:
        found |= dict.fromkeys(sorted(files_of(folder, image_suffixes()), key=natural_key))
    if not found:
        table.add_fault(
            source.files[0],
            None,
            f"no image: none lies in {', '.join(map(str, folders))}; data.images=FOLDER names another",
        )
    others = [path for path in found if path.suffix.lower() != ".vrt"]
    if others and len(others) < len(
        found
    ):  # it is made of them as a rule, and each feature would count twice
        table.note(NO_MOSAIC, next(path.name for path in found if path not in others))
    for path in others or found:
        try:
            info = info_of(path)
        except UserError as error:
            table.add_fault(path, None, f"unreadable image: {error}", "remark")
            continue
        root = (
            source.root
            if source.elsewhere is None or not path.is_relative_to(source.elsewhere)
            else source.elsewhere
        )
        if info is None or info.georeference is None:
            table.note(NO_PLACE, path.name)
        else:
            yield Raster(relative_name(path, root), info.extent, info.georeference)


class _Ground:
    """The features of a layer in the CRSs of images, found by where they lie.

    Args:
        layer: Its features.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.is_placed = np.zeros(len(layer.fids), dtype=bool)
        self._by_crs: dict[str, tuple[np.ndarray, Any]] = {}

    def on(self, raster: Raster) -> list[tuple[int, Any]]:
        """Return the features that an image holds, by their index, in its pixels, cut to it; they count as placed."""
        import shapely

        rows, columns = raster.extent
        place = raster.georeference
        shapes, tree = self._in_crs(place.crs)
        corners = [place.ground(x, y) for x, y in ((0, 0), (columns, 0), (columns, rows), (0, rows))]
        near = np.sort(tree.query(shapely.polygons(corners), predicate="intersects"))
        pixels = shapely.make_valid(shapely.transform(shapes[near], lambda ground: _pixels(place, ground)))
        cut = shapely.intersection(pixels, shapely.box(0, 0, columns, rows))
        enough = shapely.area(cut) >= LEAST_SHARE * np.maximum(shapely.area(pixels), 1e-9)
        self.is_placed[near[enough]] = True
        return list(zip(near[enough].tolist(), cut[enough], strict=True))

    def knows_crs(self, raster: Raster) -> bool:
        """Whether both say their CRS."""
        return bool(self.layer.crs and raster.georeference.crs)

    def _in_crs(self, crs: str) -> tuple[np.ndarray, Any]:
        """Return the features in a CRS, and what finds them; corners are brought over, sides are straight in both."""
        import shapely

        if crs not in self._by_crs:
            shapes = self.layer.shapes
            if crs and self.layer.crs:
                transform = _transformer(self.layer.crs, crs)
                shapes = np.asarray(shapely.transform(shapes, transform, interleaved=False))
            self._by_crs[crs] = shapes, shapely.STRtree(shapes)
        return self._by_crs[crs]


@lru_cache(maxsize=64)
def _transformer(one: str, other: str) -> Any:
    pyproj = extra_package("pyproj", "geo", "annotations in another CRS than the images")
    return pyproj.Transformer.from_crs(one, other, always_xy=True).transform


def _pixels(georeference: Georeference, ground_N2: np.ndarray) -> np.ndarray:
    """Return where places on the ground lie in an image, x and y in pixels, shape ``(N, 2)``."""
    a, b, c, d, e, f = georeference.transform
    x, y = ground_N2[:, 0] - c, ground_N2[:, 1] - f
    scale = a * e - b * d
    return np.stack([(e * x - b * y) / scale, (a * y - d * x) / scale], axis=1)


def _add(table: Table, file: Path, layer: Layer, index: int, shape: Any) -> None:
    place = f"{layer.name}, feature {layer.fids[index]}"
    if not layer.classes[index]:
        table.add_fault(file, place, "unknown category: the feature has no class", "annotation")
        return
    left, top, right, bottom = map(float, shape.bounds)
    outline = [_flat(ring) for ring in _without_holes(shape)]
    image, area = len(table.images) - 1, float(shape.area)
    box = (left, top, right, bottom)
    table.boxes.append(BoxRow(image, box, layer.classes[index], place, area, outline=outline))


def _flat(ring: Sequence[tuple[float, float]]) -> list[float]:
    return [float(value) for corner in ring[:-1] for value in corner]


def _without_holes(shape: Any) -> Iterator[Sequence[tuple[float, float]]]:
    """Yield the rings of polygons without holes that cover the same: one with a hole is cut through its first."""
    import shapely

    for part in shapely.get_parts(shape):
        if part.geom_type.startswith(("Multi", "GeometryCollection")):
            yield from _without_holes(part)
        elif part.geom_type == "Polygon" and part.area > 0:
            if not part.interiors:
                yield list(part.exterior.coords)
                continue
            left, top, right, bottom = part.bounds
            middle = part.interiors[0].envelope.centroid.x
            for half in ((left - 1, middle), (middle, right + 1)):
                yield from _without_holes(
                    shapely.intersection(part, shapely.box(half[0], top - 1, half[1], bottom + 1))
                )


def _note(table: Table, file: Path, layer: Layer, is_placed: np.ndarray) -> None:
    """Note what was guessed, and which features were left out."""
    if layer.guess:
        table.note(layer.guess, f"{file.name}, layer {layer.name}")
    for index in np.flatnonzero(~is_placed).tolist():
        what = NO_AREA if layer.shapes[index] is None else NO_IMAGE
        table.note(what, f"{file.name}, layer {layer.name}, feature {layer.fids[index]}")
