"""Where the splits of a YOLO data set lie: as ``data.yaml`` says, or folders ``images`` and ``labels``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from ziggurat.data.faults import Fault
from ziggurat.data.files import files_of, walk_files
from ziggurat.data.formats.table import SPLIT_NAMES, Source, Split, Table, as_number, read_text
from ziggurat.data.readers.registry import image_suffixes
from ziggurat.errors import UserError

_USUAL = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
_CLASS_FILES = ("classes.txt", "obj.names")


def find_yolo(folder: Path) -> dict[Split, Source]:
    """Find a YAML file that names classes and splits, or ``images`` and ``labels`` with text files.

    Raises:
        UserError: If the YAML file cannot be used.
    """
    files = [folder / name for name in _USUAL if (folder / name).is_file()]
    files = files or files_of(folder, (".yaml", ".yml"))
    for file in files:
        if is_data_yaml(file):
            return find_in_yaml(file)
    for file in files_of(folder, (".data",)):
        if splits := _find_in_darknet(file):
            return splits
    places = [folder / name for name in (*_USUAL, *_CLASS_FILES)]
    places += [folder / "labels" / name for name in _CLASS_FILES]
    class_file = next((place for place in places if place.is_file()), None)
    return _find_folders(folder, class_file) or _find_beside(folder, class_file)


def is_data_yaml(file: Path) -> bool:
    """Whether a file is YAML that names classes or a number of them, and a split."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        return file.name in _USUAL  # whatever is wrong with it, it is meant to be
    if not isinstance(content, dict):
        return False
    splits = [name for names in SPLIT_NAMES.values() for name in names]
    return ("names" in content or "nc" in content) and any(content.get(name) for name in splits)


def find_in_yaml(file: Path, is_named: bool = False) -> dict[Split, Source]:
    """Return the splits that a YAML file names; they lie in its folder.

    Args:
        file: The YAML file.
        is_named: Whether the user has named the file, and so the folder that its ``path`` names: that is then the data set's.

    Raises:
        UserError: If it cannot be read, or for every path that leaves its folder or is not there.
    """
    content = _load(file)
    base = content["path"] if isinstance(content.get("path"), str) else ""
    root = file.parent
    if is_named and (root / base).is_dir():
        root, base = Path(os.path.normpath(root / base)), ""
    faults: list[str] = []
    splits: dict[Split, Source] = {}
    for split, names in SPLIT_NAMES.items():
        entry = next((content[name] for name in names if content.get(name)), None)
        entries = [entry] if isinstance(entry, str) else entry if isinstance(entry, list) else []
        if entry is not None and not (entries and all(isinstance(one, str) for one in entries)):
            faults.append(f"{file}: {split} must be a path or a list of paths, got {str(entry)[:80]}")
            continue
        found = [_resolve(file, root, base, one) for one in entries]
        if split == "test" and any(isinstance(one, str) for one in found):
            continue  # exporters name one that is not there
        faults += [f"{file}: {split}: {one}" for one in found if isinstance(one, str)]
        places = [one for one in found if isinstance(one, Path)]
        if places:
            lists = tuple(place for place in places if place.is_file())
            folders = tuple(place for place in places if place.is_dir())
            splits[split] = Source("yolo", "boxes", root, lists, (root,), folders, class_file=file)
    if faults:
        raise UserError(faults)
    return splits


def read_keypoints(table: Table) -> int | None:
    """Return how many numbers of keypoints follow the box in a line (``kpt_shape: [17, 3]``); 0 where there are none.

    None stands for a fault, which is then in the table.
    """
    file = table.source.class_file
    if file is None or file.suffix not in (".yaml", ".yml"):
        return 0
    try:
        shape = _load(file).get("kpt_shape")
    except UserError:
        return 0  # `read_names` says it
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and n > 0 for n in shape):
        fault = f"unreadable kpt_shape: it must be [number of keypoints, 2 or 3], got {shape}"
        table.add_fault(file, None, fault)
        return None
    points, dims = shape
    return int(points * dims)


def read_names(table: Table) -> list[str] | None:
    """Return the names of the classes, which are then declared in the table; or None, with a fault in the table."""
    file = table.source.class_file
    if file is None:
        fault = "no class names: write them into classes.txt, one a line, or into data.yaml (names)"
        table.add_fault(table.source.root, None, fault)
        return None
    text = read_text(file)
    names: list[str] | Fault
    if isinstance(text, Fault):
        names = text
    elif file.suffix in (".yaml", ".yml"):
        names = _yaml_names(file)
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not isinstance(names, Fault):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            names = Fault(str(file), None, f"duplicate class name: {', '.join(twice)}")
    if isinstance(names, Fault):
        table.faults.append(names)
        return None
    table.categories.update({name: number for number, name in enumerate(names, start=1)})
    return names


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"the file {file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"the file {file} must hold names and paths of splits (train: images/train)")
    return content


