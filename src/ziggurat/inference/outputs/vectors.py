"""GeoPackage and shapefile: what was found as polygons in the CRS of the images, for QGIS and the like.

Images of several CRSs go into a layer (GeoPackage) or a file (shapefile) for each. Features are written some thousand at a time, into a hidden
folder beside the results; the files get their names when they are whole. The dates that both formats hold are always the same, so that equal
results are equal files.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np

from ziggurat.data.readers.opened import Georeference
from ziggurat.errors import UserError
from ziggurat.inference.outputs.base import ImageResults, Output, Source, Target, georeference_of
from ziggurat.inference.outputs.shapes import binary, box_binaries, on_ground, shapes_of
from ziggurat.system.packages import extra_package

# Features that are held, and bytes of them: GDAL builds the index of a layer fast with its first part, and slowly with each later one.
CHUNK, CHUNK_BYTES = 200_000, 64 << 20
BOXES = 4096  # that are turned into polygons at once
STEM = "predictions"
_SHAPEFILE = (".shp", ".shx", ".dbf", ".prj", ".cpg")
_DBF_BYTES = 254  # of a text
_YEAR, _DATE_OPTION = 2000, "OGR_CURRENT_DATE"


class Vectors(Output):
    """Files of polygons that GDAL writes.

    Attributes:
        driver: GDAL's name of the format.
        suffix: Of its files.
        is_layered: Whether one file holds several layers.
        names: Of the columns: image, class, number of the class, score.
        layer_options: GDAL's, for each layer.
    """

    writes_polygons = True
    driver: ClassVar[str]
    suffix: ClassVar[str]
    is_layered: ClassVar[bool]
    names: ClassVar[tuple[str, ...]]
    layer_options: ClassVar[dict[str, str]] = {}

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._partial = target.folder / f".{self.name}.partial"
        self._kept: list[tuple[bytes, str, str, int, float]] = []
        self._kept_bytes = 0
        self._crs = ""
        self._layers: dict[str, str] = {}  # of each CRS
        self._begun: set[str] = set()
        self._spelled: dict[str, str] = {}

    def fault(self, source: Source) -> str:
        """See `Output`."""
        extra_package("pyogrio", "geo", f"--format {self.name}")
        try:
            georeference_of(source.info(), source.record.name, self.name)
        except UserError as error:
            return str(error)
        return ""

    def collect(self, results: ImageResults) -> None:
        """See `Output`."""
        georeference = georeference_of(results.info, results.source.record.name, self.name)
        crs = self._same_crs(georeference.crs)
        if self._kept and crs != self._crs:
            self._flush()
        self._crs = crs
        self._layers.setdefault(self._crs, self._layer_name(self._crs))
        image, names = (
            self._text(results.source.record.name),
            [self._text(one) for one in self.target.classes],
        )
        for polygon, label, score in self._polygons(results, georeference):
            name, number = ("", -1) if label is None else (names[label], int(self.target.category_ids[label]))
            self._kept.append((polygon, image, name, number, np.nan if score is None else score))
            self._kept_bytes += len(polygon)
            if len(self._kept) == CHUNK or self._kept_bytes >= CHUNK_BYTES:
                self._flush()

    def _polygons(
        self, results: ImageResults, georeference: Georeference
    ) -> Iterator[tuple[bytes, int | None, float | None]]:
        """Yield each feature of an image as well-known binary, with its label and score; boxes, of which there are many, by the thousand."""
        if self.target.lies_on != "boxes":
            for shape in shapes_of(results, self.target):
                yield binary(on_ground(shape, georeference)), shape.label, shape.score
            return
        labels = {number: label for label, number in reversed([*enumerate(self.target.category_ids)])}
        for start in range(0, len(results.rows), BOXES):
            rows = results.rows[start : start + BOXES]
            for polygon, row in zip(box_binaries(rows, georeference), rows, strict=True):
                label = labels[row["category_id"]] if "category_id" in row else None
                yield polygon, label, row.get("score")

    def close(self) -> list[Path]:
        """See `Output`."""
        if self._layers:
            self._flush()
        for file in self._files(self.target.folder):  # those of an earlier prediction
            file.unlink()
        for file in self._files(self._partial):
            file.replace(self.target.folder / file.name)
        self.give_up()
        return [file for file in self._files(self.target.folder) if file.suffix == self.suffix]

    def give_up(self) -> None:
        """See `Output`."""
        shutil.rmtree(self._partial, ignore_errors=True)

    def _text(self, text: str) -> str:
        """Return a text as the file may hold it: names of files may be no text in UTF-8."""
        return text.encode("utf-8", "backslashreplace").decode()

    def _files(self, folder: Path) -> list[Path]:
        if self.is_layered:
            return sorted(folder.glob(f"{STEM}{self.suffix}"))
        return sorted(file for end in _SHAPEFILE for file in folder.glob(f"{STEM}*{end}"))

    def _same_crs(self, crs: str) -> str:
        """Return the first spelling of a CRS: readers write one and the same in several ways."""
        if crs and crs not in self._spelled:
            pyproj = extra_package("pyproj", "geo", f"--format {self.name}")
            known, mine = self._spelled, pyproj.CRS.from_user_input(crs)
            self._spelled[crs] = next(
                (one for one in known if one and pyproj.CRS.from_user_input(one) == mine), crs
            )
        return self._spelled.get(crs, "")

    def _layer_name(self, crs: str) -> str:
        if not self._layers:
            self.give_up()  # what an earlier prediction has left unfinished
            self._partial.mkdir()
            return STEM
        return f"{STEM}_{len(self._layers) + 1}"

    def _flush(self) -> None:
        """Write what is kept; of a layer without any feature that there is none."""
        raw = extra_package("pyogrio.raw", "geo", f"--format {self.name}")
        layer = self._layers[self._crs]
        file = self._partial / f"{STEM if self.is_layered else layer}{self.suffix}"
        types = (object, object, object, np.int64, np.float64)
        columns = zip(*self._kept, strict=True) if self._kept else [()] * len(types)
        geometry, *data = (np.array(one, dtype=kind) for one, kind in zip(columns, types, strict=True))
        self._kept, self._kept_bytes = [], 0
        with fixed_dates():
            raw.write(
                str(file),
                geometry,
                data,
                np.array(self.names, dtype=object),
                layer=layer,
                driver=self.driver,
                geometry_type="Polygon",
                crs=self._crs or None,
                encoding="UTF-8",
                append=layer in self._begun,
                layer_options=self.layer_options,
            )
        self._begun.add(layer)


class GeoPackage(Vectors):
    """One file, `predictions.gpkg`."""

    name = "gpkg"
    driver, suffix, is_layered = "GPKG", ".gpkg", True
    names = ("image", "class", "class_id", "score")


class Shapefile(Vectors):
    """`predictions.shp` with the files that belong to it."""

    name = "shp"
    driver, suffix, is_layered = "ESRI Shapefile", ".shp", False
    names = ("image", "class", "class_id", "score")

    def _text(self, text: str) -> str:
        """Return the end of a text that is too long for the format: of a path the end tells more."""
        return super()._text(text).encode()[-_DBF_BYTES:].decode(errors="ignore")

    def close(self) -> list[Path]:
        """See `Output`."""
        for table in self._partial.glob("*.dbf"):
            with table.open("r+b") as file:
                file.seek(1)
                file.write(bytes([_YEAR - 1900, 1, 1]))  # of the last change
        return super().close()


@contextmanager
def fixed_dates() -> Iterator[None]:
    """Let GeoPackages that are written in the body hold always the same dates."""
    pyogrio = extra_package("pyogrio", "geo", "a GeoPackage")
    before = pyogrio.get_gdal_config_option(_DATE_OPTION)
    pyogrio.set_gdal_config_options({_DATE_OPTION: f"{_YEAR}-01-01T00:00:00.000Z"})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
            yield
    finally:
        pyogrio.set_gdal_config_options({_DATE_OPTION: before})
