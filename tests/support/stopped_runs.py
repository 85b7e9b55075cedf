"""A run of six steps with a checkpoint after each, which tests stop and let go on, and what its log says."""

import dataclasses
import json

from support.paired_runs import SCENES, SMALL
from ziggurat.config import RunConfig, override

SETTINGS = {
    "model.name": "fcos-test_resnet-fpn", "dtype": "fp32", "train.steps": 6, "train.ema": 0.9,
    "train.checkpoint_every": 1, "train.evaluate_every": 2, "checkpoint.keep": 9,
}  # fmt: skip


def config_of(**settings):
    return dataclasses.replace(override(RunConfig(), SMALL | SETTINGS | settings), digits=SCENES)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def numbers(folder):
    """Return what a run's log says of each step, without what the clock says."""
    return [{name: row[name] for name in row if "second" not in name} for row in rows(folder)]
