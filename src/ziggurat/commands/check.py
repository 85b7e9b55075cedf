"""`ziggurat check`: every fault of a data set."""

from __future__ import annotations

import dataclasses
from typing import Any

from ziggurat.config import DataConfig
from ziggurat.data.faults import Faults, count_left_out
from ziggurat.data.formats import find_faults
from ziggurat.runs.progress import Meter
from ziggurat.tasks.registry import tasks_of


def check(path: str, config: DataConfig) -> dict[str, Any]:
    """Look for every fault of a data set, as ``ziggurat check`` does; all images are decoded.

    Args:
        path: A folder, an annotation file, or ``digits``.
        config: How images and masks are read.

    Returns:
        The fields ``ok`` (whether the data set can be used as ``data.on_error`` says), those of `Summary` with the ``tasks``
        that the data set serves, ``faults``, and ``skipped``: how many annotations and images are left out.

    Raises:
        UserError: If there is no such data set or none is recognised.
    """
    with Meter("check", "images and masks") as meter:
        faults, summary = find_faults(path, config, meter)
    facts = dataclasses.asdict(summary)
    serves = tasks_of(facts.pop("kinds"))
    judged = Faults(config.on_error, faults)
    return {
        "ok": not judged.stopping and (config.on_error == "skip" or not faults),
        **facts,
        "tasks": serves,
        "faults": [fault.facts() for fault in faults],
        "skipped": count_left_out(judged.skipped),
    }
