"""YOLO: a text file for each image, whose lines are ``class x y width height`` or ``class x1 y1 x2 y2 x3 y3 ...``.

Numbers are shares of the image's width and height; x and y of a box are its center. The label file of
``.../images/.../a.jpg`` is ``.../labels/.../a.txt``; an image without one has no objects.

References:
    Redmon et al., You Only Look Once, 2016; the layout is that of darknet and https://docs.ultralytics.com/datasets
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ziggurat.data.faults import Fault
from ziggurat.data.files import walk_files
from ziggurat.data.formats.finding import FOUND_BY_ITS_END, ImageFinder, why_missing
from ziggurat.data.formats.table import (
    BoxRow,
    ImageRow,
    Source,
    Table,
    as_number,
    read_text,
    relative_name,
)
from ziggurat.data.formats.yolo_layout import read_keypoints, read_names
from ziggurat.data.readers.pages import stem_of
from ziggurat.data.readers.registry import image_suffixes

KEYPOINTS = "keypoints are not read: the box of each line is"

_NAMES = ("x", "y", "width", "height")
_ROUNDING = 1e-6  # beyond 0 and 1
_SHOWN = 6  # faults of one line


def read_yolo(source: Source) -> Table:
    """Read all label files of a split; whatever is wrong with them stands in the table's faults."""
    table = Table(source, unit="image")
    names, keypoints = read_names(table), read_keypoints(table)
    if keypoints is None:
        return table
    label_files: set[Path] = set()
    for path, listed, place in _images(table):
        file = label_file(path)
        label_files.add(file)
        has_labels = file.is_file()
        image = ImageRow(relative_name(path, source.root), None, None, file if has_labels else listed, place)
        table.images.append(image)
        if has_labels:
            _read_labels(table, file, names, keypoints)
    for folder in source.listed:
        _find_orphans(table, folder, label_files)
    return table


def label_file(image: Path) -> Path:
    """Return where the labels of an image are.

    Example:
        >>> label_file(Path("trees/images/train/a.jpg")).as_posix()
        'trees/labels/train/a.txt'
        >>> label_file(Path("trees/a.jpg")).as_posix()
        'trees/a.txt'
        >>> label_file(Path("trees/images/stack.tif#3")).as_posix()
        'trees/labels/stack#3.txt'
    """
    name = f"{stem_of(image)}.txt"
    file = _labels_of(image.parent) / name
    beside = image.with_name(name)  # in a folder below some other folder that is called images
    return beside if beside.is_file() and not file.is_file() else file


def has_polygons(source: Source) -> bool:
    """Whether the first labels that are found are polygons."""
    if read_keypoints(Table(source)) != 0:
        return False
    for path, _, _ in _images(Table(source)):
        file = label_file(path)
        text = read_text(file) if file.is_file() else ""
        lines = [] if isinstance(text, Fault) else [line for line in text.splitlines() if line.strip()]
        if lines:
            return len(lines[0].split()) > 5
    return False


def _labels_of(folder: Path) -> Path:
    parts = list(folder.parts)
    for place in range(len(parts) - 1, -1, -1):
        if parts[place] == "images":
            return Path(*parts[:place], "labels", *parts[place + 1 :])
    return folder


def _images(table: Table) -> Iterator[tuple[Path, Path, int | None]]:
    """Yield each image file, where it is listed, and the line there."""
    source = table.source
    for folder in source.listed:
        yield from ((path, path, None) for path in walk_files(folder, image_suffixes()))
    for file in source.files:
        text = read_text(file)
        if isinstance(text, Fault):
            table.faults.append(text)
            continue
        finder = ImageFinder(source, (file.parent, source.root))
        for line, name in enumerate(map(str.strip, text.splitlines()), start=1):
            path = _listed(table, file, finder, line, name) if name else None
            if path is not None:
                yield path, file, line


