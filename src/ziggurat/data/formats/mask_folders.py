"""A folder of images and a folder of masks, paired by name; and VOC's SegmentationClass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ziggurat.data.faults import Fault
from ziggurat.data.files import folders_of, walk_files
from ziggurat.data.formats.table import (
    SPLIT_NAMES,
    ImageRow,
    MaskRow,
    Source,
    Split,
    Table,
    read_text,
    relative_name,
)
from ziggurat.data.readers.registry import image_suffixes

_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "img_dir", "jpegimages")
_MASK_FOLDERS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "gt", "segmentation", "segmentations",
    "segmentationclass", "ann_dir",
)  # fmt: skip
_CLASS_FILES = ("classes.txt", "classes.json")

# What is added to an image's name to name its mask, and what may name the image itself.
_MASK_ENDING = re.compile(r"[_\-. ](masks?|labels?|gt|seg|segmentation|annotation|l)$", re.IGNORECASE)
_IMAGE_ENDING = re.compile(r"[_\-. ](image|img|sat)$", re.IGNORECASE)


def find_mask_folders(folder: Path) -> dict[Split, Source]:
    """Find ``images`` and ``masks``, or folders of such names, with ``train`` and ``val`` above or below, or without."""
    splits: dict[Split, Source] = {}
    images, masks = _named(folder, _IMAGE_FOLDERS), _named(folder, _MASK_FOLDERS)
    for split, names in SPLIT_NAMES.items():
        inner = _named(folder, names)
        if images is not None and masks is not None:
            _add(splits, split, folder, _named(images, names), _named(masks, names))
        if inner is not None and split not in splits:
            _add(splits, split, folder, _named(inner, _IMAGE_FOLDERS), _named(inner, _MASK_FOLDERS))
    if not splits:
        _add(splits, "train", folder, images, masks)
    return splits


def find_voc_masks(folder: Path) -> dict[Split, Source]:
    """Find ``SegmentationClass`` and ``JPEGImages``, divided by ``ImageSets/Segmentation``."""
    masks, images = folder / "SegmentationClass", folder / "JPEGImages"
    if not masks.is_dir() or not images.is_dir():
        return {}
    splits: dict[Split, Source] = {}
    lists = folder / "ImageSets" / "Segmentation"
    files = {split: lists / f"{split}.txt" for split in SPLIT_NAMES if (lists / f"{split}.txt").is_file()}
    for split, listed in files.items():
        if split != "test" or _has_a_mask(listed, masks):  # that of VOC 2012 is not published
            splits[split] = _source("voc", folder, images, masks, (listed,))
    both = lists / "trainval.txt"
    if "train" not in files and both.is_file():
        source = _source("voc", folder, images, masks, (both,))
        splits = {"train": replace(source, others=tuple(files.values())), **splits}
    return splits or {"train": _source("voc", folder, images, masks)}


def _has_a_mask(listed: Path, masks: Path) -> bool:
    names = {line.split()[0] for line in listed.read_text("utf-8", "replace").splitlines() if line.strip()}
    return any(path.stem in names for path in walk_files(masks, image_suffixes()))


def read_mask_folders(source: Source) -> Table:
    """Pair the images and the masks of a split; what has no other half stands in the table's faults."""
    table = Table(source)
    ((images,), (masks,)) = source.listed, source.masks
    image_of = _by_name(table, images, {})
    bare = {_IMAGE_ENDING.sub("", name): name for name in image_of}
    mask_of = _by_name(table, masks, bare | {name: name for name in image_of})
    if source.files:
        others = set(_listed_names(table, source.others))
        names = [name for name in _listed_names(table, source.files) if name not in others]
        image_of = {name: path for name, path in image_of.items() if name in set(names)}
        mask_of = {name: path for name, path in mask_of.items() if name in set(names)}
        for line, name in enumerate(names, start=1):
            if name not in image_of and name not in mask_of:
                fault = f"missing image: there is no image {name!r} in {images}"
                table.add_fault(source.files[0], line, fault, "image")
    for name, path in image_of.items():
        if name not in mask_of:
            fault = f"image without a mask: there is no mask of its name in {masks}"
            table.add_fault(path, None, fault, "image")
            continue
        table.masks.append(MaskRow(len(table.images), mask_of[name]))
        table.images.append(ImageRow(relative_name(path, source.root), None, None, mask_of[name]))
    for name, path in mask_of.items():
        if name not in image_of:
            fault = f"mask without an image: there is no image of its name in {images}"
            table.add_fault(path, None, fault, "image")
    return table


def _by_name(table: Table, folder: Path, image_names: dict[str, str]) -> dict[str, Path]:
    """Return the files of a folder by name; masks by the name of their image, where it is among `image_names`."""
    files: dict[str, Path] = {}
    for path in walk_files(folder, image_suffixes()):
        own = path.relative_to(folder).with_suffix("").as_posix()
        without = _MASK_ENDING.sub("", own)
        name = image_names.get(own) or image_names.get(without) or own
        if name in files:
            fault = f"two files of one name: {files[name]} is the other; keep one"
            table.add_fault(path, None, fault)
        else:
            files[name] = path
    return files


def _listed_names(table: Table, files: Sequence[Path]) -> Iterable[str]:
    for file in files:
        text = read_text(file)
        if isinstance(text, Fault):
            table.faults.append(text)
        else:
            yield from (line.split()[0] for line in text.splitlines() if line.strip())


def _named(folder: Path | None, names: Sequence[str]) -> Path | None:
    """Return the folder of one of these names, whatever their case; the first name goes first."""
    if folder is None or not folder.is_dir():
        return None
    inner = {entry.name.lower(): entry.name for entry in folders_of(folder)}
    return next((folder / inner[name] for name in names if name in inner), None)


def _add(
    splits: dict[Split, Source], split: Split, root: Path, images: Path | None, masks: Path | None
) -> None:
    if images is not None and masks is not None and any(True for _ in walk_files(masks, image_suffixes())):
        splits[split] = _source("masks", root, images, masks)


def _source(format: str, root: Path, images: Path, masks: Path, files: tuple[Path, ...] = ()) -> Source:
    """Return the source of a pair of folders, with the file of class names that is nearest to the masks."""
    places = [masks, *masks.parents]
    places = places[: places.index(root) + 1]
    files_of_classes = (place / name for place in places for name in _CLASS_FILES)
    class_file = next((file for file in files_of_classes if file.is_file()), None)
    return Source(format, "masks", root, files, (root,), (images,), (masks,), class_file)
