"""Finds the splits of a data set and the format of their annotations, by looking at names and contents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ziggurat.data.formats.csv import is_header
from ziggurat.data.formats.table import Format, Source, Split
from ziggurat.errors import UserError, nearest

LOOKED_FOR = """looked for
    train.json and val.json (COCO), or train.csv and val.csv (image_path,xmin,ymin,xmax,ymax,label),
    annotations/instances_train*.json and instances_val*.json (COCO's own layout),
    Annotations/*.xml with JPEGImages/ and ImageSets/Main/train.txt and val.txt (VOC),
    folders train/ and val/, each with one annotation file or with VOC files beside its images,
    one annotation file, or VOC files beside the images"""

_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid", "validation")}
_SUFFIXES: dict[str, Format] = {".json": "coco", ".xml": "voc", ".csv": "csv"}
_HEAD_BYTES = 1 << 16


def recognise(path: Path) -> dict[Split, Source]:
    """Return where each split of a data set lies.

    Args:
        path: A folder, or one annotation file, which then serves as both splits.

    Raises:
        UserError: If there is no such file, nothing is recognised, or it cannot be told which file is meant.
    """
    if path.is_file():
        kind = format_of(path) or _SUFFIXES.get(path.suffix.lower())
        if kind is None:
            raise UserError(
                f"the file {path} is of no known format: it must be COCO JSON, VOC XML, or CSV whose first line is "
                "image_path,xmin,ymin,xmax,ymax,label"
            )
        source = _file_source(path, kind)
        return {"train": source, "val": source}
    if not path.is_dir():
        raise UserError(_not_there(path))
    for look in (_named_files, _coco_layout, _voc_layout, _split_folders, _single):
        splits = look(path)
        if splits:
            return splits
    raise UserError(f"no data set is recognised in the folder {path}: {LOOKED_FOR}")


def format_of(file: Path) -> Format | None:
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
    return "csv" if is_header(head.partition("\n")[0]) else None


def _not_there(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"there is no data set {path}: the folder {parent} does not exist"
    names = sorted(entry.name for entry in parent.iterdir())
    return f"there is no data set {path}: {nearest(path.name, names) if names else f'{parent} is empty'}"


def _file_source(file: Path, kind: Format, root: Path | None = None) -> Source:
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
    return Source(kind, root, (file,), tuple(folder for folder in folders if folder.is_dir()))


def _xml_source(files: Sequence[Path], root: Path, folders: Sequence[Path]) -> Source:
    return Source("voc", root, tuple(files), tuple(folder for folder in folders if folder.is_dir()))


def _named_files(folder: Path) -> dict[Split, Source]:
    """Find ``train.json``, ``val.json``, ``train.csv``, ``val.csv``; COCO goes first."""
    splits: dict[Split, Source] = {}
    for split, names in _NAMES.items():
        for suffix in (".json", ".csv"):
            files = [folder / (name + suffix) for name in names if (folder / (name + suffix)).is_file()]
            if files and split not in splits:
                splits[split] = _file_source(files[0], format_of(files[0]) or _SUFFIXES[suffix])
    return splits


def _coco_layout(folder: Path) -> dict[Split, Source]:
    """Find ``annotations/instances_train2017.json`` and the like."""
    splits: dict[Split, Source] = {}
    for base in (folder / "annotations", folder / "Annotations"):
        for split in _NAMES:
            files = sorted(file for file in base.glob(f"*{split}*.json") if format_of(file) == "coco")
            files = [file for file in files if file.name.startswith("instances_")] or files
            if files and split not in splits:
                splits[split] = _file_source(_only(files, folder), "coco")
    return splits


def _voc_layout(folder: Path) -> dict[Split, Source]:
    """Find ``Annotations/*.xml``, divided by ``ImageSets/Main``; without it all are of the train split."""
    base = next((folder / name for name in ("Annotations", "annotations") if (folder / name).is_dir()), None)
    files = [] if base is None else sorted(base.glob("*.xml"))
    if base is None or not files:
        return {}
    folders = [folder / "JPEGImages", folder / "images", base, folder]
    splits: dict[Split, Source] = {}
    for split in _NAMES:
        listed = folder / "ImageSets" / "Main" / f"{split}.txt"
        if listed.is_file():
            lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
            names = [line.split()[0] for line in lines if line.strip()]
            _check_names(names, listed)
            splits[split] = _xml_source([base / f"{name}.xml" for name in names], folder, folders)
    return splits or {"train": _xml_source(files, folder, folders)}


def _check_names(names: list[str], listed: Path) -> None:
    leaving = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    if leaving:
        raise UserError(f"the list {listed} must name files of its data set: got {leaving[0]!r}")


def _split_folders(folder: Path) -> dict[Split, Source]:
    """Find folders ``train`` and ``val`` that hold a data set each."""
    splits: dict[Split, Source] = {}
    for split, names in _NAMES.items():
        for name in names:
            inner = folder / name
            if split not in splits and inner.is_dir():
                found = _single(inner, root=folder) or _voc_layout(inner)
                splits |= {split: found["train"]} if found else {}
    return splits


def _single(folder: Path, root: Path | None = None) -> dict[Split, Source]:
    """Find one annotation file, or VOC files beside the images: the train split."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".json", ".csv"))
    known = {file: kind for file in files if (kind := format_of(file)) is not None}
    if known:
        file = _only(list(known), folder)
        return {"train": _file_source(file, known[file], root)}
    voc = [file for file in sorted(folder.glob("*.xml")) if format_of(file) == "voc"]
    folders = [folder, folder / "images", folder / "JPEGImages"]
    return {"train": _xml_source(voc, root or folder, folders)} if voc else {}


def _only(files: Sequence[Path], folder: Path) -> Path:
    if len(files) > 1:
        raise UserError(
            f"the folder {folder} has several annotation files ({', '.join(file.name for file in files)}): "
            "name the one that is meant, or call them train and val"
        )
    return files[0]