def _listed(table: Table, file: Path, finder: ImageFinder, line: int, name: str) -> Path | None:
    """Return the image that a line of a list names."""
    found = finder.find(name)
    if found.path is None:
        table.add_fault(file, line, why_missing(table.source, name, found), "image")
        return None
    root = os.path.abspath(table.source.root)
    if not found.path.startswith(root + os.sep):
        return Path(found.path)
    if found.is_guess:
        table.note(FOUND_BY_ITS_END, f"{name!r} at {os.path.relpath(found.path, root)}")
    return Path(table.source.root, os.path.relpath(found.path, root))


def _read_labels(table: Table, file: Path, names: list[str] | None, keypoints: int) -> None:
    text = read_text(file)
    if isinstance(text, Fault):
        if not text.fault.startswith("empty"):  # an empty label file is an image without objects
            table.add_fault(file, text.id, text.fault, "image", len(table.images) - 1)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            texts = line.split()
            if keypoints and len(texts) == 5 + keypoints:
                texts = texts[:5]
                table.note(KEYPOINTS, f"{file}, line {number}")
            elif keypoints and len(texts) != 5:
                fault = f"class, box and the {keypoints} numbers of kpt_shape: got {len(texts)} values"
                fault = f"wrong number of values: a line must have {fault}"
                table.add_fault(file, number, fault, "annotation")
                continue
            row = _row(table, texts, number, names)
            if isinstance(row, str):
                table.add_fault(file, number, row, "annotation")
            else:
                table.boxes.append(row)


def _row(table: Table, texts: list[str], line: int, names: list[str] | None) -> BoxRow | str:
    """Return the object of a line, or what is wrong with it."""
    is_polygon = len(texts) >= 7 and len(texts) % 2 == 1
    if len(texts) != 5 and not is_polygon:
        return (
            f"wrong number of values: a line is 'class x y width height', or 'class x1 y1 x2 y2 x3 y3 ...': got "
            f"{len(texts)} values"
        )
    numbers = [as_number(text) for text in texts]
    faults = list(_number_faults(texts, numbers, is_polygon))
    if faults:
        more = f"; {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        return f"wrong numbers: {'; '.join(faults[:_SHOWN])}{more}"
    label, *values = [number for number in numbers if number is not None]
    if names is None:
        category = str(int(label))
    elif label < len(names):
        category = names[int(label)]
    else:
        return f"unknown class: {int(label)}, there are {len(names)} names (0 to {len(names) - 1})"
    image = len(table.images) - 1
    if is_polygon:
        xs, ys = values[::2], values[1::2]
        return BoxRow(image, (min(xs), min(ys), max(xs), max(ys)), category, line, outline=[values])
    x, y, width, height = values
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return BoxRow(image, corners, category, line)


def _number_faults(texts: list[str], numbers: list[float | None], is_polygon: bool) -> Iterator[str]:
    label = numbers[0]
    if label is None or not (label >= 0 and label == label // 1 and label < 1 << 31):
        yield f"the class must be a whole number from 0, got {texts[0]}"
    for place, (text, number) in enumerate(zip(texts[1:], numbers[1:], strict=True)):
        name = f"{'xy'[place % 2]}{place // 2 + 1}" if is_polygon else _NAMES[place]
        if number is None or not -_ROUNDING <= number <= 1 + _ROUNDING:
            yield f"{name} must be in 0 to 1, got {text}"
        elif not is_polygon and place >= 2 and number <= 0:
            yield f"{name} must be positive, got {text}"


def _find_orphans(table: Table, folder: Path, label_files: set[Path]) -> None:
    labels = _labels_of(folder)
    if labels == folder or not labels.is_dir():  # beside the images there may be any text
        return
    for file in walk_files(labels, (".txt",)):
        if file.suffix == ".txt" and file.name != "classes.txt" and file not in label_files:
            place = folder / file.parent.relative_to(labels)
            fault = f"label file without image: no image of its name lies in {place}"
            table.add_fault(file, None, fault, "image")
