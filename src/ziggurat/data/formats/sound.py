"""The sound part of a split: what remains when faulty annotations and images are left out, or why nothing can be used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from ziggurat.config import DataConfig
from ziggurat.data.faults import Fault, Faults, left_out
from ziggurat.data.formats.headers import Measured, measure, not_measured
from ziggurat.data.formats.kinds import KINDS
from ziggurat.data.formats.table import BoxRow, LabelRow, MaskRow, Table
from ziggurat.data.formats.validate import place_images

Row = TypeVar("Row", BoxRow, LabelRow, MaskRow)


@dataclass(frozen=True)
class Examined:
    """A table whose images were looked for, with all that is wrong with it so far.

    Attributes:
        table: As its files have it.
        paths: File of each image, or None where it is missing.
        measured: What the headers say.
        faults: All of them, with what becomes of each.
    """

    table: Table
    paths: list[Path | None]
    measured: Measured
    faults: Faults

    @property
    def sizes(self) -> np.ndarray:
        """Rows and columns of each image, int64, shape ``(images, 2)``; 0 where they are not known."""
        return self.measured.sizes

    def sound(self) -> Sound:
        """Return what remains; only of use where no fault stops."""
        table = self.table
        images, annotations = self.faults.rows("image"), self.faults.rows("annotation")
        kept = [index for index in range(len(table.images)) if index not in images]
        paths = [self.paths[index] for index in kept]
        turns, spacings = self.measured.turns[kept], self.measured.spacings
        faults = tuple(self.faults.skipped)
        if not images and not annotations:
            return Sound(table, paths, self.sizes, turns, spacings, faults)
        place = {index: number for number, index in enumerate(kept)}
        boxes = [row for index, row in enumerate(table.boxes) if index not in annotations]
        rest = replace(
            table,
            images=[table.images[index] for index in kept],
            boxes=_moved(boxes, place),
            labels=_moved(table.labels, place),
            masks=_moved(table.masks, place),
        )
        return Sound(
            rest, paths, self.sizes[kept], turns, None if spacings is None else spacings[kept], faults
        )


@dataclass(frozen=True)
class Sound:
    """What remains of a split.

    Attributes:
        table: Without what is left out.
        paths: File of each image.
        sizes: Rows and columns of each image, int64, shape ``(images, 2)``; 0 where they are not known.
        turns: As in `Measured`.
        spacings: As in `Measured`.
        left_out: The faults of what is left out.
    """

    table: Table
    paths: list[Path | None]
    sizes: np.ndarray
    turns: np.ndarray
    spacings: np.ndarray | None
    left_out: tuple[Fault, ...]


def examine(table: Table, config: DataConfig, *, headers: bool = True) -> Examined:
    """Look for the images of a table.

    Args:
        table: As its files have it.
        config: How images are read, and the policy.
        headers: Whether the headers are read.
    """
    placed = place_images(table)
    measured = measure(table, placed.paths, config) if headers else not_measured(len(placed.paths))
    faults = Faults(config.on_error, [*table.faults, *placed.faults, *measured.faults])
    return Examined(table, placed.paths, measured, faults)


def emptiness(examined: Examined, *, is_trained_on: bool = True) -> list[Fault]:
    """Return a fault if what remains of a split has no images, or nothing that a model could learn where it is trained on."""
    sound = examined.sound()
    table, source = sound.table, sound.table.source
    file = str(source.files[0] if len(source.files) == 1 else source.root)
    kind = "annotation file" if source.files else "data set"
    if not table.images and sound.left_out:
        fault = f"empty {kind}: nothing is left of its {len(examined.table.images)} images"
    elif not table.images and source.listed:
        file = ", ".join(str(folder) for folder in source.listed)
        fault = f"empty {source.split or ''} split: no image lies in {file}".replace("  ", " ")
    elif not table.images:
        fault = f"empty {kind}: it names no image"
    elif not is_trained_on:
        return []
    elif table.boxes and all(row.crowd for row in table.boxes):
        crowds = f"all {len(table.boxes)} annotations are crowds (iscrowd) or difficult, which take no part in training"
        fault = f"empty {kind}: {crowds}"
    elif not table.num_annotations:
        fault = f"empty {kind}: there is no {KINDS[source.kind].one} in any image"
    else:
        return []
    return [Fault(file, None, "; ".join([fault, *left_out(sound.left_out)]))]


def _moved(rows: list[Row], place: dict[int, int]) -> list[Row]:
    """Return the rows of images that remain, with their new places."""
    return [row._replace(image=place[row.image]) for row in rows if row.image in place]
