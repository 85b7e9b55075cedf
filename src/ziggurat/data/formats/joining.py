"""Joins what annotations say with the image files to a data set, or lists what makes that impossible."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ziggurat.config import DataConfig
from ziggurat.data.dataset import Dataset, Spelling
from ziggurat.data.faults import Fault
from ziggurat.data.file_dataset import Boxes, FileDataset, FileList
from ziggurat.data.formats.classes import validate_classes
from ziggurat.data.formats.headers import TAKEN_STORED
from ziggurat.data.formats.palette import all_ignored_fault
from ziggurat.data.formats.sound import Examined, Sound, emptiness, examine
from ziggurat.data.formats.table import Split, Table
from ziggurat.data.formats.validate import (
    corners,
    doubled_boxes,
    note_overhang,
    outline_in_pixels,
    validate_boxes,
    validate_missing_outlines,
    validate_outlines,
)
from ziggurat.data.labels import LabelDataset
from ziggurat.data.masks import INEXACT, MAX_CLASSES, MaskDataset, Palette, mask_faults, size_fault
from ziggurat.data.outlines import OutlineDataset, Outlines
from ziggurat.data.packed_strings import PackedStrings
from ziggurat.data.readers.images import image_size, read_header
from ziggurat.data.readers.layout import Reading
from ziggurat.data.readers.spacing import Scaling
from ziggurat.errors import UserError

_LOOKED_AT = (
    64  # masks that are decoded when a data set is opened; the others are validated when they are read
)


@dataclass(frozen=True)
class Joined:
    """A data set, or why there is none.

    Attributes:
        dataset: None if there are faults.
        faults: What makes it impossible.
    """

    dataset: Dataset | None
    faults: list[Fault]


def join_boxes(table: Table, split: Split, declared: dict[str, int], config: DataConfig) -> Joined:
    """Join boxes and images; `declared` is the category id of each class."""
    examined = examine(table, config)
    examined.faults.add(*validate_boxes(table, examined.sizes), *validate_classes(table, tuple(declared)))
    for one in doubled_boxes(table):
        table.note("the same box of the same class is there twice in an image", f"{one.file}, {one.id}")
    stopping = _stopping(examined, split)
    if stopping:
        return Joined(None, stopping)
    sound = examined.sound()
    note_overhang(sound.table, sound.sizes)
    boxes = _sorted_boxes(sound.table, sound.sizes, _labels(declared))
    names, ids = tuple(declared), tuple(declared.values())
    return Joined(FileDataset(names, ids, _file_list(sound, config), boxes), [])


def join_outlines(table: Table, split: Split, declared: dict[str, int], config: DataConfig) -> Joined:
    """Join outlines and images; the first of the `declared` classes is the background."""
    examined = examine(table, config)
    examined.faults.add(
        *validate_classes(table, tuple(declared)),
        *validate_missing_outlines(table),
        *validate_outlines(table, examined.sizes),
    )
    if len(declared) > MAX_CLASSES:
        fault = f"too many classes: masks can have {MAX_CLASSES} at most, got {len(declared)}"
        examined.faults.add(Fault(str(table.source.files[0]), None, fault))
    stopping = _stopping(examined, split)
    if stopping:
        return Joined(None, stopping)
    sound = examined.sound()
    outlines = _sorted_outlines(sound.table, sound.sizes, _labels(declared))
    names, ids = tuple(declared), tuple(declared.values())
    return Joined(OutlineDataset(names, ids, _file_list(sound, config), outlines), [])


def join_labels(table: Table, split: Split, declared: dict[str, int], config: DataConfig) -> Joined:
    """Join labels and images, whose headers are read when they are needed: there may be millions."""
    examined = examine(table, config, headers=Scaling.of(config) is not None)
    examined.faults.add(*validate_classes(table, tuple(declared)))
    stopping = _stopping(examined, split)
    if stopping:
        return Joined(None, stopping)
    sound, label_of = examined.sound(), _labels(declared)
    labels = np.array([label_of[row.category] for row in sound.table.labels], dtype=np.int64)
    names, ids = tuple(declared), tuple(declared.values())
    return Joined(LabelDataset(names, ids, _file_list(sound, config), labels), [])


def join_masks(
    table: Table, split: Split, palette: Palette, known: tuple[str, ...] | None, config: DataConfig
) -> Joined:
    """Join masks and images; `known` are the names of the labels if they are not the masks' own."""
    examined = examine(table, config)
    examined.faults.add(*mask_header_faults(examined, config))
    bad = examined.faults.rows("image") | {one.row for one in examined.faults.all if one.scope == "image"}
    sound_rows = [row for row in table.masks if row.image not in bad]
    for row in sound_rows[:: max(1, len(sound_rows) // _LOOKED_AT)][:_LOOKED_AT]:
        found = mask_faults(row.path, palette, config.max_pixels)
        examined.faults.add(*[Fault(str(row.path), None, fault, "image", row.image) for fault in found])
    stopping = _stopping(examined, split)
    if not stopping and split == "train":
        ignored = all_ignored_fault(table, palette, config)
        stopping = [] if ignored is None else [ignored]
    if stopping:
        return Joined(None, stopping)
    sound = examined.sound()
    names = palette.names if known is None else known
    masks = [str(row.path) for row in sound.table.masks]
    return Joined(MaskDataset(names, tuple(range(len(names))), _file_list(sound, config), masks, palette), [])


def _stopping(examined: Examined, split: Split) -> list[Fault]:
    """Return the faults for which a split cannot be used."""
    return examined.faults.stopping or emptiness(examined, is_trained_on=split == "train")


def _labels(declared: Mapping[str, int]) -> dict[str, int]:
    return {name: label for label, name in enumerate(declared)}


def _file_list(sound: Sound, config: DataConfig) -> FileList:
    rows = sound.table.images
    ids = [row.id for row in rows]
    numbers = [id for id in ids if isinstance(id, int) and abs(id) < 1 << 63]
    spelled = sound.table.spelled
    if len(numbers) < len(ids):
        numbers = list(range(1, len(ids) + 1))
        words = {
            n: spelled.images.get(id, id) if isinstance(id, int) else id
            for n, id in zip(numbers, ids, strict=True)
            if id is not None
        }
        spelled = Spelling(words, spelled.categories)
    return FileList(
        PackedStrings([row.name for row in rows]),
        PackedStrings([str(path) for path in sound.paths]),
        np.array(numbers, dtype=np.int64),
        sound.sizes,
        config.max_pixels,
        Reading.of(config),
        sound.table.notes,
        spelled,
        sound.turns if sound.turns.any() else None,
        sound.left_out,
        sound.spacings,
    )


def _order(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of boxes by image, in which those of an image stay as they are, and where each image ends."""
    image = np.array([row.image for row in table.boxes], dtype=np.int64)
    counts = np.bincount(image, minlength=len(table.images))
    return np.argsort(image, kind="stable"), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _sorted_boxes(table: Table, sizes: np.ndarray, label_of: dict[str, int]) -> Boxes:
    """Return the boxes ordered by image; those of an image keep the order of the file."""
    order, ends = _order(table)
    xyxy = corners(table, sizes).astype(np.float32)
    box_areas = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    given = np.array([np.nan if row.area is None else row.area for row in table.boxes], dtype=np.float64)
    areas = np.where(np.isfinite(given) & (given > 0), given, box_areas).astype(np.float32)
    labels = np.array([label_of[row.category] for row in table.boxes], dtype=np.int64)
    crowd = np.array([row.crowd for row in table.boxes], dtype=np.bool_)
    return Boxes(ends, xyxy[order], labels[order], areas[order], crowd[order])


def _sorted_outlines(table: Table, sizes: np.ndarray, label_of: dict[str, int]) -> Outlines:
    """Return the outlines ordered by image."""
    order, ends = _order(table)
    rows = [table.boxes[index] for index in order.tolist()]
    labels = np.array([label_of[row.category] for row in rows], dtype=np.uint8)
    crowd = np.array([row.crowd for row in rows], dtype=np.bool_)
    shapes = [json.dumps(outline_in_pixels(table, row, sizes[row.image].tolist())) for row in rows]
    return Outlines(ends, labels, crowd, PackedStrings(shapes))


def mask_header_faults(examined: Examined, config: DataConfig) -> list[Fault]:
    """Return the faults of masks that their headers show: the format, and the size.

    A mask of the size in which a photo lies in its file is of the photo as it lies there.
    """
    faults = []
    table, measured = examined.table, examined.measured
    for row in table.masks:
        size, path = tuple(measured.sizes[row.image].tolist()), str(row.path)
        if row.path.suffix.lower() in INEXACT:
            fault = "inexact mask: a JPEG has other values than were saved; save it as PNG"
            faults.append(Fault(path, None, fault, "image", row.image))
            continue
        try:
            found = image_size(row.path, config.max_pixels)
        except UserError as error:
            faults.append(Fault(path, None, f"undecodable mask: {error}", "image", row.image))
            continue
        if found == size or not size[0]:
            continue
        image = examined.paths[row.image]
        assert image is not None  # it was measured
        turn = read_header(image, config.max_pixels, Reading.of(config)).orientation
        if found == size[::-1] and turn >= 5:
            table.note(TAKEN_STORED, table.images[row.image].name)
            measured.sizes[row.image], measured.turns[row.image] = found, turn
        else:
            faults.append(Fault(path, None, size_fault(found, (size[0], size[1]), image), "image", row.image))
    return faults
