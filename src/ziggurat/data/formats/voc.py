"""Pascal VOC: one XML file for each image. Coordinates are taken as they stand in the file.

References:
    Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, 2010.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from ziggurat.data.formats.table import (
    SPLIT_NAMES,
    BoxRow,
    ImageRow,
    Source,
    Split,
    Table,
    as_number,
    as_size,
)
from ziggurat.data.plain_xml import DeclarationFound, parse_xml
from ziggurat.errors import UserError

CORNERS = ("xmin", "ymin", "xmax", "ymax")
BOX_AROUND = "an object without bndbox has the box around its polygon"
DIFFICULT = (
    "an object that is marked as difficult takes no part in training, and counts neither way in the metric"
)


def read_voc(source: Source) -> Table:
    """Read all XML files of a split; whatever is wrong with them stands in the table's faults."""
    table = Table(source)
    for file in source.files:
        root = _parse(table, file)
        if root is not None:
            _read_image(table, file, root)
    return table


def listed_names(folder: Path) -> dict[Split, list[str]]:
    """Return the names in the lists of a folder of ``ImageSets``, by split.

    Without ``train.txt`` the images of ``trainval.txt`` are trained on, as VOC means it, but for those that are listed in
    ``val.txt`` or ``test.txt``.

    Raises:
        UserError: If a name leads out of the data set.
    """
    lists: dict[Split, list[str]] = {}
    for split in SPLIT_NAMES:
        if (names := _names_in(folder / f"{split}.txt")) is not None:
            lists[split] = names
    both = _names_in(folder / "trainval.txt")
    if both is not None and "train" not in lists:
        others = {name for names in lists.values() for name in names}
        lists = {"train": [name for name in both if name not in others], **lists}
    return lists


def _names_in(listed: Path) -> list[str] | None:
    if not listed.is_file():
        return None
    lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
    names = [line.split()[0] for line in lines if line.strip()]
    leaving = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    if leaving:
        raise UserError(f"the list {listed} must name files of its data set: got {leaving[0]!r}")
    return names


def _parse(table: Table, file: Path) -> ElementTree.Element | None:
    try:
        content = file.read_bytes()
    except OSError as error:
        table.add_fault(file, None, f"unreadable file: {error.strerror}", "image")
        return None
    if not content.strip():
        table.add_fault(file, None, "empty annotation file: it holds nothing", "image")
        return None
    try:
        root = parse_xml(content)
    except DeclarationFound as error:
        table.add_fault(file, None, f"not VOC: {error}", "image")
        return None
    except ValueError as error:
        table.add_fault(file, None, f"not XML: {error}", "image")
        return None
    if root.tag != "annotation":
        table.add_fault(file, None, f"not VOC: <annotation> was expected, got <{root.tag}>", "image")
        return None
    return root


def _read_image(table: Table, file: Path, root: ElementTree.Element) -> None:
    stem = file.name.removesuffix(".xml")
    stems = tuple(dict.fromkeys([stem, stem.removesuffix(".voc")]))
    name = _text(root, "filename") or stems[-1]
    size = as_size(_text(root, "size/height"), _text(root, "size/width"))
    table.images.append(ImageRow(name, None, size, file, stems=stems))
    for number, entry in enumerate(root.iterfind("object"), start=1):
        _read_object(table, file, number, entry)


def _read_object(table: Table, file: Path, number: int, entry: ElementTree.Element) -> None:
    category = _text(entry, "name")
    texts = [_text(entry, f"bndbox/{corner}") for corner in CORNERS]
    polygon = entry.find("polygon")
    if not any(texts) and polygon is not None:
        texts = _around(polygon) or texts
        table.note(BOX_AROUND, f"{file}, object {number}")
    x1, y1, x2, y2 = (as_number(text) for text in texts)
    if not category:
        table.add_fault(file, number, "unknown category: the object has no name", "annotation")
    elif x1 is None or y1 is None or x2 is None or y2 is None:
        table.add_fault(
            file,
            number,
            f"unreadable box: bndbox needs the numbers {', '.join(CORNERS)}, got {texts}",
            "annotation",
        )
    else:
        difficult = _text(entry, "difficult") in ("1", "true", "True")
        if difficult:
            table.note(DIFFICULT, f"{file}, object {number}")
        row = BoxRow(len(table.images) - 1, (x1, y1, x2, y2), category, number, crowd=difficult)
        table.boxes.append(row)


def _around(polygon: ElementTree.Element) -> list[str]:
    """Return the corners of the box around a polygon, whose corners are ``x1, y1, x2, y2 ...`` or ``pt/x, pt/y``; or nothing."""
    xs = [child.text or "" for child in polygon.iter() if re.fullmatch(r"x\d*", child.tag)]
    ys = [child.text or "" for child in polygon.iter() if re.fullmatch(r"y\d*", child.tag)]
    numbers = [[as_number(text.strip()) for text in texts] for texts in (xs, ys)]
    if len(xs) != len(ys) or len(xs) < 3 or any(None in texts for texts in numbers):
        return []
    x, y = ([number for number in texts if number is not None] for texts in numbers)
    return [repr(value) for value in (min(x), min(y), max(x), max(y))]


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
