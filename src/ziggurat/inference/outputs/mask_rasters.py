"""Masks as cloud-optimized GeoTIFF: in tiles, with overviews, the place of the image, the colours of the classes, and nodata.

Two steps, each some rows at a time: a tiled TIFF of the labels, and from that GDAL's COG, whose overviews stand before the pixels. Where the
image has no data (all its bands hold its nodata), neither has the mask.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ziggurat.data.batch import IGNORED_PIXEL
from ziggurat.data.extents import Region
from ziggurat.data.readers.gdal import OPTIONS
from ziggurat.data.readers.opened import Georeference, OpenedImage
from ziggurat.errors import UserError
from ziggurat.inference.outputs.base import ImageResults, Output, Source, Target
from ziggurat.inference.outputs.label_files import open_labels, quiet_places
from ziggurat.system.packages import extra_package
from ziggurat.tasks.probabilities import ONE
from ziggurat.visualize.colors import Color
from ziggurat.visualize.labels import label_palette

FOLDER = "masks"
APART = "disagreement"  # the folder, the row's name of the file, and the format
BLOCK = 512
_TILED = {
    "tiled": True,
    "blockxsize": BLOCK,
    "blockysize": BLOCK,
    "compress": "deflate",
    "BIGTIFF": "IF_SAFER",
}
_COG = {
    "BLOCKSIZE": str(BLOCK),
    "COMPRESS": "DEFLATE",
    "OVERVIEW_RESAMPLING": "NEAREST",
    "BIGTIFF": "IF_SAFER",
}


class MaskRaster(Output):
    """A file for each image, beside its PNG in the folder ``masks``."""

    name = "mask"
    takes = ("masks",)

    def fault(self, source: Source) -> str:
        """See `Output`."""
        extra_package("rasterio", "geo", f"--format {self.name}")
        return ""

    def image(self, results: ImageResults) -> None:
        """See `Output`."""
        for row in results.rows:
            file = self.target.folder / FOLDER / f"{results.stem}.tif"
            _write_cog(file, row["mask"], results, list(label_palette()))

    def close(self) -> list[Path]:
        """See `Output`."""
        return [self.target.folder / FOLDER]


class DisagreementRaster(Output):
    """How far the models of an average lie apart at each pixel: a file for each image, beside its PNG in the folder ``disagreement``."""

    name = APART
    takes = ("masks",)

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        if target.num_models < 2:
            raise UserError(
                f"--format {self.name} says how far several runs lie apart: one is named; name them with commas between, or leave it out"
            )

    def fault(self, source: Source) -> str:
        """See `Output`."""
        extra_package("rasterio", "geo", f"--format {self.name}")
        return ""

    def image(self, results: ImageResults) -> None:
        """See `Output`."""
        for row in results.rows:
            _write_cog(self.target.folder / APART / f"{results.stem}.tif", row[APART], results, None)

    def close(self) -> list[Path]:
        """See `Output`."""
        return [self.target.folder / APART]


def _write_cog(file: Path, png: str, results: ImageResults, colours: list[Color] | None) -> None:
    """Write the bytes of an image's PNG as a cloud-optimized GeoTIFF: labels with their colours, else probabilities."""
    import rasterio
    from rasterio.shutil import copy

    with partial_folder(file) as folder:
        tiled, cog = folder / "tiled.tif", folder / file.name
        _write_tiled(tiled, png, results, colours)
        how = _COG if colours is not None else _COG | {"OVERVIEW_RESAMPLING": "AVERAGE"}
        with rasterio.Env(**OPTIONS):
            copy(tiled, cog, driver="COG", **how)
        cog.replace(file)


@contextmanager
def partial_folder(file: Path) -> Iterator[Path]:
    """Make a hidden folder beside a file or folder for the body, which may move its result to its place; then it is removed."""
    folder = file.with_name(f".{file.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_tiled(path: Path, mask: str, results: ImageResults, colours: list[Color] | None) -> None:
    """Write the bytes of an image's PNG as a tiled TIFF, a row of tiles at a time; see `_write_cog`."""
    import rasterio
    from rasterio.windows import Window

    where = profile_of(results.georeference)
    rows, columns = results.source.record.extent
    shape = {"count": 1, "height": rows, "width": columns, "dtype": "uint8", "nodata": IGNORED_PIXEL}
    with (
        open_labels(mask) as labels,
        results.source.opened() as image,
        quiet_places(),
        rasterio.open(path, "w", driver="GTiff", **_TILED, **shape, **where) as file,
    ):
        if colours is None:
            file.scales = [1 / ONE]
            file.set_band_description(1, APART)
        else:
            file.write_colormap(1, {label: (*colour, 255) for label, colour in enumerate(colours)})
        for top in range(0, rows, BLOCK):
            height = min(BLOCK, rows - top)
            window = Window(0, top, columns, height)
            band = labels.read(1, window=window)
            band[is_empty(image, Region((top, 0), (height, columns)))] = IGNORED_PIXEL
            file.write(band, 1, window=window)


def profile_of(place: Georeference | None) -> dict[str, Any]:
    """Return where an image lies, as rasterio is told it; nothing if it lies nowhere."""
    import rasterio

    if place is None:
        return {}
    return {"transform": rasterio.Affine(*place.transform), "crs": place.crs or None}


def is_empty(image: OpenedImage | None, region: Region) -> np.ndarray:
    """Return where an image holds nothing, shape ``region.size``; nowhere if it does not say."""
    if image is None or image.info.nodata is None:
        return np.zeros(region.size, dtype=bool)
    samples = image.read(region)
    shown = [number for number, role in enumerate(image.info.roles) if role != "alpha"]
    if np.isnan(image.info.nodata):
        return np.asarray(np.isnan(samples[shown]).all(axis=0))
    return np.asarray((samples[shown] == image.info.nodata).all(axis=0))
