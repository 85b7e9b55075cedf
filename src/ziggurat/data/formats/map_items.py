"""The items of PyTorch's map-style data sets: pairs that stay the same, and the names of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ziggurat.data.formats.map_targets import FORMS
from ziggurat.errors import UserError


def read_pair(dataset: Any, index: int, name: str) -> tuple[Any, Any]:
    """Return the image and the target of an item.

    Raises:
        UserError: If it is no pair, or cannot be read.
    """
    try:
        item = dataset[index]
    except Exception as error:
        raise UserError(f"{name} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        parts = f" of {', '.join(map(str, item))}" if isinstance(item, dict) else ""
        parts = f" of {len(item)}" if isinstance(item, (tuple, list)) else parts
        raise UserError(
            f"an item must be a pair, an image and {FORMS}: {name} is of type {type(item).__name__}{parts}; a data set of another form "
            "needs classes, category_ids, record, image, and objects, label or mask (docs/extending.md)"
        )
    return item[0], item[1]


def names_of(dataset: Any, name: str) -> tuple[str, ...]:
    """Return the names of the classes that a data set, or the one that it is a part of, has; none where it has none."""
    given = getattr(dataset, "classes", None)
    if isinstance(given, Sequence) and not isinstance(given, str) and given:
        names = tuple(
            ", ".join(one) if isinstance(one, tuple) and all(isinstance(part, str) for part in one) else one
            for one in given
        )
        if not all(isinstance(one, str) for one in names):
            raise UserError(
                f"the names of classes must be words: {name} has {names[0]} of type {type(given[0]).__name__} in its attribute "
                "'classes'; give the names in the order of labels as data.classes"
            )
        return names
    parts = [dataset.dataset] if hasattr(dataset, "dataset") else list(getattr(dataset, "datasets", ()))
    found = {names_of(part, name) for part in parts}
    if len(found) > 1:
        joined = "; ".join(", ".join(one) or "none" for one in sorted(found))
        raise UserError(
            f"the data sets that {name} joins must have the same classes: they have {joined}; give data.classes"
        )
    return found.pop() if found else ()


def same(one: Any, other: Any) -> bool:
    """Whether two items are the same, in whatever form they are."""
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(one[name], other[name]) for name in one)
        )
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, Tensor):
        one = one.detach().cpu().double().numpy()
        other = other.detach().cpu().double().numpy() if isinstance(other, Tensor) else other
    values = np.asarray(one)
    return bool(np.array_equal(values, np.asarray(other), equal_nan=values.dtype.kind == "f"))
