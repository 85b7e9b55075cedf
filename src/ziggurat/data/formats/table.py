"""What a split's annotation files say, in one form for all formats, before it is judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

Format = Literal["coco", "voc", "csv"]
Split = Literal["train", "val"]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a data set.

    Attributes:
        file: The file that is wrong.
        id: What is wrong in it: the annotation's or the image's id (COCO), the object's number from 1 (VOC), the
            line (CSV); None if it is the file itself.
        fault: The kind of fault, a colon, and its details with the remedy.
    """

    file: str
    id: int | str | None
    fault: str

    @property
    def kind(self) -> str:
        """The kind of fault, such as ``box without area``."""
        return self.fault.partition(":")[0]


@dataclass(frozen=True)
class Summary:
    """What a data set holds.

    Attributes:
        format: The format that was recognised, or ``digits``.
        images: Images of all splits.
        annotations: Boxes of all splits.
        splits: Images and boxes of each split.
        classes: Names of the classes, in the order of their labels.
    """

    format: str
    images: int
    annotations: int
    splits: dict[str, dict[str, int]]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Where a split lies.

    Attributes:
        format: How its annotations are written.
        root: The data set's folder; no path in an annotation may lead out of it.
        files: The annotation files.
        folders: Where images are looked for, in this order.
    """

    format: Format
    root: Path
    files: tuple[Path, ...]
    folders: tuple[Path, ...]


class ImageRow(NamedTuple):
    """An image as its annotation file names it.

    Attributes:
        name: Its path or name.
        id: Its id, a number where the format has one.
        size: Rows and columns, or None where the format does not say.
        file: The annotation file.
        place: Its id, or line, in the annotation file, for messages.
        stems: Names without suffix that the image may have where `name` is not there.
    """

    name: str
    id: object
    size: tuple[int, int] | None
    file: Path
    place: int | str | None = None
    stems: tuple[str, ...] = ()


class BoxRow(NamedTuple):
    """A box as its annotation file has it.

    Attributes:
        image: Index of its image in the table.
        box_xyxy: Corners in pixels; whatever numbers the file has.
        category: Name of its class.
        place: The annotation's id, number or line.
        area: The object's area in pixels, or None for the box's.
        crowd: Whether it holds a crowd rather than one object.
    """

    image: int
    box_xyxy: tuple[float, float, float, float]
    category: str
    place: int | str | None
    area: float | None = None
    crowd: bool = False


@dataclass
class Table:
    """All rows of a split.

    Attributes:
        source: Where they are from.
        images: The images, in the order of the files.
        boxes: The boxes that could be read.
        categories: COCO category id of each class name that the files declare, in the order of labels; empty
            where the format declares none.
        faults: What makes training impossible.
        remarks: What is wrong but does no harm to training.
    """

    source: Source
    images: list[ImageRow] = field(default_factory=list)
    boxes: list[BoxRow] = field(default_factory=list)
    categories: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    remarks: list[Fault] = field(default_factory=list)

    def add_fault(self, file: Path, place: int | str | None, fault: str) -> None:
        """Note what makes training impossible."""
        self.faults.append(Fault(str(file), place, fault))


def read_text(file: Path) -> str | Fault:
    """Return a file's text, or what keeps it from being read."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        return Fault(str(file), None, f"unreadable file: {error.strerror}")
    except UnicodeDecodeError as error:
        return Fault(str(file), None, f"not text: byte {error.start} is not UTF-8; save it as UTF-8")
    if not text.strip():
        return Fault(str(file), None, "empty annotation file: it holds nothing")
    return text


def as_number(value: object) -> float | None:
    """Return `value` as a float if it is a number or, in a text format, spells one; NaN is a number here.

    Example:
        >>> as_number(" 12.5 "), as_number("12px"), as_number(True)
        (12.5, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def as_size(height: object, width: object) -> tuple[int, int] | None:
    """Return rows and columns if both are whole numbers that an image can have; else its header will tell.

    Example:
        >>> as_size(480.0, 640), as_size(0, 640), as_size(None, 640)
        ((480, 640), None, None)
    """
    extents = [as_number(value) for value in (height, width)]
    rows, columns = (
        int(value) if value and 1 <= value < 1 << 31 and value == int(value) else 0 for value in extents
    )
    return (rows, columns) if rows and columns else None
