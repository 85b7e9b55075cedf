"""What a split's annotation files say, in one form for all formats, before it is validated."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from ziggurat.data.dataset import Spelling
from ziggurat.data.faults import Fault, Scope
from ziggurat.data.outlines import Outline

Split = Literal[
    "train", "val", "test"
]  # a test split is measured where it is asked for, and never trained on

BACKGROUND = "background"  # the class of a segmentation's pixels that belong to no object
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Summary:
    """What a data set holds.

    Attributes:
        format: The format that was recognised, or ``digits``.
        images: Images of all splits.
        annotations: Boxes, labels or masks of all splits.
        splits: Images and annotations of each split.
        classes: Names of the classes, in the order of their labels.
        kinds: The kinds of its annotations, the most natural first.
        notes: What was guessed or mended, in a sentence each.
        samples: What the image files hold, with how many of them do; see `SeenImages`.
    """

    format: str
    images: int
    annotations: int
    splits: dict[str, dict[str, int]]
    classes: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    samples: tuple[dict[str, object], ...] = ()


@dataclass(frozen=True)
class Source:
    """Where a split lies.

    Attributes:
        format: The name of the format that its annotations are written in.
        kind: The kind of its annotations (`kinds`).
        root: The data set's folder; no path in an annotation may lead out of it.
        files: The annotation files; lists of images (YOLO).
        folders: Where images are looked for, in this order.
        listed: Folders whose images are all of the split, where the format names no images.
        masks: Folders of mask files.
        class_file: Names the classes, where the format has a file for them.
        split: Which one; None where that is not known.
        elsewhere: A folder that the user has named, in which images may lie, too.
        others: Lists of images that are of other splits, though `files` may list them too.
        label_column: The column that holds the class, where the user has named it.
    """

    format: str
    kind: str
    root: Path
    files: tuple[Path, ...]
    folders: tuple[Path, ...]
    listed: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    class_file: Path | None = None
    split: Split | None = None
    elsewhere: Path | None = None
    others: tuple[Path, ...] = ()
    label_column: str = ""


class ImageRow(NamedTuple):
    """An image as its annotation file names it.

    Attributes:
        name: Its path or name.
        id: Its id, a number or a word, where the format has one.
        size: Rows and columns, or None where the format does not say.
        file: The annotation file.
        place: Its id, or line, in the annotation file, for messages.
        stems: Names without suffix that the image may have where `name` is not there.
    """

    name: str
    id: int | str | None
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
        outline: The object's outline in the unit of the box, whatever the file has; None where it has none.
    """

    image: int
    box_xyxy: tuple[float, float, float, float]
    category: str
    place: int | str | None
    area: float | None = None
    crowd: bool = False
    outline: Outline | None = None


class LabelRow(NamedTuple):
    """The class of an image.

    Attributes:
        image: Index of the image in the table.
        category: Name of its class.
        place: The line in the annotation file.
    """

    image: int
    category: str
    place: int | str | None = None


class MaskRow(NamedTuple):
    """The mask file of an image.

    Attributes:
        image: Index of the image in the table.
        path: The mask file.
    """

    image: int
    path: Path


@dataclass
class Table:
    """All rows of a split: images, and boxes, labels or masks of them.

    Attributes:
        source: Where they are from.
        unit: What boxes and outlines are measured in: pixels, or the image's width and height.
        images: The images, in the order of the files.
        boxes: The boxes that could be read.
        labels: The labels, one an image at most.
        masks: The mask files, one an image at most.
        categories: COCO category id of each class name that the files declare, in the order of labels; empty
            where the format declares none.
        spelled: How the files write ids of images and of categories that are words there (``"7"``).
        faults: What is wrong; ``data.on_error`` says what becomes of it (`Faults`).
        noted: What was guessed or mended, with how often, and the first example.
    """

    source: Source
    unit: Literal["pixel", "image"] = "pixel"
    images: list[ImageRow] = field(default_factory=list)
    boxes: list[BoxRow] = field(default_factory=list)
    labels: list[LabelRow] = field(default_factory=list)
    masks: list[MaskRow] = field(default_factory=list)
    categories: dict[str, int] = field(default_factory=dict)
    spelled: Spelling = field(default_factory=Spelling)
    faults: list[Fault] = field(default_factory=list)
    noted: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was guessed or mended, in a sentence each."""
        return tuple(
            f"{what} ({f'{count} times, such as ' if count > 1 else ''}{example})"
            for what, (count, example) in self.noted.items()
        )

    @property
    def num_annotations(self) -> int:
        """Boxes, labels and masks."""
        return len(self.boxes) + len(self.labels) + len(self.masks)

    def note(self, what: str, example: str) -> None:
        """Note that something was guessed or mended, which is said once."""
        count, first = self.noted.get(what, (0, example))
        self.noted[what] = (count + 1, first)

    def add_fault(
        self,
        file: Path,
        place: int | str | None,
        fault: str,
        scope: Scope = "set",
        row: int | None = None,
    ) -> None:
        """Note what is wrong, what of the set it spoils, and with which of its rows, if it has one."""
        self.faults.append(Fault(str(file), place, fault, scope, row))


def relative_name(path: Path, root: Path) -> str:
    """Return the name of an image file that is known by its path: from the data set's folder on, if it lies there."""
    return (path.relative_to(root) if path.is_relative_to(root) else path.absolute()).as_posix()


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
