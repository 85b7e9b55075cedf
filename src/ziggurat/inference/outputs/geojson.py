"""GeoJSON: what was found as polygons in longitude and latitude (WGS 84), as RFC 7946 has it; a feature a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

from ziggurat.errors import UserError
from ziggurat.inference.outputs.base import ImageResults, Output, Source, Target, georeference_of
from ziggurat.inference.outputs.polygons import Ring
from ziggurat.inference.outputs.shapes import counterclockwise, on_ground, shapes_of
from ziggurat.system.packages import extra_package
from ziggurat.system.writing import files_of

FILE = "predictions.geojson"
_LONGITUDE_LATITUDE = "OGC:CRS84"
ToDegrees = Callable[[Ring], Ring]


class GeoJson(Output):
    """One file of all images, whatever their CRSs are."""

    name = "geojson"
    writes_polygons = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._lines: FeatureLines | None = None

    def fault(self, source: Source) -> str:
        """See `Output`."""
        try:
            georeference = georeference_of(source.info(), source.record.name, self.name)
            degrees_of(georeference.crs, source.record.name)
        except UserError as error:
            return str(error)
        return ""

    def collect(self, results: ImageResults) -> None:
        """See `Output`."""
        name = results.source.record.name
        georeference = georeference_of(results.info, name, self.name)
        to_degrees = degrees_of(georeference.crs, name)
        self._lines = self._lines or FeatureLines(self.target.folder / FILE)
        for shape in shapes_of(results, self.target):
            rings = [
                counterclockwise(to_degrees(ring), turn=not number)
                for number, ring in enumerate(on_ground(shape, georeference))
            ]
            said: dict[str, Any] = {"image": name}
            if shape.label is not None:
                said |= {"class": self.target.classes[shape.label]}
                said |= {"class_id": self.target.category_ids[shape.label]}
            if shape.score is not None:
                said["score"] = shape.score
            self._lines.add(rings, said)

    def close(self) -> list[Path]:
        """See `Output`."""
        return [(self._lines or FeatureLines(self.target.folder / FILE)).close()]

    def give_up(self) -> None:
        """See `Output`."""
        if self._lines is not None:
            self._lines.give_up()


class FeatureLines:
    """A file of GeoJSON that features are added to; it gets its name when it is whole.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._partial = path, path.with_name(f".{path.name}.partial")
        self._comma = ""
        with files_of(path.parent):
            self._file: TextIO = self._partial.open("w", encoding="utf-8", errors="backslashreplace")
            self._file.write('{"type": "FeatureCollection", "features": [')

    def add(self, rings: Sequence[Ring], properties: dict[str, Any], **more: Any) -> None:
        """Add a polygon.

        Args:
            rings: Around it, and around its holes.
            properties: What is said of it.
            more: Members of the feature beside GeoJSON's.
        """
        geometry = {"type": "Polygon", "coordinates": rings}
        feature = {"type": "Feature", **more, "geometry": geometry, "properties": properties}
        with files_of(self.path.parent):
            self._file.write(f"{self._comma}\n{json.dumps(feature)}")
        self._comma = ","

    def close(self) -> Path:
        """End the file, and return its path."""
        with files_of(self.path.parent):
            self._file.write("\n]}\n")
            self._file.close()
            self._partial.replace(self.path)
        return self.path

    def give_up(self) -> None:
        """Remove what there is of the file."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


def degrees_of(crs: str, name: str) -> ToDegrees:
    """Return what turns places of a CRS into longitude and latitude.

    Raises:
        UserError: If the CRS is not known, or is none of the Earth; names the image.
    """
    if not crs:
        raise UserError(
            f"--format geojson writes longitudes and latitudes: the image {name} does not say its CRS; give it one "
            "(gdal_edit -a_srs), or take --format gpkg, which needs none"
        )
    pyproj = extra_package("pyproj", "geo", "--format geojson")
    try:
        return _degrees_of(crs)
    except pyproj.exceptions.ProjError as error:
        raise UserError(
            f"--format geojson writes longitudes and latitudes: the CRS of the image {name} has none ({error}); "
            "take --format gpkg"
        ) from None


@lru_cache(maxsize=64)
def _degrees_of(crs: str) -> ToDegrees:
    pyproj = extra_package("pyproj", "geo", "--format geojson")
    transform = pyproj.Transformer.from_crs(crs, _LONGITUDE_LATITUDE, always_xy=True).transform

    def to_degrees(ring: Ring) -> Ring:
        x, y = zip(*ring, strict=True)
        return list(zip(*transform(x, y, errcheck=True), strict=True))

    return to_degrees
