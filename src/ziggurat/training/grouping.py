"""Images that belong together, such as those of one patient or flight: named by the user, and kept in one part of a data set.

Parts are made group by group, each as a whole:

- by size: the largest first, each to the part that has the fewest images, as scikit-learn's ``GroupKFold``;
- by classes: the most uneven first, each to where every class then is as near to equally frequent in all parts as it can be, as
  ``StratifiedGroupKFold``. All images count as one more class. Sums are of whole numbers and fractions, so all machines agree.

References:
    scikit-learn 1.9, ``sklearn.model_selection.GroupKFold``, ``StratifiedGroupKFold``.
    https://scikit-learn.org/stable/modules/cross_validation.html#group-cv
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ziggurat.config import MembersConfig, read_grouping
from ziggurat.data.dataset import Dataset
from ziggurat.data.formats.csv_layout import DELIMITERS, NAMES
from ziggurat.errors import UserError, nearest

_SHOWN = 3  # images that a fault names
_ALL = -1  # of counts: images, whatever their classes are


def groups_of(dataset: Dataset, members: MembersConfig) -> list[str] | None:
    """Return the name of each image's group; None where images stand for themselves.

    Raises:
        UserError: If there are images without a group, fewer groups than members, or a table that cannot be read.
    """
    if not members.groups:
        return None
    name_of = _naming(dataset, members.groups)
    groups = [name_of(index) for index in range(len(dataset))]
    without = [dataset.record(index).name for index, group in enumerate(groups) if group is None]
    if without:
        more = f" and {len(without) - _SHOWN} more" if len(without) > _SHOWN else ""
        raise UserError(
            f"members.groups={members.groups} must give each image a group: it has none for {', '.join(without[:_SHOWN])}{more}; "
            "change it, or the names"
        )
    named = [str(group) for group in groups]
    if len(set(named)) < members.count:
        raise UserError(
            f"members.groups={members.groups} must make a group for each member at least: got {len(set(named))} of {len(named)} images and "
            f"members.count={members.count}; give fewer members, or another members.groups"
        )
    return named


def _naming(dataset: Dataset, grouping: str) -> Callable[[int], str | None]:
    """Return what tells the group of an image, None of one that has none."""
    kind, what = read_grouping(grouping)
    if kind == "folder":
        return _folder_of(dataset)
    if kind == "regex":
        pattern = re.compile(what)
        return lambda index: _matched(pattern, dataset.record(index).name)
    table = read_table(Path(kind), what)
    return lambda index: _listed(table, dataset.record(index).name)


def _folder_of(dataset: Any) -> Callable[[int], str]:
    """Return what tells the folder of an image: of its file, or of its name where there is none."""
    path: Callable[[int], Path] | None = getattr(dataset, "path", None)
    if path is None:
        return lambda index: str(PurePath(dataset.record(index).name).parent)
    return lambda index: str(path(index).parent)


def _matched(pattern: re.Pattern[str], name: str) -> str | None:
    r"""Return the first group of the pattern where it is found in a name, all that it matches if it has none.

    Example:
        >>> _matched(re.compile(r"(\w+)_\d+"), "north_07.png"), _matched(re.compile("[a-z]+"), "07.png")
        ('north', 'png')
    """
    found = pattern.search(name)
    return None if found is None else found.group(1 if pattern.groups else 0)


def _listed(table: Mapping[str, str], name: str) -> str | None:
    path = PurePath(name)
    return next((table[one] for one in (name, path.name, path.stem) if one in table), None)


def read_table(path: Path, column: str) -> dict[str, str]:
    """Return the group of each image that a table names.

    Args:
        path: A CSV file whose first line names its columns: one is the image's, as in tables of annotations.
        column: The one that holds the groups.

    Raises:
        UserError: If it cannot be read, lacks a column, or has one image in two groups.
    """
    where = f"members.groups={path}:{column}"
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{where} names a table that cannot be read: {why}; give FILE:COLUMN") from None
    first = next(iter(text.splitlines()), "")
    delimiter = max(DELIMITERS, key=first.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise UserError(f"{where} names a table that cannot be read: {error}; give FILE:COLUMN") from None
    names = [name.strip() for name in rows[0]] if rows else []
    small = [name.lower().replace("_", "").replace("-", "").replace(" ", "") for name in names]
    image = next((small.index(one) for one in NAMES["image_path"] if one in small), None)
    if column not in names or image is None:
        what = f"a column {column}" if column not in names else "a column of images, such as image_path"
        raise UserError(
            f"{where} must name a table with {what}: it has {', '.join(names) or 'none'}; {nearest(column, names)}"
        )
    groups: dict[str, str] = {}
    for row in rows[1:]:
        if len(row) <= max(image, names.index(column)) or not row[image].strip():
            continue
        name, group = row[image].strip(), row[names.index(column)].strip()
        if not group:  # the image has none, which is said where it is asked for
            continue
        if groups.setdefault(name, group) != group:
            raise UserError(
                f"{where} must have each image in one group: {name} is in {groups[name]} and in {group}; mend the table"
            )
    return groups


def grouped_parts(
    order: Sequence[int] | np.ndarray,
    groups: Sequence[str],
    num_parts: int,
    classes: Sequence[Collection[int]] | None = None,
) -> list[list[int]]:
    """Return the images in parts, none of which is empty, and none of which shares a group with another.

    Args:
        order: Every image once: of groups that are alike, the one whose first image comes first is dealt out first.
        groups: The group of each image; as many as there are parts at least.
        num_parts: How many parts there are.
        classes: The labels that each image has, where parts are stratified by them.

    Example:
        >>> grouped_parts(range(6), ["a", "a", "a", "b", "b", "c"], 2)
        [[0, 1, 2], [3, 4, 5]]
    """
    images: dict[str, list[int]] = {}
    for image in order:
        images.setdefault(groups[image], []).append(int(image))
    counts = {group: _counts(of_group, classes) for group, of_group in images.items()}
    in_all = sum(counts.values(), Counter[int]())
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    held = [Counter[int]() for _ in range(num_parts)]

    def weight(label: int) -> Fraction:
        return Fraction(1, in_all[label] ** 2)

    def unevenness(group: str) -> Fraction:
        return sum((weight(label) * count**2 for label, count in counts[group].items()), Fraction())

    def growth(part: int, group: str) -> Fraction:
        """Return by how much the sum of squares of the parts' shares of each class would grow, beyond what it grows by anywhere."""
        return sum(
            (weight(label) * count * held[part][label] for label, count in counts[group].items()), Fraction()
        )

    for group in sorted(images, key=unevenness, reverse=True):  # stable
        growths = [growth(part, group) for part in range(num_parts)]
        best = min(range(num_parts), key=lambda part: (growths[part], len(parts[part]), part))
        parts[best] += images[group]
        held[best] += counts[group]
    return parts


def _counts(images: Sequence[int], classes: Sequence[Collection[int]] | None) -> Counter[int]:
    found = Counter({_ALL: len(images)})
    if classes is not None:
        found.update(label for image in images for label in classes[image])
    return found
