"""Joins what annotations say with the image files to a data set, or lists what makes that impossible."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ziggurat.config import DataConfig
from ziggurat.data.dataset import Boxes, Dataset, FileDataset, FileList, PackedStrings, Spelling
from ziggurat.data.formats.kinds import KINDS
from ziggurat.data.formats.palette import all_ignored_fault
from ziggurat.data.formats.table import Fault, Split, Table
from ziggurat.data.formats.validate import (
    Placed,
    corners,
    doubled_boxes,
    header_sizes,
    outline_in_pixels,
    place_images,
    validate_boxes,
    validate_classes,
    validate_missing_outlines,
    validate_outlines,
)
from ziggurat.data.labels import LabelDataset
from ziggurat.data.masks import INEXACT, MAX_CLASSES, MaskDataset, Palette, mask_faults, size_fault
from ziggurat.data.outlines import OutlineDataset, Outlines
from ziggurat.data.readers.images import image_size
from ziggurat.data.readers.sample_range import read_range
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
    placed = place_images(table)
    sizes, size_faults = header_sizes(table, placed.paths, config.max_pixels)
    faults = [*table.faults, *placed.faults, *size_faults, *validate_boxes(table, sizes)]
    faults += validate_classes(table, tuple(declared))
    for one in doubled_boxes(table):
        table.note("the same box of the same class is there twice in an image", f"{one.file}, {one.id}")
    faults = faults or _emptiness(table, split)
    if faults:
        return Joined(None, faults)
    boxes = _sorted_boxes(table, sizes, _labels(declared))
    files = _file_list(table, placed, sizes, config)
    return Joined(FileDataset(tuple(declared), tuple(declared.values()), files, boxes), [])


def join_outlines(table: Table, split: Split, declared: dict[str, int], config: DataConfig) -> Joined:
    """Join outlines and images; the first of the `declared` classes is the background."""
    placed = place_images(table)
    sizes, size_faults = header_sizes(table, placed.paths, config.max_pixels)
    faults = [*table.faults, *placed.faults, *size_faults, *validate_classes(table, tuple(declared))]
    faults += [*validate_missing_outlines(table), *validate_outlines(table, sizes)]
    if len(declared) > MAX_CLASSES:
        fault = f"too many classes: masks can have {MAX_CLASSES} at most, got {len(declared)}"
        faults.append(Fault(str(table.source.files[0]), None, fault))
    faults = faults or _emptiness(table, split)
    if faults:
        return Joined(None, faults)
    outlines = _sorted_outlines(table, sizes, _labels(declared))
    files = _file_list(table, placed, sizes, config)
    return Joined(OutlineDataset(tuple(declared), tuple(declared.values()), files, outlines), [])


def join_labels(table: Table, split: Split, declared: dict[str, int], config: DataConfig) -> Joined:
    """Join labels and images, whose headers are read when they are needed: there may be millions."""
    placed = place_images(table)
    faults = [*table.faults, *placed.faults, *validate_classes(table, tuple(declared))]
    faults = faults or _emptiness(table, split)
    if faults:
        return Joined(None, faults)
    label_of = _labels(declared)
    labels = np.array([label_of[row.category] for row in table.labels], dtype=np.int64)
    files = _file_list(table, placed, np.zeros((len(table.images), 2), dtype=np.int64), config)
    return Joined(LabelDataset(tuple(declared), tuple(declared.values()), files, labels), [])


def join_masks(
    table: Table, split: Split, palette: Palette, known: tuple[str, ...] | None, config: DataConfig
) -> Joined:
    """Join masks and images; `known` are the names of the labels if they are not the masks' own."""
    placed = place_images(table)
    sizes, faults = header_sizes(table, placed.paths, config.max_pixels)
    faults = [*table.faults, *placed.faults, *faults, *mask_header_faults(table, sizes, config)]
    faults = faults or _emptiness(table, split)
    sound = [row for row in table.masks if str(row.path) not in {fault.file for fault in faults}]
    for row in sound[:: max(1, len(sound) // _LOOKED_AT)][:_LOOKED_AT]:
        found = mask_faults(row.path, palette, config.max_pixels)
        faults += [Fault(str(row.path), None, fault) for fault in found]
    if not faults:
        ignored = all_ignored_fault(table, palette, config) if split == "train" else None
        faults += [] if ignored is None else [ignored]
    if faults:
        return Joined(None, faults)
    names = palette.names if known is None else known
    files = _file_list(table, placed, sizes, config)
    masks = [str(row.path) for row in table.masks]
    return Joined(MaskDataset(names, tuple(range(len(names))), files, masks, palette), [])


def emptiness(table: Table) -> list[Fault]:
    """Return a fault if a split has no images or nothing that a model could learn."""
    source = table.source
    file = str(source.files[0] if len(source.files) == 1 else source.root)
    kind = "annotation file" if source.files else "data set"
    if not table.images and source.listed:
        folders = ", ".join(str(folder) for folder in source.listed)
        return [
            Fault(
                folders,
                None,
                f"empty {source.split or ''} split: no image lies in {folders}".replace("  ", " "),
            )
        ]
    if not table.images:
        return [Fault(file, None, f"empty {kind}: it names no image")]
    if table.boxes and all(row.crowd for row in table.boxes):
        crowds = f"all {len(table.boxes)} annotations are crowds (iscrowd), which take no part in training"
        return [Fault(file, None, f"empty {kind}: {crowds}")]
    if not table.num_annotations:
        what = KINDS[table.source.kind].one
        return [Fault(file, None, f"empty {kind}: there is no {what} in any image")]
    return []


def _emptiness(table: Table, split: Split) -> list[Fault]:
    return emptiness(table) if split == "train" or not table.images else []


def _labels(declared: Mapping[str, int]) -> dict[str, int]:
    return {name: label for label, name in enumerate(declared)}


def _file_list(table: Table, placed: Placed, sizes: np.ndarray, config: DataConfig) -> FileList:
    ids = [row.id for row in table.images]
    numbers = [id for id in ids if isinstance(id, int) and abs(id) < 1 << 63]
    spelled = table.spelled
    if len(numbers) < len(ids):
        numbers = list(range(1, len(ids) + 1))
        words = {
            n: table.spelled.images.get(id, id) if isinstance(id, int) else id
            for n, id in zip(numbers, ids, strict=True)
            if id is not None
        }
        spelled = Spelling(words, spelled.categories)
    image_ids = np.array(numbers, dtype=np.int64)
    names = PackedStrings([row.name for row in table.images])
    paths = PackedStrings([str(path) for path in placed.paths])
    return FileList(
        names, paths, image_ids, sizes, config.max_pixels, read_range(config.range), table.notes, spelled
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


def mask_header_faults(table: Table, sizes: np.ndarray, config: DataConfig) -> list[Fault]:
    """Return the faults of masks that their headers show: the format, and the size."""
    faults = []
    for row in table.masks:
        size, path = tuple(sizes[row.image].tolist()), str(row.path)
        if row.path.suffix.lower() in INEXACT:
            fault = "inexact mask: a JPEG has other values than were saved; save it as PNG"
            faults.append(Fault(path, None, fault))
            continue
        try:
            found = image_size(row.path, config.max_pixels)
        except UserError as error:
            faults.append(Fault(path, None, f"undecodable mask: {error}"))
            continue
        if found != size and size[0]:
            image = table.source.root / table.images[row.image].name
            faults.append(Fault(path, None, size_fault(found, (size[0], size[1]), image)))
    return faults
