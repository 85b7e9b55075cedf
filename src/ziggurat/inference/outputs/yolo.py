"""YOLO's texts: a line for each box, ``label x y width height``, as shares of the image's width and height; x and y of the middle.

Scores are left to ``predictions.json``: programs that read such files as annotations take five numbers.
"""

from __future__ import annotations

from pathlib import Path

from ziggurat.inference.outputs.base import ImageResults, Output
from ziggurat.system.writing import write_text

FOLDER = "labels"


class YoloTexts(Output):
    """A file for each image, in the folder ``labels``, and the names of the classes."""

    name = "yolo"
    takes = ("boxes",)

    def image(self, results: ImageResults) -> None:
        """See `Output`."""
        folder = self.target.folder / FOLDER
        folder.mkdir(exist_ok=True)
        rows, columns = results.source.record.extent
        lines = []
        for row in results.rows:
            left, top, width, height = row["bbox"]
            shares = ((left + width / 2) / columns, (top + height / 2) / rows, width / columns, height / rows)
            lines.append(" ".join([str(self.target.label(row)), *(f"{share:.12g}" for share in shares)]))
        write_text(folder / f"{results.stem}.txt", "".join(f"{line}\n" for line in lines))

    def close(self) -> list[Path]:
        """See `Output`."""
        folder = self.target.folder / FOLDER
        folder.mkdir(exist_ok=True)
        write_text(self.target.folder / "classes.txt", "".join(f"{name}\n" for name in self.target.classes))
        return [folder, self.target.folder / "classes.txt"]
