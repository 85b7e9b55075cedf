"""Whether there is anything to learn from a data set that a run is to be trained on, whoever has made it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ziggurat.data.batch import IGNORED_PIXEL
from ziggurat.data.formats.kinds import KINDS
from ziggurat.errors import UserError

_METHODS = {"labels": "label", "masks": "mask", "outlines": "mask", "boxes": "objects"}


def check_learnable(dataset: Any, annotations: Sequence[str], name: str) -> None:
    """Refuse a data set that would train a model on nothing.

    Images are looked at up to the first that has something to be learnt: mostly one.

    Args:
        dataset: The training split.
        annotations: The kinds that the task reads, the best first.
        name: Of the data set.

    Raises:
        UserError: If it has too few classes, or no object, or no pixel that takes part.
    """
    kind = next((one for one in annotations if hasattr(dataset, _METHODS.get(one, ""))), None)
    if kind is None:
        return  # of a kind of somebody else
    fault = class_fault(kind, tuple(dataset.classes), name)
    if fault is None and not any(_teaches(dataset, kind, index) for index in range(len(dataset))):
        fault = nothing_fault(kind, len(dataset), name)
    if fault is not None:
        raise UserError(fault)


def nothing_fault(kind: str, num_images: int, name: str) -> str:
    """Return what is wrong with a data set in which nothing takes part in training."""
    what = "object" if kind == "boxes" else "pixel"
    why = f" (all are {IGNORED_PIXEL}, or data.ignore)" if what == "pixel" else ""
    return f"nothing to train on: no {what} of the {num_images} images of {name} takes part{why}"


def class_fault(kind: str, classes: tuple[str, ...], name: str) -> str | None:
    """Return what is wrong with the classes of a data set that is trained on; None if there are enough."""
    least = KINDS[kind].least_classes
    if len(classes) >= least:
        return None
    return (
        f"nothing to tell apart: {name} has the class {', '.join(classes) or 'none'} only, and {KINDS[kind].one}s need {least}; add "
        "images of what it is not, or name the folder above, whose folders are the classes"
    )


def _teaches(dataset: Any, kind: str, index: int) -> bool:
    """Whether there is something to be learnt from an image; what cannot be read is told by who reads it."""
    try:
        match kind:
            case "labels":
                return True
            case "boxes":
                return len(dataset.objects(index)) > 0
            case _:
                return bool((dataset.mask(index) != IGNORED_PIXEL).any())
    except UserError:
        return True
