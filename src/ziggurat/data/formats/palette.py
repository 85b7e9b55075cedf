"""What the values or colors of masks mean: said in the config, beside the masks, or by the format."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ziggurat.config import DataConfig
from ziggurat.data.faults import Fault
from ziggurat.data.formats.table import BACKGROUND, Source, Table, read_text
from ziggurat.data.masks import INEXACT, MAX_CLASSES, Color, Palette, values_of
from ziggurat.errors import UserError, nearest

VOC_CLASSES = (
    BACKGROUND, "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

_SAMPLE = 16  # masks that are looked at where classes are not named, or values may be misunderstood
_SHOWN = 24
_COLORED = re.compile(r"(.*?)(?:\s*,\s*|\s+)(\d+)(?:\s*,\s*|\s+)(\d+)(?:\s*,\s*|\s+)(\d+)")


@dataclass(frozen=True)
class _Classes:
    """Names with either values or colors."""

    names: tuple[str, ...]
    values: tuple[int, ...]
    colors: tuple[Color, ...] = ()


def find_palette(table: Table, config: DataConfig, known: tuple[str, ...] | None) -> Palette:
    """Return what the masks of a split mean.

    The names are those of ``data.classes``, else of the class file beside the masks, else VOC's where the layout is
    VOC's, else those that a model knows.

    Args:
        table: The split.
        config: Says names and the ignored value.
        known: Names of the labels, such as those that a model was trained with; None takes the data set's own.

    Raises:
        UserError: If there are no names, they cannot be used, or one of them is not known.
    """
    classes = _named_classes(table.source, config, known)
    if isinstance(classes, Fault):
        raise UserError(f"{classes.file}: {classes.fault}")
    if classes is None:
        raise UserError(_no_names(table, config))
    faults = _name_faults(classes, known)
    if faults:
        raise UserError(faults)
    labels = range(len(classes.names)) if known is None else map(known.index, classes.names)
    return Palette(classes.names, classes.values, classes.colors, config.ignore, tuple(labels))


def all_ignored_fault(table: Table, palette: Palette, config: DataConfig) -> Fault | None:
    """Return a fault if masks hold 0 and 255 only, of which 255 is ignored: they are meant as two classes.

    A few masks are looked at; what cannot be decoded is passed over.
    """
    if palette.colors or palette.ignore != 255 or 255 in palette.values or len(palette.names) < 2:
        return None
    values = _sample_values(table, config.max_pixels)
    if values != ["0", "255"]:
        return None
    fault = (
        "all but one class ignored: the masks hold the values 0 and 255 only, and 255 is ignored (data.ignore); say which "
        f"class has it: --set data.classes={palette.names[0]},{palette.names[1]}=255"
    )
    return Fault(str(table.source.masks[0]), None, fault)


def is_colored(line: str) -> bool:
    """Whether a line of ``classes.txt`` is a name with a color.

    Example:
        >>> is_colored("road 128 64 128"), is_colored("road,128,64,128"), is_colored("zone 1")
        (True, True, False)
    """
    return _COLORED.fullmatch(line) is not None


def _named_classes(
    source: Source, config: DataConfig, known: tuple[str, ...] | None
) -> _Classes | Fault | None:
    if config.classes:
        return _from_config(config.classes)
    if source.class_file is not None:
        return _from_file(source.class_file)
    names = VOC_CLASSES if source.format == "voc" else known
    return None if names is None else _Classes(names, tuple(range(len(names))))


def _from_config(text: str) -> _Classes | Fault:
    """Read names with commas between; ``name=255`` says the value, which is else the number of the name."""
    names, values = [], []
    for number, part in enumerate(text.split(",")):
        name, equals, value = part.strip().rpartition("=")
        name, value = (name.strip(), value.strip()) if equals else (part.strip(), str(number))
        if not name or not value.isascii() or not value.isdecimal() or int(value) >= 1 << 16:
            return Fault(
                "data.classes", None, f"unreadable class: it must be name or name=value, got {part!r}"
            )
        names.append(name)
        values.append(int(value))
    return _Classes(tuple(names), tuple(values))


def _from_file(file: Path) -> _Classes | Fault:
    text = read_text(file)
    if isinstance(text, Fault):
        return text
    if file.suffix == ".json":
        return _from_json(file, text)
    rows = [line.strip() for line in text.splitlines() if line.strip()]
    matches = [_COLORED.fullmatch(row) for row in rows]
    if not any(matches):
        return _Classes(tuple(rows), tuple(range(len(rows))))
    plain = [row for row, match in zip(rows, matches, strict=True) if match is None]
    if plain:
        return Fault(
            str(file), None, f"classes without a color: {', '.join(plain[:5])}; give all a color or none"
        )
    entries = [(match[1].strip(" ,"), tuple(map(int, match.groups()[1:]))) for match in matches if match]
    return _colored(file, entries)


def _from_json(file: Path, text: str) -> _Classes | Fault:
    rule = 'it must be a list of names, or of {"name": ..., "color": [red, green, blue]}'
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Fault(str(file), None, f"not JSON: {error}")
    if not isinstance(content, list) or not content:
        return Fault(str(file), None, f"unreadable classes: {rule}")
    if all(isinstance(entry, str) for entry in content):
        return _Classes(tuple(content), tuple(range(len(content))))
    entries = []
    for entry in content:
        name, color = (entry.get("name"), entry.get("color")) if isinstance(entry, dict) else (None, None)
        if (
            not isinstance(name, str)
            or not isinstance(color, list)
            or {type(part) for part in color} != {int}
        ):
            return Fault(str(file), None, f"unreadable classes: {rule}, got {str(entry)[:80]}")
        entries.append((name, tuple(color)))
    return _colored(file, entries)


def _colored(file: Path, entries: Sequence[tuple[str, tuple[int, ...]]]) -> _Classes | Fault:
    colors: list[Color] = []
    for name, color in entries:
        if len(color) != 3 or not all(0 <= part <= 255 for part in color):
            return Fault(
                str(file), None, f"unreadable color: {name} must have three numbers, 0 to 255, got {color}"
            )
        red, green, blue = color
        if (red, green, blue) in colors:
            return Fault(str(file), None, f"duplicate color: {name} has that of another class, {color}")
        colors.append((red, green, blue))
    return _Classes(tuple(name for name, _ in entries), tuple(range(len(entries))), tuple(colors))


def _name_faults(classes: _Classes, known: tuple[str, ...] | None) -> list[str]:
    faults = []
    for what, values in (("name", classes.names), ("value", classes.values)):
        twice = [str(value) for place, value in enumerate(values) if value in values[:place]]
        if twice:
            faults.append(
                f"each class of the masks must have a {what} of its own: got {', '.join(twice)} twice"
            )
    if len(classes.names) > MAX_CLASSES:
        faults.append(f"masks can have {MAX_CLASSES} classes at most: got {len(classes.names)}")
    faults += [
        f"unknown class: {name!r} of the masks is not a class of the training data; {nearest(name, known)}"
        for name in classes.names
        if known is not None and name not in known
    ]
    return faults


def _no_names(table: Table, config: DataConfig) -> str:
    values = _sample_values(table, config.max_pixels)
    folder = table.source.masks[0]
    shown = ", ".join(values[:_SHOWN]) + (", ..." if len(values) > _SHOWN else "")
    if any(value.startswith("(") for value in values):
        remedy = "write classes.txt beside them, with a line 'name red green blue' for each class"
    elif values == ["0", "255"]:
        remedy = f"give them, such as --set data.classes={BACKGROUND},object=255"
    else:
        numbers = [int(value) for value in values if value != str(config.ignore)]
        names = ",".join([BACKGROUND, *map(str, range(1, max(numbers, default=1) + 1))][:_SHOWN])
        remedy = (
            f"give them in the order of their values, such as --set data.classes={names}, or in classes.txt"
        )
    return f"the classes of the masks in {folder} must have names: found the values {shown or 'of no mask'}; {remedy}"


def _sample_values(table: Table, max_pixels: int) -> list[str]:
    """Return the values that occur in a few masks, in order."""
    rows = [row for row in table.masks if row.path.suffix.lower() not in INEXACT]
    step = max(1, len(rows) // _SAMPLE)
    found: set[str] = set()
    for row in rows[::step][:_SAMPLE]:
        try:
            found.update(values_of(row.path, max_pixels))
        except UserError:
            continue  # it is listed among the faults when all masks are validated
    return sorted(found, key=lambda value: (len(value), value))
