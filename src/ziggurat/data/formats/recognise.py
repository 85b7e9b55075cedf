"""Finds the splits of a data set, the format of their annotations and what they serve, by looking."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ziggurat.data.files import entries_of, files_of
from ziggurat.data.formats.coco import has_outlines
from ziggurat.data.formats.csv import csv_kind
from ziggurat.data.formats.imagefolder import find_class_folders
from ziggurat.data.formats.mask_folders import find_mask_folders, find_voc_masks
from ziggurat.data.formats.registry import FORMATS
from ziggurat.data.formats.table import SPLIT_NAMES, Source, Split
from ziggurat.data.formats.vector_layers import SUFFIXES as VECTOR_SUFFIXES
from ziggurat.data.formats.voc import listed_names
from ziggurat.data.formats.yolo import has_polygons
from ziggurat.data.formats.yolo_layout import find_in_yaml, find_yolo, is_data_yaml
from ziggurat.errors import UserError, nearest

LOOKED_FOR = """looked for
    train.json and val.json (COCO), or train.csv and val.csv (image_path,xmin,ymin,xmax,ymax,label or image_path,label),
    annotations/instances_train*.json and instances_val*.json, or one file there (COCO's own layout, CVAT's),
    Annotations/*.xml with JPEGImages/ and ImageSets/Main/train.txt and val.txt (VOC),
    SegmentationClass/*.png with JPEGImages/ and ImageSets/Segmentation/train.txt and val.txt (VOC),
    data.yaml, or images/ and labels/*.txt with classes.txt, or images and their texts side by side (YOLO, labelImg), obj.data (CVAT),
    *.json with shapes beside the images (labelme),
    train.gpkg and val.gpkg, or one, or *.shp or *.geojson, over georeferenced images (vectors),
    images/ and masks/, each with train/ and val/ or without (masks),
    folders train/ and val/, each with one annotation file or with VOC files beside its images,
    one annotation file, or VOC files beside the images,
    a folder for each class, in train/ and val/ or without (ImageFolder)"""

_SUFFIXES: dict[str, str] = {".json": "coco", ".xml": "voc", ".csv": "csv"}
_HEAD_BYTES = 1 << 16


class NotServedError(UserError):
    """A data set has no annotations of the kinds that are needed.

    Attributes:
        format: The name of the format that was recognised.
        annotations: The kinds that it has.
    """

    def __init__(self, path: str, needed: Sequence[str], found: Recognised) -> None:
        self.format, self.annotations = found.format, found.kinds
        super().__init__(
            f"the data set must have {' or '.join(needed)}: {path} was recognised as {found.format}, which has "
            f"{' and '.join(found.kinds)} here"
        )


@dataclass(frozen=True)
class Recognised:
    """What a data set is.

    Attributes:
        format: The name of the format that its annotations are written in.
        splits: Where each split lies, for each kind of annotation that it has, the most natural first.
    """

    format: str
    splits: dict[str, dict[Split, Source]]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its annotations, the most natural first."""
        return tuple(self.splits)

    def sources(self, path: str, kinds: Sequence[str]) -> dict[Split, Source]:
        """Return where each split lies, with annotations of the first of these kinds that the data set has.

        Raises:
            NotServedError: If it has none of them.
        """
        for kind in kinds:
            if kind in self.splits:
                return self.splits[kind]
        raise NotServedError(path, kinds, self)


def recognise(path: Path) -> Recognised:
    """Return what a data set is and where its splits lie.

    Args:
        path: A folder, or one annotation file, which then serves as both splits.

    Raises:
        UserError: If there is no such file, nothing is recognised, or it cannot be told which file is meant.
    """
    if not path.exists():
        raise UserError(_not_there(path))
    for name, format in FORMATS.items():
        found = format.recognise(path) if format.recognise is not None else {}
        if found:
            return Recognised(name, found)
    if path.is_file():
        return _served(_of_file(path))
    looks: list[Callable[[Path], dict[Split, Source]]] = [
        _named_files, _coco_layout, _voc_layout, find_voc_masks, find_yolo, find_mask_folders, _split_folders, _single,
        find_class_folders,
    ]  # fmt: skip
    only_test: dict[Split, Source] = {}
    for look in looks:
        if look is _single and only_test:
            continue  # what is named as a test split is not trained on
        splits = look(path)
        if splits.keys() - {"test"}:
            return _served(splits)
        only_test = only_test or splits
    if only_test:
        return _served(only_test)
    raise UserError(f"no data set is recognised in the folder {path}: {LOOKED_FOR}")


def _served(splits: dict[Split, Source]) -> Recognised:
    """Add the other kinds of annotations that the same data set has."""
    first = next(iter(splits.values()))
    kinds = {first.kind: splits}
    if first.format == "voc" and first.kind == "boxes":
        masks = find_voc_masks(first.root)
        if masks:
            kinds["masks"] = masks
    elif (first.format == "coco" and has_outlines(first.files[0])) or (
        first.format == "yolo" and has_polygons(first)
    ):
        kinds["outlines"] = {split: replace(source, kind="outlines") for split, source in splits.items()}
    return Recognised(first.format, kinds)


def _of_file(path: Path) -> dict[Split, Source]:
    if path.suffix.lower() in (".yaml", ".yml") and is_data_yaml(path):
        return find_in_yaml(path, is_named=True)
    kind = format_of(path) or _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise UserError(
            f"the file {path} is of no known format: it must be COCO JSON, VOC XML, YOLO's data.yaml, or CSV whose first "
            "line is image_path,xmin,ymin,xmax,ymax,label or image_path,label"
        )
    source = _file_source(path, kind)
    return {"train": source, "val": source, "test": source}


def is_annotation_file(path: Path) -> bool:
    """Whether a path is a file that names a data set, and no image: by its suffix."""
    return path.suffix.lower() in (*_SUFFIXES, ".yaml", ".yml", *VECTOR_SUFFIXES) and path.is_file()


def format_of(file: Path) -> str | None:
    """Return the format that a file's beginning shows, or None."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD_BYTES).decode("utf-8-sig", "replace").lstrip()
            stream.seek(max(0, file.stat().st_size - _HEAD_BYTES))
            tail = stream.read().decode("utf-8", "replace")
    except OSError:
        return None
    if head.startswith("{"):
        keys = re.compile(r'"(images|annotations)"\s*:')  # in any order; one list may fill megabytes
        return "coco" if keys.search(head) or keys.search(tail) else None
    if head.startswith("<"):
        return "voc" if "<annotation" in head else None
    return "csv" if csv_kind(head.partition("\n")[0]) else None


def _csv_kind(file: Path) -> str:
    """Return the kind of annotations of a CSV file; a broken one is taken for boxes, and its faults are listed when it is read."""
    try:
        with file.open("rb") as stream:
            line = stream.readline(_HEAD_BYTES).decode("utf-8-sig", "replace")
    except OSError:
        return "boxes"
    return csv_kind(line.strip()) or "boxes"


def _not_there(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"there is no data set {path}: the folder {parent} does not exist"
    names = [entry.name for entry in entries_of(parent)]
    return f"there is no data set {path}: {nearest(path.name, names) if names else f'{parent} is empty'}"


def _file_source(file: Path, kind: str, root: Path | None = None) -> Source:
    """Return the source of one annotation file, with every folder its images may lie in."""
    base = file.parent
    in_annotations = base.name.lower() == "annotations"
    stem = file.stem
    words = dict.fromkeys([stem, stem.partition("_")[2], stem.removesuffix(".voc")])
    folders = []
    for parent in [base, base.parent] if in_annotations else [base]:
        named = [parent / word for word in words if word]
        in_images = [parent / "images" / word for word in words if word]
        folders += [parent, *named, parent / "images", *in_images, parent / "JPEGImages"]
    folders += [base / "train", base / "val"]
    root = root or (base.parent if in_annotations else base)
    annotations = _csv_kind(file) if kind == "csv" else "boxes"
    return Source(kind, annotations, root, (file,), tuple(folder for folder in folders if folder.is_dir()))


def _xml_source(files: Sequence[Path], root: Path, folders: Sequence[Path]) -> Source:
    return Source("voc", "boxes", root, tuple(files), tuple(folder for folder in folders if folder.is_dir()))


def _named_files(folder: Path) -> dict[Split, Source]:
    """Find ``train.json``, ``val.json``, ``train.csv``, ``val.csv``; COCO goes first."""
    splits: dict[Split, Source] = {}
    for split, names in SPLIT_NAMES.items():
        for suffix in (".json", ".csv"):
            files = [folder / (name + suffix) for name in names if (folder / (name + suffix)).is_file()]
            if files and split not in splits and (split != "test" or _is_annotated(files[0])):
                splits[split] = _file_source(files[0], format_of(files[0]) or _SUFFIXES[suffix])
    return splits


def _coco_layout(folder: Path) -> dict[Split, Source]:
    """Find ``annotations/instances_train2017.json`` and the like."""
    splits: dict[Split, Source] = {}
    for base in (folder / "annotations", folder / "Annotations"):
        for split in SPLIT_NAMES:
            files = _coco_files(base, split)
            files = [file for file in files if split != "test" or _is_annotated(file)]
            if files and split not in splits:
                splits[split] = _file_source(_only(files, folder), "coco")
        if not splits and len(files := _coco_files(base)) == 1:  # CVAT's instances_default.json
            splits["train"] = _file_source(files[0], "coco")
    return splits


def _is_annotated(file: Path) -> bool:
    """Whether a file of a test split, which often names images alone, says what is on them."""
    if format_of(file) != "coco":
        return format_of(file) is not None
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return re.search(rb'"annotations"\s*:\s*\[\s*\{', content) is not None


def _coco_files(folder: Path, word: str = "") -> list[Path]:
    """Return the COCO files of a folder whose names have a word in them; of objects, where there are others of captions or keypoints."""
    found = files_of(folder, (".json",)) if folder.is_dir() else []
    files = [file for file in found if word in file.name.lower() and format_of(file) == "coco"]
    return [file for file in files if file.name.startswith("instances_")] or files


def _voc_layout(folder: Path) -> dict[Split, Source]:
    """Find ``Annotations/*.xml``, divided by ``ImageSets/Main``; without it all are of the train split."""
    base = next((folder / name for name in ("Annotations", "annotations") if (folder / name).is_dir()), None)
    files = [] if base is None else files_of(base, (".xml",))
    if base is None or not files:
        return {}
    folders = [folder / "JPEGImages", folder / "images", base, folder]
    splits: dict[Split, Source] = {}
    for split, names in listed_names(folder / "ImageSets" / "Main").items():
        listed = [base / f"{name}.xml" for name in names]
        if split != "test" or any(file.is_file() for file in listed):  # that of VOC 2012 is not published
            splits[split] = _xml_source(listed, folder, folders)
    return splits or {"train": _xml_source(files, folder, folders)}


def _split_folders(folder: Path) -> dict[Split, Source]:
    """Find folders ``train`` and ``val`` that hold a data set each."""
    splits: dict[Split, Source] = {}
    for split, names in SPLIT_NAMES.items():
        for name in names:
            inner = folder / name
            if split not in splits and inner.is_dir():
                found = _single(inner, root=folder) or _voc_layout(inner)
                splits |= {split: found["train"]} if found else {}
    return splits


def _single(folder: Path, root: Path | None = None) -> dict[Split, Source]:
    """Find one annotation file, or VOC files beside the images: the train split."""
    files = files_of(folder, (".json", ".csv"))
    known = {file: kind for file in files if (kind := format_of(file)) is not None}
    if known:
        file = _only(list(known), folder)
        return {"train": _file_source(file, known[file], root)}
    voc = [file for file in files_of(folder, (".xml",)) if format_of(file) == "voc"]
    folders = [folder, folder / "images", folder / "JPEGImages"]
    return {"train": _xml_source(voc, root or folder, folders)} if voc else {}


def _only(files: Sequence[Path], folder: Path) -> Path:
    if len(files) > 1:
        raise UserError(
            f"the folder {folder} has several annotation files ({', '.join(file.name for file in files)}): "
            "name the one that is meant, or call them train and val"
        )
    return files[0]
