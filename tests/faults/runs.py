"""A run of some seconds that ends in known bits, and what kills its workers."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ziggurat.commands.train import train as start_training
from ziggurat.parallel.runtime.heartbeat import FAULTS

STEPS = 6
SETTINGS = {
    "task": "detect", "model.name": "fcos-test_resnet-fpn", "device": "cpu", "threads": 1, "dtype": "fp32",
    "data.crop": 32, "data.workers": 0, "model.levels": "p3-p4", "model.channels": 8, "model.head_depth": 1,
    "decode.max_detections": 3, "digits.size": 32, "digits.count_min": 1, "digits.count_max": 1,
    "digits.height_max": 24, "digits.train_scenes": 20, "digits.val_scenes": 2, "train.batch_size": 8,
    "train.microbatches": 4, "train.steps": STEPS, "train.checkpoint_every": 2, "train.evaluate_every": 3, "train.report": "numbers",
}  # fmt: skip


def run(folder: Path, plan: str, faults: str = "", resume: bool = False, **settings: Any) -> dict[str, Any]:
    """Train in `folder` under a plan and a fault plan; settings have ``__`` for their dots."""
    given = SETTINGS | {"plan": plan} | {name.replace("__", "."): value for name, value in settings.items()}
    with fault_plan(faults):
        result = start_training("digits", given, str(folder), resume=resume)
    assert result is not None
    return result


@contextmanager
def fault_plan(text: str):
    """Put a fault plan into the environment that workers are forked with."""
    os.environ[FAULTS] = text
    try:
        yield
    finally:
        del os.environ[FAULTS]
