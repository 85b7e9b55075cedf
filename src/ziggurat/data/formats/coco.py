"""COCO JSON: images, annotations and categories, joined by ids.

References:
    Lin et al., Microsoft COCO: Common Objects in Context, 2014. https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path
from typing import Any

from faster_coco_eval.core import mask as coco_mask

from ziggurat.data.faults import Fault
from ziggurat.data.formats.table import (
    BoxRow,
    ImageRow,
    Source,
    Table,
    as_number,
    as_size,
    read_text,
)
from ziggurat.data.outlines import outline_fault, run_lengths

_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,18}")
BOX_AROUND = "an annotation without bbox has the box around its outline"


def read_coco(source: Source) -> Table:
    """Read one COCO file; whatever is wrong with it stands in the table's faults."""
    table = Table(source)
    (file,) = source.files
    lists = _lists(table, file)
    if lists is None:
        return table
    images, annotations, categories = lists
    names = _read_categories(table, file, categories, annotations)
    index_of = _read_images(table, file, images)
    _read_annotations(table, file, annotations, names, index_of)
    return table


def has_outlines(file: Path) -> bool:
    """Whether an annotation has an outline: a search that ends at the first one."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return re.search(rb'"segmentation"\s*:\s*(\[\s*[^\s\]]|\{)', content) is not None
    except (OSError, ValueError):  # not readable, or empty
        return False


def _lists(table: Table, file: Path) -> tuple[list[Any], list[Any], list[Any]] | None:
    """Parse the file and return its three lists."""
    text = read_text(file)
    if isinstance(text, Fault):
        table.faults.append(text)
        return None
    try:
        content = json.loads(text)
        if (
            "\\ud" in text or "\\uD" in text
        ):  # half of a character can be spelled, but never be printed or written
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        table.add_fault(file, None, "not text: a name holds half a character (a lone \\ud800 to \\udfff)")
        return None
    except (ValueError, RecursionError) as error:
        table.add_fault(file, None, f"not JSON: {error}")
        return None
    if not isinstance(content, dict):
        table.add_fault(
            file, None, f"not COCO: an object with images was expected, got a {type(content).__name__}"
        )
        return None
    wrong = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if wrong:
        table.add_fault(file, None, f"not COCO: there is no list of {' and of '.join(wrong)}")
        return None
    return content["images"], content["annotations"], content["categories"]


def _read_categories(
    table: Table, file: Path, categories: list[Any], annotations: list[Any]
) -> dict[Any, str]:
    """Return the name of each category id, and declare the classes in the order of their ids."""
    names: dict[Any, str] = {}
    for entry in categories:
        entry = entry if isinstance(entry, dict) else {}
        id, name = entry.get("id"), entry.get("name")
        id = _key(id)
        if not isinstance(id, int) or not isinstance(name, str) or not name:
            table.add_fault(
                file, None, f"unreadable category: it needs a whole id and a name, got {_shown(entry)}"
            )
        elif id in names:
            table.add_fault(file, id, f"duplicate category id: '{names[id]}' and '{name}' have the same")
        else:
            names[id] = name
            if isinstance(entry["id"], str):
                table.spelled.categories[id] = entry["id"]
    used = {_key(entry.get("category_id")) for entry in annotations if isinstance(entry, dict)}
    for id, name in sorted(names.items()):
        # Exporters declare one name twice, once as its own parent: the id that has objects counts.
        if name not in table.categories or (id in used and table.categories[name] not in used):
            table.categories[name] = id
    return names


def _read_images(table: Table, file: Path, images: list[Any]) -> dict[Any, int]:
    """Add the images; return the index of each image id."""
    index_of: dict[Any, int] = {}
    for entry in images:
        entry = entry if isinstance(entry, dict) else {}
        id, name = _key(entry.get("id")), entry.get("file_name")
        if id is None or not isinstance(name, str) or not name:
            table.add_fault(
                file,
                None,
                f"unreadable image entry: it needs an id and a file_name, got {_shown(entry)}",
                "image",
            )
        elif id in index_of:
            other = table.images[index_of[id]].name
            table.add_fault(file, id, f"duplicate image id: '{other}' and '{name}' have the same")
        else:
            index_of[id] = len(table.images)
            if isinstance(id, int) and isinstance(entry["id"], str):
                table.spelled.images[id] = entry["id"]
            table.images.append(
                ImageRow(name, id, as_size(entry.get("height"), entry.get("width")), file, place=id)
            )
    return index_of


def _read_annotations(
    table: Table, file: Path, annotations: list[Any], names: dict[Any, str], index_of: dict[Any, int]
) -> None:
    seen: set[Any] = set()
    for entry in annotations:
        if not isinstance(entry, dict):
            table.add_fault(file, None, f"unreadable annotation: got {_shown(entry)}", "annotation")
            continue
        id, image, category = (_key(entry.get(key)) for key in ("id", "image_id", "category_id"))
        if id is not None and id in seen:
            table.add_fault(file, id, "duplicate annotation id: two annotations have the same", "remark")
        seen.add(id)
        outline = entry.get("segmentation") or None
        box = _corners(entry.get("bbox"))
        if box is None and not entry.get("bbox") and outline is not None:
            box = _around(outline)
            if box is not None:
                table.note(BOX_AROUND, f"annotation {id}")
        if image not in index_of:
            table.add_fault(
                file,
                id,
                f"unknown image: the annotation's image_id {image} is not among the images",
                "annotation",
            )
        elif category not in names:
            table.add_fault(
                file,
                id,
                f"unknown category: category_id {category} is not among the {len(names)} categories",
                "annotation",
            )
        elif box is None:
            table.add_fault(
                file,
                id,
                f"unreadable box: bbox must be [x, y, width, height], got {_shown(entry.get('bbox'))}",
                "annotation",
            )
        else:
            crowd = entry.get("iscrowd") in (1, True)
            area = as_number(entry.get("area"))
            table.boxes.append(BoxRow(index_of[image], box, names[category], id, area, crowd, outline))


def _around(outline: object) -> tuple[float, float, float, float] | None:
    """Return the box around an outline, or None where it cannot be drawn."""
    if isinstance(outline, dict):
        size = outline.get("size")
        if not isinstance(size, list) or len(size) != 2 or outline_fault(outline, *size) is not None:
            return None
        x, y, width, height = coco_mask.toBbox(run_lengths(outline, *size)).tolist()
        return x, y, x + width, y + height
    parts = outline if isinstance(outline, list) and all(isinstance(part, list) for part in outline) else []
    numbers = [[as_number(value) for value in part if not isinstance(value, str)] for part in parts]
    corners = [value for part in numbers for value in part]
    if not corners or None in corners or any(len(part) % 2 for part in numbers):
        return None
    xs = [value for part in numbers for value in part[::2] if value is not None]
    ys = [value for part in numbers for value in part[1::2] if value is not None]
    return min(xs), min(ys), max(xs), max(ys)


def _corners(bbox: object) -> tuple[float, float, float, float] | None:
    if not isinstance(bbox, list) or len(bbox) != 4:
        return None
    numbers = [None if isinstance(value, str) else as_number(value) for value in bbox]
    x, y, width, height = numbers
    if x is None or y is None or width is None or height is None:
        return None
    return x, y, x + width, y + height


def _key(value: object) -> int | str | None:
    """Return an id that can be looked up, a whole number or a word: 7, 7.0 and "7" are the same.

    Example:
        >>> _key("7"), _key(7.0), _key("007"), _key("a"), _key(True), _key(7.5)
        (7, 7, '007', 'a', None, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    return value if isinstance(value, (int, str)) else None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
