"""Opens a split of a data set for training and evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ziggurat.config import DataConfig, DigitsConfig, Task
from ziggurat.data.dataset import Boxes, Dataset, DetectionDataset, FileDataset
from ziggurat.data.digits import DigitLabels, DigitMasks, DigitScenes
from ziggurat.data.formats.coco import read_coco
from ziggurat.data.formats.csv import read_csv
from ziggurat.data.formats.judge import (
    corners,
    declared_classes,
    header_sizes,
    judge_boxes,
    judge_classes,
    place_images,
)
from ziggurat.data.formats.recognise import recognise
from ziggurat.data.formats.table import Fault, Format, Source, Split, Table
from ziggurat.data.formats.voc import read_voc
from ziggurat.errors import UserError

DIGITS: dict[Task, type[DigitScenes] | type[DigitLabels] | type[DigitMasks]] = {
    "detect": DigitScenes,
    "classify": DigitLabels,
    "segment": DigitMasks,
}
READERS: dict[Format, Callable[[Source], Table]] = {"coco": read_coco, "voc": read_voc, "csv": read_csv}

_SHOWN = 3  # faults of a kind that are listed one by one


def open_dataset(
    path: str,
    split: Split,
    task: Task,
    config: DataConfig,
    digits: DigitsConfig,
    classes: tuple[str, ...] | None = None,
) -> Dataset | None:
    """Open one split of a data set; its images are not decoded yet.

    Args:
        path: A folder, an annotation file (which serves as both splits), or ``digits``, the embedded data set.
        split: ``train`` or ``val``.
        task: What the data set is for; it must have such annotations.
        config: How images and masks are read.
        digits: How the embedded data set looks.
        classes: Names of the labels, such as those that a model was trained with; None takes those of the
            training split, or of this one where there is none.

    Returns:
        The split, or None if there is no ``val`` split.

    Raises:
        UserError: If nothing is recognised, or for faults that make training impossible; all are listed.
    """
    if path == "digits":
        scenes = DIGITS[task](digits, split)
        if classes not in (None, scenes.classes):
            raise UserError(
                f"the run must know the classes of digits, {', '.join(scenes.classes)}: it knows {', '.join(classes or ())}"
            )
        return scenes
    if not path:
        raise UserError("no data set is given: name a folder, an annotation file, or 'digits'")
    sources = recognise(Path(path))
    if split not in sources:
        if split == "val":
            return None
        raise UserError(f"the data set {path} has no train split: only {', '.join(sources)} was found")
    table = read_table(sources[split])
    declared = declared_classes(table)
    if classes is not None:
        own = declared
        declared = {name: own.get(name, number) for number, name in enumerate(classes, start=1)}
    elif "train" in sources and sources["train"] != sources[split]:
        declared = declared_classes(read_table(sources["train"]))
    return _join(path, split, table, declared, config.max_pixels)


def read_table(source: Source) -> Table:
    """Read the annotations of a split."""
    return READERS[source.format](source)


def _join(
    path: str, split: Split, table: Table, declared: dict[str, int], max_pixels: int
) -> DetectionDataset:
    """Make a data set of a table and its images, or raise what is wrong with them."""
    placed = place_images(table)
    sizes, size_faults = header_sizes(table, placed.paths, max_pixels)
    faults = [*table.faults, *placed.faults, *size_faults, *judge_boxes(table, sizes)]
    faults += judge_classes(table, tuple(declared))
    if not faults:
        faults = emptiness(table) if split == "train" or not table.images else []
    if faults:
        raise UserError(list(_sentences(faults, path)))
    boxes = _sorted_boxes(table, {name: label for label, name in enumerate(declared)})
    ids = [row.id for row in table.images]
    numbers = [id for id in ids if isinstance(id, int) and abs(id) < 1 << 63]
    return FileDataset(
        tuple(declared),
        tuple(declared.values()),
        [row.name for row in table.images],
        [str(found) for found in placed.paths],
        np.array(numbers if len(numbers) == len(ids) else range(1, len(ids) + 1), dtype=np.int64),
        sizes,
        boxes,
        max_pixels,
    )


def _sorted_boxes(table: Table, label_of: dict[str, int]) -> Boxes:
    """Return the boxes ordered by image; those of an image keep the order of the file."""
    image = np.array([row.image for row in table.boxes], dtype=np.int64)
    order = np.argsort(image, kind="stable")
    xyxy = corners(table).astype(np.float32)
    box_areas = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    given = np.array([np.nan if row.area is None else row.area for row in table.boxes], dtype=np.float64)
    areas = np.where(np.isfinite(given) & (given > 0), given, box_areas).astype(np.float32)
    labels = np.array([label_of[row.category] for row in table.boxes], dtype=np.int64)
    crowd = np.array([row.crowd for row in table.boxes], dtype=np.bool_)
    counts = np.bincount(image, minlength=len(table.images))
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Boxes(ends, xyxy[order], labels[order], areas[order], crowd[order])


def emptiness(table: Table) -> list[Fault]:
    """Return a fault if a split has no images or no boxes at all."""
    file = str(table.source.files[0] if len(table.source.files) == 1 else table.source.root)
    if not table.images:
        return [Fault(file, None, "empty annotation file: it names no image")]
    if not table.boxes:
        return [Fault(file, None, "empty annotation file: there is no box in any image")]
    return []


def _sentences(faults: list[Fault], path: str) -> list[str]:
    """Put faults into words: the first of each kind, and how many more there are."""
    counts = Counter(fault.kind for fault in faults)
    sentences = []
    for kind, count in counts.items():
        shown = [fault for fault in faults if fault.kind == kind][:_SHOWN]
        for fault in shown:
            place = fault.file if fault.id is None else f"{fault.file}, {fault.id}"
            sentences.append(f"{place}: {fault.fault}")
        if count > len(shown):
            rest = count - len(shown)
            sentences.append(f"{rest} more of '{kind}': run 'ziggurat check {path}' to see them all")
    return sentences