def _yaml_names(file: Path) -> list[str] | Fault:
    try:
        content = _load(file)
    except UserError as error:
        return Fault(str(file), None, f"not YAML: {error}")
    names, count = content.get("names"), content.get("nc")
    if isinstance(names, dict):
        numbers = list(range(len(names)))
        if {type(key) for key in names} != {int} or sorted(names) != numbers:
            fault = (
                f"unreadable names: their numbers must be 0 to {len(names) - 1}, each once, got {list(names)}"
            )
            return Fault(str(file), None, fault[:200])
        names = [names[number] for number in numbers]
    if not isinstance(names, list) or not names:
        return Fault(str(file), None, "no class names: names must be a list, or numbers with names")
    wrong = [name for name in names if type(name) not in (str, int, float) or not str(name).strip()]
    if wrong:
        fault = f"unreadable names: each must be a word, got {wrong[:5]}; put yes, no, on and off in quotes"
        return Fault(str(file), None, fault)
    if count is not None and count != len(names):
        return Fault(str(file), None, f"wrong number of classes: nc is {count}, there are {len(names)} names")
    return [str(name).strip() for name in names]


def _resolve(file: Path, folder: Path, base: str, entry: str) -> Path | str:
    """Return the folder or list that an entry means, or what is wrong with it.

    Entries are looked for under ``path``, then beside the YAML file, and without a leading ``../``, which one widely
    used exporter writes although it means the file's own folder.
    """
    root = os.path.abspath(folder)
    bare = entry
    while bare.startswith("../"):
        bare = bare[3:]
    places = [os.path.join(root, base, entry), os.path.join(root, entry), os.path.join(root, bare)]
    places = [os.path.normpath(place) for place in places]
    inside = [place for place in places if place == root or place.startswith(root + os.sep)]
    found = next((place for place in inside if os.path.exists(place)), None)
    if found is not None:
        return Path(folder, os.path.relpath(found, root))
    if any(place not in inside and os.path.exists(place) for place in places):
        return (
            f"path leaves the data set: {entry!r} does not lie in {root}; name {file.name} itself instead of its folder, or put it "
            "into the data set's folder"
        )
    return f"there is no folder or list {entry!r} in {root}"


def _find_folders(folder: Path, class_file: Path | None) -> dict[Split, Source]:
    """Find ``images/train`` with ``labels/train``, ``train/images`` with ``train/labels``, or both without splits."""
    splits: dict[Split, Source] = {}
    for split, names in SPLIT_NAMES.items():
        for name in names:
            pairs = [
                (folder / "images" / name, folder / "labels" / name),
                (folder / name / "images", folder / name / "labels"),
            ]
            for images, labels in pairs:
                if split not in splits and images.is_dir() and _has_texts(labels):
                    splits[split] = _in_folder(folder, images, class_file)
    if not splits and (folder / "images").is_dir() and _has_texts(folder / "labels"):
        splits["train"] = _in_folder(folder, folder / "images", class_file)
    return splits


def _find_beside(folder: Path, class_file: Path | None) -> dict[Split, Source]:
    """Find images with their texts beside them, as labelImg writes them: in ``train`` and ``val``, or in one folder."""
    if class_file is None:
        return {}
    splits: dict[Split, Source] = {}
    for split, names in SPLIT_NAMES.items():
        inner = next((folder / name for name in names if (folder / name).is_dir()), None)
        if inner is not None and _is_labelled(inner):
            splits[split] = _in_folder(folder, inner, class_file)
    if not splits and _is_labelled(folder):
        splits["train"] = _in_folder(folder, folder, class_file)
    return splits


def _is_labelled(folder: Path) -> bool:
    """Whether an image of a folder has a text of its name beside it, whose first line is an object."""
    for image in files_of(folder, image_suffixes()):
        text = image.with_suffix(".txt")
        if text.is_file():
            words = text.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0].split()
            if len(words) >= 5 and all(as_number(word) is not None for word in words):
                return True
    return False


def _find_in_darknet(file: Path) -> dict[Split, Source]:
    """Return the splits that darknet's file of settings names (``train = data/train.txt``), as CVAT writes it.

    Its paths begin at the folder where darknet was run; here their ends are looked for in the file's own folder.
    """
    text = read_text(file)
    lines = [] if isinstance(text, Fault) else [line.partition("=") for line in text.splitlines()]
    values = {key.strip(): value.strip() for key, equals, value in lines if equals}
    names = _by_end(file.parent, values.get("names", ""))
    splits: dict[Split, Source] = {}
    for split, words in SPLIT_NAMES.items():
        places = (_by_end(file.parent, values.get(word, "")) for word in words)
        listed = next((place for place in places if place is not None), None)
        if listed is not None:
            splits[split] = Source("yolo", "boxes", file.parent, (listed,), (file.parent,), class_file=names)
    return splits


def _by_end(folder: Path, name: str) -> Path | None:
    """Return the file of a folder that a path ends in, with as many of its parts as lead to one."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    tails = (folder.joinpath(*parts[start:]) for start in range(len(parts)))
    return next((tail for tail in tails if tail.is_file()), None)


def _in_folder(root: Path, images: Path, class_file: Path | None) -> Source:
    return Source("yolo", "boxes", root, (), (root,), (images,), class_file=class_file)


def _has_texts(labels: Path) -> bool:
    return labels.is_dir() and any(True for _ in walk_files(labels, (".txt",)))
