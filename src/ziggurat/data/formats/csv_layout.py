"""Which columns a CSV file of annotations has, told from its first line, as many tools write it.

image_path,xmin,ymin,xmax,ymax,label            DeepForest
filename,width,height,class,xmin,ymin,xmax,ymax Roboflow, TensorFlow's record scripts
a.png,28,30,52,54,square                        RetinaNet: no header
a.png,28,30,52,54,square,96,96                  SKU110K: no header, the size of the image behind
image_path;xmin;ymin;xmax;ymax;label            Excel where the comma divides decimals
id,label                                        Kaggle, images without suffix
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ziggurat.data.readers.registry import has_image_suffix

CORNERS = ("xmin", "ymin", "xmax", "ymax")
COLUMNS = ("image_path", *CORNERS, "label")
LABEL_COLUMNS = ("image_path", "label")
DELIMITERS = (",", ";", "\t", "|")
_NO_NUMBERS = frozenset({"", "nan", "na", "n/a", "none", "null", "-"})

# Names of a column in small letters, without blanks, dashes and underscores; those at the front are taken first.
NAMES: Mapping[str, tuple[str, ...]] = {
    "image_path": ("imagepath", "filename", "filepath", "image", "imagename", "imagefile", "file", "path", "img", "imgpath", "imageid", "id"),
    "xmin": ("xmin", "x1", "left", "bboxxmin", "bboxx1"),
    "ymin": ("ymin", "y1", "top", "bboxymin", "bboxy1"),
    "xmax": ("xmax", "x2", "right", "bboxxmax", "bboxx2"),
    "ymax": ("ymax", "y2", "bottom", "bboxymax", "bboxy2"),
    "label": ("label", "class", "classname", "labelname", "category", "categoryname", "target"),
}  # fmt: skip
# Columns that say where objects are in ways that are not read: what has them is no set of labels.
OTHER_PLACES = (
    "geometry", "bbox", "box", "polygon", "segmentation", "wkt", "x", "y", "xcenter", "ycenter", "w", "h", "encodedpixels", "rle",
)  # fmt: skip

Kind = Literal["boxes", "labels"]


@dataclass(frozen=True)
class CsvLayout:
    """Where the columns stand.

    Attributes:
        kind: What each line annotates: a box, or an image.
        delimiter: Between two fields.
        places: Of each of `COLUMNS`, or `LABEL_COLUMNS`.
        has_header: Whether the first line names the columns.
        guess: What was taken for what, where the names are not ours; empty where nothing was guessed.
    """

    kind: Kind
    delimiter: str
    places: tuple[int, ...]
    has_header: bool = True
    guess: str = ""


def find_layout(line: str) -> CsvLayout | str:
    """Return the layout of a file whose first line this is, or what is missing in words.

    Example:
        >>> find_layout("label, image_path, xmin, ymin, xmax, ymax").places
        (1, 2, 3, 4, 5, 0)
        >>> find_layout("a.png;1;2;3;4;Tree").has_header, find_layout("image_path,label").kind
        (False, 'labels')
        >>> find_layout("image_path,label,geometry")
        "the columns image_path, label, geometry: 'geometry' says where objects are, and is not read"
    """
    line = next(iter(line.splitlines()), "")  # of a file of a Mac of old, whose lines end in \r, all of it
    delimiter = max(DELIMITERS, key=line.count)  # the first of equals
    try:
        fields = [field.strip() for field in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error as error:
        return f"a first line that is not of a CSV file ({error})"
    return _without_header(fields, delimiter) or _with_header(fields, delimiter)


def is_empty(texts: Sequence[str]) -> bool:
    """Whether box fields say that there is no object: empty ones, pandas' ``nan``, DeepForest's ``0,0,0,0``.

    Example:
        >>> [is_empty(texts) for texts in (["", "", "", ""], ["nan"] * 4, ["0", "0.0", "0", "0"], ["0", "0", "nan", "0"])]
        [True, True, True, False]
    """
    small = [text.lower() for text in texts]
    return all(text in _NO_NUMBERS for text in small) or all(_is_zero(text) for text in small)


def _is_zero(text: str) -> bool:
    return bool(text) and not text.strip("+-0.") and "0" in text


def _without_header(fields: Sequence[str], delimiter: str) -> CsvLayout | None:
    if not fields or not has_image_suffix(fields[0]):
        return None
    if len(fields) in (6, 8) and (is_empty(fields[1:5]) or all(map(_is_number, fields[1:5]))):
        guess = f"there is no line of names: the columns are taken as {','.join(COLUMNS)}"
        return CsvLayout("boxes", delimiter, (0, 1, 2, 3, 4, 5), False, guess)
    if len(fields) == 2 and fields[1]:
        guess = f"there is no line of names: the columns are taken as {','.join(LABEL_COLUMNS)}"
        return CsvLayout("labels", delimiter, (0, 1), False, guess)
    return None


def _with_header(fields: Sequence[str], delimiter: str) -> CsvLayout | str:
    bare = [_bare(field) for field in fields]
    places = {
        column: bare.index(name)
        for column, names in NAMES.items()
        if (name := next((one for one in names if one in bare), None)) is not None
    }
    renamed = [
        f"{fields[place]} as {column}" for column, place in places.items() if _bare(column) != bare[place]
    ]
    guess = f"columns are taken by their names: {', '.join(renamed)}" if renamed else ""
    if set(COLUMNS) <= set(places):
        return CsvLayout("boxes", delimiter, tuple(places[column] for column in COLUMNS), guess=guess)
    seen = f"the columns {', '.join(fields)}" if fields else "nothing"
    others = [field for field, name in zip(fields, bare, strict=True) if name in OTHER_PLACES]
    if others:
        return f"{seen}: {', '.join(map(repr, others))} says where objects are, and is not read"
    if len(fields) == 2 and "image_path" in places and "label" not in places:
        other = 1 - places["image_path"]
        places["label"] = other
        guess = f"the column '{fields[other]}' is taken for the label"
    if set(places) == set(LABEL_COLUMNS):
        return CsvLayout("labels", delimiter, tuple(places[column] for column in LABEL_COLUMNS), guess=guess)
    missing = [column for column in COLUMNS if column not in places]
    return f"{seen}, without {', '.join(missing)}"


def _bare(name: str) -> str:
    return name.strip().strip("\"'").lower().replace("_", "").replace("-", "").replace(" ", "")


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True
