"""`ziggurat check`: every fault of a data set."""

from __future__ import annotations

import dataclasses
from typing import Any

from ziggurat.config import DataConfig
from ziggurat.data.formats import find_faults
from ziggurat.tasks.registry import tasks_of


def check(path: str, config: DataConfig) -> dict[str, Any]:
    """Look for every fault of a data set, as ``ziggurat check`` does; all images are decoded.

    Args:
        path: A folder, an annotation file, or ``digits``.
        config: How images and masks are read.

    Returns:
        The fields ``ok``, those of `Summary` with the ``tasks`` that the data set serves, and ``faults``.

    Raises:
        UserError: If there is no such data set or none is recognised.
    """
    faults, summary = find_faults(path, config)
    facts = dataclasses.asdict(summary)
    serves = tasks_of(facts.pop("kinds"))
    listed = [{"file": fault.file, "id": fault.id, "fault": fault.fault} for fault in faults]
    return {"ok": not faults, **facts, "tasks": serves, "faults": listed}
