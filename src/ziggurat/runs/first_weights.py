"""What training begins with: the weights of a run, of a checkpoint or of a file, and whether their classes are those of the data."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from ziggurat.config import DataConfig
from ziggurat.errors import UserError
from ziggurat.models.vision import VisionModel
from ziggurat.models.weights import WeightsReport, load_weights
from ziggurat.runs.folder import CLASSES, WEIGHTS
from ziggurat.runs.reference import checkpoint_weights, find_reference

_SHOWN = 8  # classes that a sentence names


def load_first_weights(model: VisionModel, given: str) -> WeightsReport:
    """Load what training begins with, as far as it fits: the weights of a run, of a checkpoint, of a file, or ``lite0``.

    Raises:
        UserError: If there are none, they are damaged or do not fit (`load_weights`).
    """
    if given == "lite0":
        return load_weights(model, given)
    reference = find_reference(given)
    if reference.step is not None:
        return load_weights(model, given, checkpoint_weights(reference))
    return load_weights(model, str(reference.file))


def first_weights_fault(given: str) -> str | None:
    """Return what is wrong with the name of the weights that training begins with; None if nothing is."""
    if given in ("none", "lite0"):
        return None
    try:
        reference = find_reference(given)
    except UserError as error:
        return f"model.weights must be a file, a run, a checkpoint of it, lite0 or none: {error}"
    if reference.file is not None and not reference.file.is_file():
        return f"model.weights must have come to its end, or name a checkpoint: {reference.folder} has no {WEIGHTS}"
    return None


def normalized_as(config: DataConfig, given: str) -> DataConfig:
    """Return a config with the mean and deviation of the run whose weights training begins with.

    Raises:
        UserError: If the weights are none of a run that has them, for as many bands.
    """
    folder = None if given in ("none", "lite0") else find_reference(given).folder
    known = None if folder is None else find_reference(given).config().data
    if known is None or not known.mean or len(known.mean.split(",")) != len(config.bands.split(",")):
        raise UserError(
            f"data.normalize=weights needs --weights of a run with {len(config.bands.split(','))} bands, or data.bands=rgb: got {given}; "
            "data.normalize=data measures the training data"
        )
    return replace(config, mean=known.mean, std=known.std)


def class_note(model: VisionModel, given: str, report: WeightsReport, classes: tuple[str, ...]) -> str | None:
    """Return what there is to say where the weights of a run know other classes than the data, or in another order.

    A layer of the classes that has as many outputs as the model's is loaded as it is, whatever they stand for; of another
    number it starts at random.

    Args:
        model: That the weights were loaded into.
        given: The name of the weights.
        report: What became of them.
        classes: Of the data, in the order of labels.
    """
    known = _classes_of(given)
    if known is None or known == classes:
        return None
    met = [*report.loaded, *(one.name for one in report.mismatched)]
    if not any(name.rpartition(".")[0] in model.class_layers for name in met):
        return None  # of another head, or a backbone alone
    if len(known) != len(classes):
        return (
            f"the weights {given} know the classes {_some(known)}, the data has {_some(classes)}: the layers of the classes start "
            "at random"
        )
    others = [f"{old} as {new}" for old, new in zip(known, classes, strict=True) if old != new]
    return (
        f"the weights {given} know other classes than the data, or in another order: the layers of the classes go on with "
        f"{_some(others)}; where the same classes are meant, name the data's in the order of the weights (data.classes)"
    )


def _classes_of(given: str) -> tuple[str, ...] | None:
    """Return the classes that weights were trained on; None where nobody knows."""
    folder = None if given == "lite0" else find_reference(given).folder
    if folder is None or not (folder / CLASSES).is_file():
        return None
    return tuple(json.loads((folder / CLASSES).read_text(encoding="utf-8"))["classes"])


def _some(names: Iterable[str]) -> str:
    """Name a few.

    Example:
        >>> _some(["oak", "pine"]), _some("abcdefghij")
        ('oak, pine', 'a, b, c, d, e, f, g, h, ... (10)')
    """
    names = list(names)
    more = f", ... ({len(names)})" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
