"""Which runs can be averaged: those that see the same images in the same way, and say the same of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from ziggurat.config import RunConfig, flatten
from ziggurat.config.names import shown_name
from ziggurat.config.reads import TRAINING, matches
from ziggurat.errors import UserError
from ziggurat.runs.folder import Run

# Of the data what a member may have of its own: what it was trained on, and what its images are normalized by.
_OWN = (
    *TRAINING,
    "data.path",
    "data.split",
    "data.images",
    "data.classes",
    "data.shown",
    "data.stretch",
    "data.on_error",
    "data.max_pixels",
)
_COMMON = ("task", "dtype", "threads", "data.")


def check_configs(names: Sequence[str], configs: Sequence[RunConfig]) -> None:
    """See whether runs can be averaged, by their configs.

    Raises:
        UserError: Listing each setting in which they differ.
    """
    first, faults = flatten(configs[0]), []
    for name, config in zip(names[1:], configs[1:], strict=True):
        other = flatten(config)
        for key, value in first.items():
            if matches(_COMMON, key) and not matches(_OWN, key) and other[key] != value:
                remedy = "" if key == "task" else f"; give one for all: --set {key}=..."
                faults.append(
                    f"runs that are averaged must have the same {shown_name(key)}: {names[0]} has {value or 'none'}, {name} has "
                    f"{other[key] or 'none'}{remedy}"
                )
    if faults:
        raise UserError(faults)


def check_classes(names: Sequence[str], runs: Sequence[Run]) -> None:
    """See whether runs know the same classes, in the same order.

    Raises:
        UserError: Listing each that does not.
    """
    first, faults = runs[0], []
    for name, run in zip(names[1:], runs[1:], strict=True):
        if (run.classes, run.category_ids, run.model.num_classes) != (
            first.classes,
            first.category_ids,
            first.model.num_classes,
        ):
            faults.append(
                f"runs that are averaged must have the same classes, in the same order, and the same category ids: {names[0]} has "
                f"{_classes(first)}, {name} has {_classes(run)}"
            )
    if faults:
        raise UserError(faults)


def _classes(run: Run) -> str:
    pairs = [f"{name} ({id})" for name, id in zip(run.classes, run.category_ids, strict=False)]
    return ", ".join(pairs) or f"{run.model.num_classes} without names"


def digest_of(weights: Sequence[str], configs: Sequence[RunConfig]) -> str:
    """Return a digest of all members: of their weights, in order, and of what each has of its own; of one run its weights'."""
    if len(weights) == 1:
        return weights[0]
    own = [
        {
            key: value
            for key, value in flatten(config).items()
            if key.startswith(("model.", "decode.", "data."))
        }
        for config in configs
    ]
    for settings in own:
        settings.pop("data.path")
    return hashlib.sha256(json.dumps([list(weights), own], sort_keys=True).encode()).hexdigest()
