"""Data sets of a program's own, by a name: objects in its memory in the place of files.

`register_data` gives one a name, which begins with ``own:`` and stands wherever DATA does, in this process and in the workers that it
starts. A data set is any object with what `ziggurat.data.dataset` asks of one: ``classes``, ``category_ids``, ``len``, ``record``, ``image``,
and of its task ``objects`` (boxes), ``label``, or ``mask``; or one of PyTorch's map-style data sets (`map_style`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ziggurat.config import DataConfig
from ziggurat.data.dataset import Dataset
from ziggurat.data.formats.map_style import MapStyle, adapt, is_map_style
from ziggurat.data.formats.table import Split
from ziggurat.errors import UserError, nearest

PREFIX = "own:"
_METHODS = {"boxes": "objects", "labels": "label", "masks": "mask"}


@dataclass(frozen=True)
class OwnData:
    """The splits of a data set.

    Attributes:
        splits: The data set of each split.
        kinds: The kinds of its annotations.
    """

    splits: dict[Split, Any]
    kinds: tuple[str, ...]


_OWN: dict[str, OwnData] = {}


def register_data(name: str, train: Any, val: Any = None, test: Any = None) -> str:
    """Give a data set of a program's own a name, and return what stands for it in the place of DATA: ``own:NAME``.

    A name that is given again stands for the newer one.

    Args:
        name: Its name.
        train: What is trained on.
        val: What is evaluated on; None if there is nothing.
        test: What ``--split test`` means.

    Raises:
        UserError: If one is no data set; names what it lacks.
    """
    given: dict[Split, Any] = {"train": train, "val": val, "test": test}
    splits = {
        split: adapt(one, f"{name}, {split}") if is_map_style(one) else one
        for split, one in given.items()
        if one is not None
    }
    faults = [fault for split, one in splits.items() for fault in _faults(f"{name}, {split}", one)]
    first = next(iter(splits.values()), None)
    kinds = tuple(kind for kind, method in _METHODS.items() if hasattr(first, method))
    if faults or not splits:
        raise UserError(faults or f"{name}: a data set needs a split: got none")
    _OWN[PREFIX + name] = OwnData(splits, kinds)
    return PREFIX + name


def own_data(path: str) -> OwnData | None:
    """Return the data set that a name stands for; None if it is none of these names.

    Raises:
        UserError: If it begins as they do, and no data set has it.
    """
    if not path.startswith(PREFIX):
        return None
    if path not in _OWN:
        hint = nearest(path, list(_OWN)) if _OWN else "none is registered"
        raise UserError(
            f"there is no data set {path} in this program: register it (ziggurat.register_data); {hint}"
        )
    return _OWN[path]


def own_split(
    found: OwnData, path: str, split: Split, config: DataConfig, classes: tuple[str, ...] | None
) -> Dataset | None:
    """Return a split of a data set; None if it has no ``val`` split.

    Args:
        found: The data set.
        path: What stands for it.
        split: The split.
        config: Names the classes and the range of samples of a map-style one.
        classes: Of the model.

    Raises:
        UserError: If it lacks another one, or its classes are not those of the model.
    """
    if split not in found.splits:
        if split == "val":
            return None
        raise UserError(f"the data set {path} has no {split} split: only {', '.join(found.splits)} is there")
    given = found.splits[split]
    dataset: Dataset = given.configured(config, classes) if isinstance(given, MapStyle) else given
    if classes is not None and tuple(dataset.classes) != classes:
        raise UserError(
            f"the classes of {path} must be those of the model, in the same order: it has {', '.join(dataset.classes)}, the model "
            f"{', '.join(classes)}"
        )
    return dataset


def registered_data() -> dict[str, OwnData]:
    """Return all data sets by their names, for processes that are started anew."""
    return dict(_OWN)


def adopt_data(given: dict[str, OwnData]) -> None:
    """Take over the data sets of the process that has started this one."""
    _OWN.update(given)


def _faults(name: str, dataset: Any) -> list[str]:
    lacking = [
        one for one in ("classes", "category_ids", "__len__", "record", "image") if not hasattr(dataset, one)
    ]
    if not any(hasattr(dataset, method) for method in _METHODS.values()):
        lacking.append("objects, label or mask")
    return (
        [f"{name} ({type(dataset).__name__}) is no data set: it lacks {', '.join(lacking)}"]
        if lacking
        else []
    )
