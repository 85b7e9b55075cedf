"""Which classes a split has, with their category ids, in the order of labels: named by the user, declared by its files, or those that occur."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from ziggurat.config import DataConfig
from ziggurat.data.faults import Fault
from ziggurat.data.formats.kinds import KINDS
from ziggurat.data.formats.table import BACKGROUND, Table
from ziggurat.errors import UserError, nearest

_SHOWN = 8  # classes that a message names


def declare(table: Table, config: DataConfig) -> dict[str, int]:
    """Return the category id of each class of a split's boxes, outlines or labels.

    The classes are those of ``data.classes``, else those that the files declare, else those that occur, by name.

    Raises:
        UserError: If ``data.classes`` names one twice, or has an empty name.
    """
    declared = _own(table)
    if config.classes:
        declared = ids_of(_named(config.classes), declared)
    if not KINDS[table.source.kind].has_background:
        return declared
    return {BACKGROUND: 0} | {name: number for name, number in declared.items() if name != BACKGROUND}


def ids_of(classes: Sequence[str], own: Mapping[str, int]) -> dict[str, int]:
    """Return a category id for each class: the data set's own, and numbers that it does not have for those that it lacks.

    Example:
        >>> ids_of(("oak", "pine", "ash"), {"pine": 1, "oak": 7})
        {'oak': 7, 'pine': 1, 'ash': 3}
    """
    taken, ids = set(own.values()), dict(own)
    for number, name in enumerate(classes, start=1):
        if name not in own:
            ids[name] = next(id for id in itertools.count(number) if id not in taken)
            taken.add(ids[name])
    return {name: ids[name] for name in classes}


def validate_classes(table: Table, classes: Sequence[str]) -> list[Fault]:
    """Return a fault for each class that occurs and is not among `classes`, where it occurs first."""
    known, faults = set(classes), []
    named = [(row.category, row.image, row.place) for row in table.boxes]
    named += [(row.category, row.image, row.place) for row in table.labels]
    everything = ",".join(dict.fromkeys([*classes, *sorted({category for category, _, _ in named})]))
    remedy = f"to train with it, name all classes: --set data.classes={everything}"
    for category, image, place in named:
        if category not in known:
            known.add(category)
            fault = (
                f"unknown category: {category!r} is not a class of the training data; {nearest(category, classes)}; "
                f"{remedy if len(everything) < 200 else remedy.partition('=')[0] + '=...'}"
            )
            faults.append(Fault(str(table.images[image].file), place, fault))
    return faults


def note_absent_classes(table: Table, classes: Sequence[str]) -> None:
    """Note classes that no object or image of a training split has: nothing teaches them."""
    if table.source.masks:
        return
    there = {row.category for row in table.boxes if not row.crowd} | {row.category for row in table.labels}
    absent = [name for name in classes if name not in there and name != BACKGROUND]
    if absent and there:
        shown = ", ".join(absent[:_SHOWN]) + (", ..." if len(absent) > _SHOWN else "")
        table.note(f"{len(absent)} of {len(classes)} classes have no example in the training data", shown)


def _own(table: Table) -> dict[str, int]:
    if table.categories:
        return table.categories
    names = sorted({row.category for row in table.boxes} | {row.category for row in table.labels})
    return {name: number for number, name in enumerate(names, start=1)}


def _named(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise UserError(
            f"data.classes must name each class once, with commas between, such as square,bar: got {text}"
        )
    return names
