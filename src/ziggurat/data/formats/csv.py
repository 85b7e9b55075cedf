"""CSV with a box on each line, ``image_path,xmin,ymin,xmax,ymax,label``, or with an image, ``image_path,label``.

Columns may stand in any order, others are ignored. A line whose box fields are empty is an image without objects.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from ziggurat.data.formats.table import (
    BoxRow,
    Fault,
    ImageRow,
    LabelRow,
    Source,
    Table,
    as_number,
    read_text,
)

COLUMNS = ("image_path", "xmin", "ymin", "xmax", "ymax", "label")
LABEL_COLUMNS = ("image_path", "label")


def read_csv(source: Source) -> Table:
    """Read one CSV file of boxes; whatever is wrong with it stands in the table's faults."""
    table = Table(source)
    (file,) = source.files
    index_of: dict[str, int] = {}
    for line, fields in _rows(table, file, COLUMNS):
        name, *texts, label = fields
        if not name:
            table.add_fault(file, line, "unreadable line: image_path is empty")
            continue
        if name not in index_of:
            index_of[name] = len(table.images)
            table.images.append(ImageRow(name, None, None, file, place=line))
        if any(texts):
            _read_box(table, file, line, index_of[name], texts, label)
    return table


def read_label_csv(source: Source) -> Table:
    """Read one CSV file of labels; whatever is wrong with it stands in the table's faults."""
    table = Table(source)
    (file,) = source.files
    first: dict[str, tuple[int, str]] = {}
    for line, (name, label) in _rows(table, file, LABEL_COLUMNS):
        if not name:
            table.add_fault(file, line, "unreadable line: image_path is empty")
        elif not label:
            table.add_fault(file, line, f"unknown category: the label of {name!r} is empty")
        elif name not in first:
            first[name] = line, label
            table.labels.append(LabelRow(len(table.images), label, line))
            table.images.append(ImageRow(name, None, None, file, place=line))
        elif first[name][1] != label:
            other, known = first[name]
            table.add_fault(
                file, line, f"two labels: {name!r} is {label!r} here and {known!r} in line {other}; keep one"
            )
        else:
            fault = f"duplicate image: {name!r} is listed twice"
            table.remarks.append(Fault(str(file), line, fault))
    return table


def header_kind(line: str) -> str | None:
    """Return the kind of annotations of a file whose first line this is, or None if it does not name all the columns.

    Example:
        >>> header_kind("label, image_path, xmin, ymin, xmax, ymax"), header_kind("a.png,1,2,3,4,Tree")
        ('boxes', None)
        >>> header_kind("image_path,label,xmin"), header_kind("image_path,label,photographer")
        (None, 'labels')
    """
    names = set(_names(line.split(",")))
    if set(COLUMNS) <= names:
        return "boxes"
    return "labels" if names & set(COLUMNS) == set(LABEL_COLUMNS) else None


def _names(fields: list[str]) -> list[str]:
    return [name.strip().strip('"').lower() for name in fields]


def _rows(table: Table, file: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields, in the order of `columns`, of each line with content."""
    text = read_text(file)
    if isinstance(text, Fault):
        table.faults.append(text)
        return
    reader = csv.reader(text.splitlines())
    try:
        names = _names(next(reader))
        missing = [column for column in columns if column not in names]
        if missing:
            fault = (
                f"no such column: {', '.join(missing)}; the first line must be {','.join(columns)} (or "
                f"{','.join(LABEL_COLUMNS)} for labels of images)"
            )
            table.add_fault(file, 1, fault)
            return
        places = [names.index(column) for column in columns]
        for row in reader:
            if any(row):
                padded = row + [""] * (len(names) - len(row))
                yield reader.line_num, [padded[place].strip() for place in places]
    except csv.Error as error:
        table.add_fault(file, reader.line_num, f"not CSV: {error}")


def _read_box(table: Table, file: Path, line: int, image: int, texts: list[str], label: str) -> None:
    x1, y1, x2, y2 = (as_number(text) for text in texts)
    if x1 is None or y1 is None or x2 is None or y2 is None:
        table.add_fault(
            file, line, f"unreadable box: four numbers were expected (or none: no objects), got {texts}"
        )
    elif not label:
        table.add_fault(file, line, "unknown category: the label is empty")
    else:
        table.boxes.append(BoxRow(image, (x1, y1, x2, y2), label, line))
