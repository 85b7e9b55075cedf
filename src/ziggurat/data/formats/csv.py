"""CSV with a box on each line, ``image_path,xmin,ymin,xmax,ymax,label``, or with an image, ``image_path,label``.

`csv_layout` says in which other forms. A line whose box fields are empty is an image without objects.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from ziggurat.data.faults import Fault
from ziggurat.data.formats.csv_layout import COLUMNS, LABEL_COLUMNS, CsvLayout, Kind, find_layout, is_empty
from ziggurat.data.formats.table import (
    BoxRow,
    ImageRow,
    LabelRow,
    Source,
    Table,
    as_number,
    read_text,
)
from ziggurat.data.readers.registry import has_image_suffix

NO_OBJECT = "a line with the box 0, 0, 0, 0 or nan is taken for an image without objects"


def read_csv(source: Source) -> Table:
    """Read one CSV file of boxes; whatever is wrong with it stands in the table's faults."""
    table = Table(source)
    (file,) = source.files
    index_of: dict[str, int] = {}
    for line, fields in _rows(table, file, "boxes"):
        name, *texts, label = fields
        if not name:
            table.add_fault(file, line, "unreadable line: image_path is empty", "annotation")
            continue
        if name not in index_of:
            index_of[name] = len(table.images)
            table.images.append(_image(name, file, line))
        if not is_empty(texts):
            _read_box(table, file, line, index_of[name], texts, label)
        elif any(texts):
            table.note(NO_OBJECT, f"line {line}, {name}")
    return table


def read_label_csv(source: Source) -> Table:
    """Read one CSV file of labels; whatever is wrong with it stands in the table's faults."""
    table = Table(source)
    (file,) = source.files
    first: dict[str, LabelRow] = {}
    for line, (name, label) in _rows(table, file, "labels"):
        if not name:
            table.add_fault(file, line, "unreadable line: image_path is empty", "annotation")
        elif not label:
            table.add_fault(file, line, f"unknown category: the label of {name!r} is empty", "image")
        elif name not in first:
            first[name] = LabelRow(len(table.images), label, line)
            table.labels.append(first[name])
            table.images.append(_image(name, file, line))
        elif first[name].category != label:
            image, known, other = first[name]
            fault = f"two labels: {name!r} is {label!r} here and {known!r} in line {other}; keep one"
            table.add_fault(file, line, fault, "image", image)
        else:
            fault = f"duplicate image: {name!r} is listed twice"
            table.add_fault(file, line, fault, "remark")
    return table


def _image(name: str, file: Path, line: int) -> ImageRow:
    """Return the row of an image; one without suffix may have any."""
    stems = () if has_image_suffix(name) else (name,)
    return ImageRow(name, None, None, file, place=line, stems=stems)


def csv_kind(line: str) -> Kind | None:
    """Return the kind of annotations of a file whose first line this is, or None if it is no such file.

    Example:
        >>> csv_kind("label, image_path, xmin, ymin, xmax, ymax"), csv_kind("image_path,label,xmin")
        ('boxes', None)
        >>> csv_kind("a.png,1,2,3,4,Tree"), csv_kind("image_path,label,photographer")
        ('boxes', 'labels')
    """
    layout = find_layout(line)
    return None if isinstance(layout, str) else layout.kind


def _rows(table: Table, file: Path, kind: Kind) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields, in the order of the kind's columns, of each line with content."""
    text = read_text(file)
    if isinstance(text, Fault):
        table.faults.append(text)
        return
    lines = text.splitlines()
    layout = find_layout(lines[0])
    if isinstance(layout, str) or layout.kind != kind:
        seen = layout if isinstance(layout, str) else f"columns of {layout.kind}"
        table.add_fault(
            file,
            1,
            f"no such column: the first line has {seen}; it must be {','.join(COLUMNS)} (or {','.join(LABEL_COLUMNS)} for "
            "labels of images)",
        )
        return
    if layout.guess:
        table.note(layout.guess, str(file))
    yield from _fields(table, file, lines, layout)


def _fields(table: Table, file: Path, lines: list[str], layout: CsvLayout) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, delimiter=layout.delimiter)
    width = max(layout.places) + 1
    try:
        for row in reader:
            if any(row) and not (layout.has_header and reader.line_num == 1):
                padded = row + [""] * (width - len(row))
                yield reader.line_num, [padded[place].strip() for place in layout.places]
    except csv.Error as error:
        table.add_fault(file, reader.line_num, f"not CSV: {error}")


def _read_box(table: Table, file: Path, line: int, image: int, texts: list[str], label: str) -> None:
    x1, y1, x2, y2 = (as_number(text.replace(",", ".")) for text in texts)  # 1,5 where a semicolon divides
    if x1 is None or y1 is None or x2 is None or y2 is None:
        table.add_fault(
            file,
            line,
            f"unreadable box: four numbers were expected (or none: no objects), got {texts}",
            "annotation",
        )
    elif not label:
        table.add_fault(file, line, "unknown category: the label is empty", "annotation")
    else:
        table.boxes.append(BoxRow(image, (x1, y1, x2, y2), label, line))
