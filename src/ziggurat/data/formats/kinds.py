"""The kinds of annotations that data sets have; a task says which of them it can be trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ziggurat.data.formats.table import Table


@dataclass(frozen=True)
class Kind:
    """A kind of annotation.

    Attributes:
        one: What one annotation is called in messages.
        has_background: Whether pixels of no object have a class of their own.
        within: The kind whose annotations these are a part of: they are read and validated with them.
        least_classes: With fewer there is nothing to tell apart.
        is_there: Whether a split that may have such annotations has them.
    """

    one: str
    has_background: bool = False
    within: str = ""
    least_classes: int = 1
    is_there: Callable[[Table], bool] = lambda table: True


def _is_outlined(table: Table) -> bool:
    return all(row.outline is not None for row in table.boxes)


KINDS: dict[str, Kind] = {
    "boxes": Kind("box"),
    "outlines": Kind("box", has_background=True, within="boxes", least_classes=2, is_there=_is_outlined),
    "labels": Kind("label", least_classes=2),
    "masks": Kind("mask", has_background=True, least_classes=2),
}
