"""labelme's JSON: a file for each image, with its shapes.

A rectangle is a box; a polygon is an outline, and the box around it; a circle is the box around it. Shapes of one label and one ``group_id`` are
parts of one object. Points and lines have no area, and are passed over, which is said.

References:
    https://github.com/wkentaro/labelme
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ziggurat.data.faults import Fault
from ziggurat.data.files import files_of
from ziggurat.data.formats.table import (
    SPLIT_NAMES,
    BoxRow,
    ImageRow,
    Source,
    Split,
    Table,
    as_number,
    as_size,
    read_text,
)

WITHOUT_AREA = ("point", "points", "line", "linestrip")
_HEAD_BYTES = 1 << 16

Points = list[tuple[float, float]]


def find_labelme(path: Path) -> dict[str, dict[Split, Source]]:
    """Return where the splits of a data set of labelme's lie: ``train`` and ``val`` folders, or one; nothing if it is none."""
    if not path.is_dir():
        return {}
    splits: dict[Split, Source] = {}
    for split, names in SPLIT_NAMES.items():
        for name in names:
            if split not in splits and (path / name).is_dir() and (files := _files(path / name)):
                splits[split] = _source(path, path / name, files)
    if not splits and (files := _files(path)):
        splits["train"] = _source(path, path, files)
    if not splits:
        return {}
    kinds = {"boxes": splits}
    if all(_is_outlined(source) for source in splits.values()):
        kinds["outlines"] = {split: _as_outlines(source) for split, source in splits.items()}
    return kinds


def read_labelme(source: Source) -> Table:
    """Read all JSON files of a split; whatever is wrong with them stands in the table's faults."""
    table = Table(source)
    for file in source.files:
        content = _load(file)
        if isinstance(content, Fault):
            table.add_fault(file, content.id, content.fault, "image")
            continue
        name = content.get("imagePath")
        size = as_size(content.get("imageHeight"), content.get("imageWidth"))
        given = name if isinstance(name, str) and name else file.stem
        table.images.append(ImageRow(given, None, size, file, stems=(file.stem,)))
        _read_shapes(table, file, content["shapes"])
    return table


def _files(folder: Path) -> tuple[Path, ...]:
    """Return the JSON files of a folder if the first one is labelme's."""
    files = files_of(folder, (".json",))
    return tuple(files) if files and _is_labelme(files[0]) else ()


def _is_labelme(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
            stream.seek(max(0, file.stat().st_size - _HEAD_BYTES))
            tail = stream.read()
    except OSError:
        return False
    return b'"shapes"' in head and (b'"imagePath"' in head or b'"imagePath"' in tail)


def _source(root: Path, folder: Path, files: tuple[Path, ...]) -> Source:
    folders = [folder, folder / "images", root / "images", root]
    return Source("labelme", "boxes", root, files, tuple(one for one in folders if one.is_dir()))


def _as_outlines(source: Source) -> Source:
    return Source(source.format, "outlines", source.root, source.files, source.folders)


def _is_outlined(source: Source) -> bool:
    """Whether the first file with shapes that have an area has outlines."""
    for file in source.files:
        content = _load(file)
        shapes = [] if isinstance(content, Fault) else content["shapes"]
        kinds = [shape.get("shape_type") for shape in shapes if isinstance(shape, dict)]
        if with_area := [kind for kind in kinds if kind not in WITHOUT_AREA]:
            return all(kind in ("polygon", None) for kind in with_area)
    return False


def _load(file: Path) -> dict[str, Any] | Fault:
    text = read_text(file)
    if isinstance(text, Fault):
        return text
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Fault(str(file), None, f"not JSON: {error}")
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        return Fault(str(file), None, "not labelme: an object with a list of shapes was expected")
    return content


def _read_shapes(table: Table, file: Path, shapes: list[Any]) -> None:
    grouped: dict[tuple[str, Any], list[tuple[int, str, Points]]] = {}
    for number, shape in enumerate(shapes, start=1):
        shape = shape if isinstance(shape, dict) else {}
        label, kind = shape.get("label"), shape.get("shape_type") or "polygon"
        if kind in WITHOUT_AREA:
            table.note(f"a shape of type '{kind}' has no area, and is passed over", f"{file}, shape {number}")
            continue
        points = _points(shape.get("points"))
        if not isinstance(label, str) or not label.strip():
            table.add_fault(file, number, "unknown category: the shape has no label", "annotation")
        elif points is None or (fault := _points_fault(kind, points)) is not None:
            said = "points must be pairs of numbers" if points is None else fault
            table.add_fault(file, number, f"unreadable shape: {said}", "annotation")
        else:
            group = shape.get("group_id")
            key = number if group is None else f"group {group}"
            grouped.setdefault((label.strip(), key), []).append((number, kind, _outline(kind, points)))
    for (label, _), parts in grouped.items():
        corners = [point for _, _, points in parts for point in points]
        xs, ys = [x for x, _ in corners], [y for _, y in corners]
        is_outline = all(kind == "polygon" for _, kind, _ in parts)
        outline = [[value for point in points for value in point] for _, _, points in parts]
        table.boxes.append(
            BoxRow(
                len(table.images) - 1,
                (min(xs), min(ys), max(xs), max(ys)),
                label,
                parts[0][0],
                outline=outline if is_outline else None,
            )
        )


def _points(points: object) -> Points | None:
    if not isinstance(points, list) or not all(isinstance(one, list) and len(one) == 2 for one in points):
        return None
    numbers = [(as_number(x), as_number(y)) for x, y in points]
    found = [(x, y) for x, y in numbers if x is not None and y is not None]
    return found if len(found) == len(points) else None


def _points_fault(kind: str, points: Sequence[object]) -> str | None:
    least = {"rectangle": 2, "mask": 2, "circle": 2, "polygon": 3}.get(kind)
    if least is None:
        return f"its shape_type '{kind}' is not known (rectangle, polygon, circle, mask)"
    if len(points) < least or (kind == "circle" and len(points) != 2):
        return f"a {kind} needs {least} points{' or more' if kind == 'polygon' else ''}: got {len(points)}"
    return None


def _outline(kind: str, points: Points) -> Points:
    """Return the corners between which a shape lies."""
    if kind != "circle":
        return points
    (x, y), edge = points
    radius = math.dist((x, y), edge)
    return [(x - radius, y - radius), (x + radius, y + radius)]
