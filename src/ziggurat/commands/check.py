"""`ziggurat check`: every fault of a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.balance import ClassCounts, CountsClasses
from ziggurat.data.bands import as_all_bands
from ziggurat.data.blocks import Which
from ziggurat.data.faults import Faults, count_left_out
from ziggurat.data.formats import find_faults, open_split
from ziggurat.data.formats.blocks import divided
from ziggurat.data.regions import ObjectRegions
from ziggurat.errors import UserError
from ziggurat.metrics.frequency import UNEQUAL
from ziggurat.runs.progress import Meter
from ziggurat.tasks.registry import find_task, tasks_of

_OF_BLOCKS = (
    "val_share",
    "block",
    "split_seed",
    "crop",
    "min_visible",
)  # what says which blocks are of which part


def check(path: str, config: DataConfig) -> dict[str, Any]:
    """Look for every fault of a data set, as ``ziggurat check`` does; all images are decoded.

    Args:
        path: A folder, an annotation file, or ``digits``.
        config: How images and masks are read.

    Returns:
        The fields ``ok`` (whether the data set can be used as ``data.on_error`` says), those of `Summary` with the ``tasks``
        that the data set serves, ``faults``, and ``skipped``: how many annotations and images are left out. ``balance`` says how unequal
        the classes of what is trained on are (`_balance`); None where faults are in the way, nothing is trained on, or masks are not counted. With
        ``data.split=blocks`` also ``parts``: the blocks, regions, pixels and objects of each; None where faults are in the way.

    Raises:
        UserError: If there is no such data set or none is recognised; if settings of blocks have no effect.
    """
    if config.split == "given":
        _refuse_idle(config)
    with Meter("check", "images and masks") as meter:
        faults, summary = find_faults(path, config, meter)
    facts = dataclasses.asdict(summary)
    serves = tasks_of(facts.pop("kinds"))
    judged = Faults(config.on_error, faults)
    ok = not judged.stopping and (config.on_error == "skip" or not faults)
    has_balance = not judged.stopping and "train" in summary.splits
    facts["balance"] = _balance(path, summary.kinds, config, serves) if has_balance else None
    if config.split == "blocks":
        facts["parts"] = _parts(path, summary.kinds, config) if not judged.stopping else None
    return {
        "ok": ok,
        **facts,
        "tasks": serves,
        "faults": [fault.facts() for fault in faults],
        "skipped": count_left_out(judged.skipped),
    }


def _balance(
    path: str, kinds: Sequence[str], config: DataConfig, serves: Sequence[str]
) -> dict[str, Any] | None:
    """Return how many images and objects (or pixels) of the training split each class has, and how unequal classes are.

    Masks are read for it, which takes as long as the check itself: only where it is asked for.

    Returns:
        ``unit`` (``objects``, ``images`` or ``pixels``), ``classes`` (of each name ``images`` and ``instances``), ``ratio``: how many
        times as many images the most frequent class has as the rarest that occurs, and whether this ``is_unequal``.
    """
    if not serves:
        return None
    kind = find_task(serves[0]).targets
    if not isinstance(kind, CountsClasses) or (kind.counted == "pixels" and config.count_classes == "auto"):
        return None
    dataset = open_split(path, "train", kinds[:1], as_all_bands(config), DigitsConfig())
    assert dataset is not None  # only the validation split may be missing
    images = [kind.count_classes(dataset, index) for index in range(len(dataset))]
    counts = ClassCounts.of(images, len(dataset.classes), kind.counted)
    columns = zip(dataset.classes, counts.images_K.tolist(), counts.instances_K.tolist(), strict=True)
    return {
        "unit": counts.unit,
        "classes": {name: {"images": n, "instances": m} for name, n, m in columns},
        "ratio": counts.ratio,
        "is_unequal": counts.ratio >= UNEQUAL,
    }


def _refuse_idle(config: DataConfig) -> None:
    default = DataConfig()
    idle = [name for name in _OF_BLOCKS if getattr(config, name) != getattr(default, name)]
    if idle:
        raise UserError(
            f"data.{name} has no effect in `ziggurat check` without data.split=blocks; leave it out"
            for name in idle
        )


def _parts(path: str, kinds: Sequence[str], config: DataConfig) -> dict[str, dict[str, int]]:
    """Return how many blocks, regions, pixels and objects are trained on and evaluated on."""
    found: dict[str, dict[str, int]] = {}
    splits: tuple[Which, ...] = ("train", "val")
    for split in splits:
        dataset = divided(open_split(path, split, kinds[:1], as_all_bands(config), DigitsConfig()), path)
        division = dataset.division
        found[split] = {
            "blocks": division.num_blocks[split],
            "regions": len(dataset),
            "pixels": division.num_pixels(split),
        }
        if isinstance(dataset, ObjectRegions):
            found[split]["annotations"] = sum(len(dataset.objects(index)) for index in range(len(dataset)))
    return found
