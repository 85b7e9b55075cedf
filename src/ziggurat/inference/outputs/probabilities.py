"""The probabilities of all classes: of a segmenter's pixels as rasters, a band for each class; of a classifier's images as a table.

A raster takes two steps. Each tile's pixels go into a plain tiled TIFF as they come from the journal, so that neither an image nor a row
of its tiles need be in memory; GDAL's COG is made from that, some blocks at a time. Bytes are those of `tasks.probabilities`: a band's
scale turns them into probabilities.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from torch import Tensor

from ziggurat.data.extents import Region
from ziggurat.data.readers.gdal import OPTIONS
from ziggurat.inference.outputs.base import ImageResults, Output, Source, Target
from ziggurat.inference.outputs.label_files import quiet_places
from ziggurat.inference.outputs.mask_rasters import is_empty, partial_folder, profile_of
from ziggurat.system.packages import extra_package
from ziggurat.tasks.probabilities import ONE, UNKNOWN, ProbabilitySink

FOLDER, TABLE = "probabilities", "probabilities.csv"
BLOCK = 512
_COG = {
    "BLOCKSIZE": str(BLOCK),
    "COMPRESS": "DEFLATE",
    "PREDICTOR": "STANDARD",
    "OVERVIEW_RESAMPLING": "AVERAGE",
    "BIGTIFF": "IF_SAFER",
}


class Probabilities(Output):
    """Of masks a file for each image in the folder ``probabilities``; of whole images ``probabilities.csv``, a column for each class."""

    name = "probabilities"
    takes = ("masks", "images")
    wants_probabilities = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._partial = target.folder / f".{TABLE}.partial"
        self._stream: TextIO | None = None

    def fault(self, source: Source) -> str:
        """See `Output`."""
        if self.target.lies_on == "masks":
            extra_package("rasterio", "geo", f"--format {self.name}")
        return ""

    @contextmanager
    def pixels(self, source: Source, stem: str) -> Iterator[ProbabilitySink | None]:
        """See `Output`."""
        if self.target.lies_on != "masks":
            yield None
            return
        import rasterio
        from rasterio.shutil import copy

        file = self.target.folder / FOLDER / f"{stem}.tif"
        with partial_folder(file) as folder, rasterio.Env(**OPTIONS):
            tiled, cog = folder / "tiled.tif", folder / file.name
            with _tiled(tiled, source, self.target.classes) as raster:
                yield _Raster(raster)
                _blank(raster, source)
            copy(tiled, cog, driver="COG", **_COG)
            cog.replace(file)

    def collect(self, results: ImageResults) -> None:
        """See `Output`."""
        if self.target.lies_on == "images":
            for row in results.rows:
                shares = row["probabilities"]
                self._write([row["file_name"], *(shares[name] for name in self.target.classes)])

    def close(self) -> list[Path]:
        """See `Output`."""
        if self.target.lies_on == "masks":
            return [self.target.folder / FOLDER]
        self._open().close()
        return [self._partial.replace(self.target.folder / TABLE)]

    def give_up(self) -> None:
        """See `Output`."""
        if self._stream is not None:
            self._stream.close()
        self._partial.unlink(missing_ok=True)

    def _open(self) -> TextIO:
        if self._stream is None:
            self._stream = self._partial.open("w", newline="", encoding="utf-8", errors="surrogateescape")
            self._write(["image_path", *self.target.classes])
        return self._stream

    def _write(self, values: Sequence[Any]) -> None:
        csv.writer(self._open(), lineterminator="\n").writerow(values)


class _Raster:
    """Takes the probabilities of an image's pixels.

    Args:
        raster: rasterio's dataset, which is open for writing.
    """

    def __init__(self, raster: Any) -> None:
        self._raster = raster

    def add(self, region: Region, probabilities_KHW: Tensor, /) -> None:
        """Take those of a region."""
        self._raster.write(probabilities_KHW.contiguous().numpy(), window=_window(region))


def _window(region: Region) -> Any:
    from rasterio.windows import Window

    return Window(region.left, region.top, region.width, region.height)


@contextmanager
def _tiled(path: Path, source: Source, classes: Sequence[str]) -> Iterator[Any]:
    """Open a tiled TIFF with a band for each class, of an image's extent and place, for the body."""
    import rasterio

    info = source.info()
    rows, columns = source.record.extent
    shape = {"count": len(classes), "height": rows, "width": columns, "dtype": "uint8", "nodata": UNKNOWN}
    # Parts of a block come at several times: without compression each goes to its place in the file. By bands, as they are read again.
    plain = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "interleave": "band", "BIGTIFF": "IF_SAFER"}  # fmt: skip
    where = profile_of(None if info is None else info.georeference)
    with quiet_places(), rasterio.open(path, "w+", driver="GTiff", **plain, **shape, **where) as raster:
        for band, name in enumerate(classes, 1):
            raster.set_band_description(band, name)
        raster.scales = [1 / ONE] * len(classes)
        yield raster


def _blank(raster: Any, source: Source) -> None:
    """Let the pixels of which the image holds nothing be unknown, a row of blocks at a time."""
    rows, columns = source.record.extent
    with source.opened() as image:
        if image is None or image.info.nodata is None:
            return
        for top in range(0, rows, BLOCK):
            region = Region((top, 0), (min(BLOCK, rows - top), columns))
            empty = is_empty(image, region)
            for band in range(1, raster.count + 1) if empty.any() else ():
                bytes_HW = raster.read(band, window=_window(region))
                bytes_HW[empty] = UNKNOWN
                raster.write(bytes_HW, band, window=_window(region))
