"""What the headers of images say against what the annotations say of them: sizes, and photos that their EXIF turns.

A camera that is held upright writes its photo lying, with a note (EXIF orientation 5 to 8) by which it is turned when it is shown. Tools
of annotation write the lying size with boxes of the upright photo (Label Studio), lying sizes with boxes of the lying photo
(tools that do not know the note), or upright ones. Where the size is the lying one, boxes that fit in only one of the two say which it is;
``data.exif`` says it where no box does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ziggurat.config import DataConfig
from ziggurat.data.extents import Extent
from ziggurat.data.faults import Fault
from ziggurat.data.formats.table import Table
from ziggurat.data.readers.images import Header, read_header
from ziggurat.data.readers.layout import Reading
from ziggurat.data.readers.spacing import Scaling, UnscaledError
from ziggurat.errors import UserError

FIT_TOLERANCE = 1.0  # pixels: annotators round
Frame = Literal["upright", "stored"]

TAKEN_UPRIGHT = (
    "a photo that its EXIF turns has the size of its file in the annotations, and its boxes are taken for those of the "
    "upright photo; --set data.exif=stored takes them for those of the file"
)
TAKEN_STORED = (
    "a photo that its EXIF turns is taken as it lies in its file, for which its annotations are; --set "
    "data.exif=upright turns it"
)


@dataclass(frozen=True)
class Measured:
    """The images of a table as they will be read.

    Attributes:
        sizes: Rows and columns of each, int64, shape ``(images, 2)``; 0 where it is not known.
        turns: The EXIF orientation of images that are taken as they lie in their files, 0 of all others; uint8, shape ``(images,)``.
        faults: Headers that cannot be read, or are not what the annotations say.
        spacings: Distance of rows and of columns of each, float64, shape ``(images, 2)``; NaN where it is not known. None where
            no setting asks for it.
    """

    sizes: np.ndarray
    turns: np.ndarray
    faults: list[Fault]
    spacings: np.ndarray | None = None


def not_measured(count: int) -> Measured:
    """Return what is known of images whose headers are read when they are needed."""
    return Measured(np.zeros((count, 2), dtype=np.int64), np.zeros(count, dtype=np.uint8), [])


def measure(table: Table, paths: Sequence[Path | None], config: DataConfig) -> Measured:
    """Read the headers of all images of a table, and say how each is read; what is guessed is noted in the table.

    Args:
        table: Its boxes are in the unit that it says, their numbers whatever the files have.
        paths: File of each image, or None where it is missing.
        config: How images are read.
    """
    measured = not_measured(len(paths))
    reading, scaling = Reading.of(config), Scaling.of(config)
    if scaling is not None:
        measured = replace(measured, spacings=np.full((len(paths), 2), np.nan))
    lying: dict[int, Header] = {}
    for index, (row, path) in enumerate(zip(table.images, paths, strict=True)):
        if path is None:
            continue
        try:
            header = read_header(path, config.max_pixels, reading)
        except UserError as error:
            fault = f"undecodable image: {error}"
            measured.faults.append(Fault(str(path), row.place, fault, "image", index))
            continue
        measured.sizes[index] = header.extent
        if scaling is not None:
            _measure_spacing(table, index, path, scaling, measured)
        if row.size == header.extent or (row.size is None and not header.is_turned):
            continue
        if row.size is None or (header.is_turned and row.size == header.extent[::-1]):
            lying[index] = header
        else:
            fault = (
                f"size mismatch: the image {row.name!r} has {_shown(header.extent)} pixels, the annotation says "
                f"{_shown(row.size)}; correct the size or replace the image"
            )
            measured.faults.append(Fault(str(row.file), row.place, fault, "image", index))
    if lying:
        _decide(table, lying, config, measured)
    if measured.spacings is not None:
        on_side = measured.turns >= 5
        measured.spacings[on_side] = measured.spacings[on_side, ::-1]
    return measured


def _measure_spacing(table: Table, index: int, path: Path, scaling: Scaling, measured: Measured) -> None:
    """Read how far the pixels of an image lie apart, or note that it does not say it."""
    assert measured.spacings is not None  # they are asked for
    row = table.images[index]
    try:
        measured.spacings[index] = scaling.spacing(path)
    except UnscaledError as error:
        if scaling.keeps_unscaled:
            table.note(scaling.kept(), row.name)
        else:
            measured.faults.append(Fault(str(path), row.place, scaling.unscaled(str(error)), "image", index))


def _decide(table: Table, lying: dict[int, Header], config: DataConfig, measured: Measured) -> None:
    """Say of each photo whose annotations have the size of its file, or none, whether it is turned."""
    said = _frames_by_boxes(table, lying)
    others: set[Frame] = {config.exif} if config.exif != "auto" else set(said.values())
    for index, header in lying.items():
        frame = config.exif if config.exif != "auto" else said.get(index)
        if frame is None and len(others) == 1:  # all that say it say the same
            (frame,) = others
        row = table.images[index]
        if row.size is None and frame != "stored":
            continue  # upright, as everywhere: nothing speaks against it
        if frame == "upright":
            table.note(TAKEN_UPRIGHT, row.name)
        elif frame == "stored":
            table.note(TAKEN_STORED, row.name)
            measured.sizes[index] = header.extent[::-1]
            measured.turns[index] = header.orientation
        else:
            fault = (
                f"size mismatch: the image {row.name!r} has {_shown(header.extent)} pixels when it is turned upright as its "
                f"EXIF says, the annotation says {_shown(header.extent[::-1])}, as it lies in its file; say which of both "
                "its boxes are for: --set data.exif=upright or --set data.exif=stored"
            )
            measured.faults.append(Fault(str(row.file), row.place, fault, "image", index))


def _frames_by_boxes(table: Table, lying: dict[int, Header]) -> dict[int, Frame]:
    """Return what the annotations of photos fit in, of those where they fit in one of the two only."""
    farthest: dict[int, list[float]] = {}
    run_lengths: set[int] = set()
    for row in table.boxes:
        if row.image in lying and table.unit == "pixel":
            reached = farthest.setdefault(row.image, [0.0, 0.0])
            corner = row.box_xyxy[3], row.box_xyxy[2]  # lower end, right end
            reached[:] = [max(old, new) for old, new in zip(reached, corner, strict=True)]
            if isinstance(row.outline, dict):
                run_lengths.add(row.image)
    frames: dict[int, Frame] = {}
    for index, reached in farthest.items():
        extent = lying[index].extent
        upright, stored = _fits(reached, extent), _fits(reached, extent[::-1])
        if index in run_lengths:  # they are of all pixels of one of the two, which is that of the size
            frames[index] = "stored"
        elif upright != stored:
            frames[index] = "upright" if upright else "stored"
    return frames


def _fits(reached: Sequence[float], extent: Extent) -> bool:
    return all(end <= size + FIT_TOLERANCE for end, size in zip(reached, extent, strict=True))


def _shown(extent: Extent) -> str:
    return f"{extent[1]} x {extent[0]}"
