"""GeoJSON as QuPath exchanges objects: places in pixels of full resolution, from the upper left, with a classification that has a name and a colour.

References:
    https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ziggurat.inference.outputs.base import ImageResults, Output
from ziggurat.inference.outputs.geojson import FeatureLines
from ziggurat.inference.outputs.shapes import counterclockwise, shapes_of
from ziggurat.visualize.colors import class_color

FOLDER = "qupath"


class QuPath(Output):
    """A file for each image, in the folder ``qupath``."""

    name = "qupath"
    writes_polygons = True

    def image(self, results: ImageResults) -> None:
        """See `Output`."""
        folder = self.target.folder / FOLDER
        folder.mkdir(exist_ok=True)
        lines = FeatureLines(folder / f"{results.stem}.geojson")
        kind = "detection" if self.target.lies_on == "boxes" else "annotation"
        try:
            for shape in shapes_of(results, self.target):
                rings = [counterclockwise(ring, turn=not number) for number, ring in enumerate(shape.rings)]
                said: dict[str, Any] = {"objectType": kind}
                if shape.label is not None:
                    name, colour = self.target.classes[shape.label], class_color(shape.label)
                    said["classification"] = {"name": name, "color": list(colour)}
                if shape.score is not None:
                    said["measurements"] = {"score": shape.score}
                lines.add(rings, said)
        except BaseException:
            lines.give_up()
            raise
        lines.close()

    def close(self) -> list[Path]:
        """See `Output`."""
        return [self.target.folder / FOLDER]
