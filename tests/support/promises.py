"""What each strategy promises of a run: a table of plans, the settings that show them at work, and bounds.

A new strategy is a new line in each table here; the tests in ``tests/runs`` walk through them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import pytest

from support.small_runs import EMA, TASKS

NARROW = {"tensor.min_width": 8, "model.head_depth": 2, "train.ema": 0.9}
"""tp splits layers that are this narrow."""
SHARDED = {"pipeline.unit_bytes": 4096, "train.clip_norm": 0.1}
"""Several units of fsdp even of small networks."""
UNEVEN = {"train.batch_size": 6, "train.microbatches": 3}
"""One microbatch more than two workers share evenly: a worker keeps the other one company."""
BRANCHING = {"segment": {"model.name": "smp:fpn/tu-test_resnet"}}
"""Networks that lp can spread: of the tasks' networks, U-Net has no parallel branches."""


def world_of(plan: str) -> int:
    """Return the number of workers of a plan: the product of its degrees.

    Example:
        >>> world_of("dp=2,sp=1x3")
        6
    """
    return prod(int(number) for number in re.findall(r"\d+", plan))


@dataclass(frozen=True)
class Bounds:
    """How near a run under a plan is to the same run on one worker; None where it is not compared.

    Attributes:
        loss: Of the first step, relative.
        norm: Of its gradient, relative.
        later_loss: Of later steps, relative.
        later_norm: Of their gradients, relative.
        weights: Of each weight, relative and absolute.
        metrics: Of each metric, absolute.
    """

    loss: float
    norm: float | None = None
    later_loss: float | None = None
    later_norm: float | None = None
    weights: float | None = None
    metrics: float | None = None

    @classmethod
    def all(cls, tolerance: float, metrics: float = 1e-6, weights: float | None = None) -> Bounds:
        """Return bounds of one size for everything but the metrics, and, if it is given, the weights."""
        return cls(tolerance, tolerance, tolerance, tolerance, weights or tolerance, metrics)


@dataclass(frozen=True)
class Case:
    """A plan, a task, and what is promised of it.

    Attributes:
        plan: The plan.
        task: The task.
        bounds: How near it is to one worker.
        settings: Of the run, on top of the task's own.
        same_bits_as: A plan that ends in the same bits.
        is_slow: Whether it belongs to the long tests.
    """

    plan: str
    task: str
    bounds: Bounds
    settings: Mapping[str, Any] = field(default_factory=dict)
    same_bits_as: str = ""
    is_slow: bool = False

    def param(self) -> Any:
        """Return it as a parameter of a test."""
        marks = [pytest.mark.slow] if self.is_slow else []
        return pytest.param(self, id=f"{self.plan}-{self.task}", marks=marks)


# A batch norm of few, nearly equal values magnifies rounding: either sum is as far from float64.
BANDS = Bounds(loss=1e-5, norm=1e-3, later_loss=1e-3)
BANDS_AND_BRANCHES = Bounds(1e-3, 1e-2, 1e-3, 1e-2, 1e-3, 1e-3)
# pnn takes maxima, between which rounding may choose (test_verify_tensor compares in float64); a pixel whose two best
# classes are nearly equal may change sides: one in 12288 here
SPLIT = {task: Bounds(1e-5, 2e-3, 1e-5, 2e-3, 1e-3 if task == "classify" else 1e-4, 5e-4) for task in TASKS}


def training_cases() -> Iterator[Case]:
    """Yield what is trained under each plan, and compared with one worker."""
    for task in TASKS:
        averaged = EMA if task == "detect" else {}
        others = task != "detect"
        yield Case("sp=2", task, BANDS)
        yield Case("dp=2,sp=2", task, BANDS, same_bits_as="sp=2")
        yield Case("pp=2", task, Bounds.all(1e-5), averaged)
        yield Case("dp=2,pp=2", task, Bounds.all(1e-5), averaged)
        branching = BRANCHING.get(task, {}) | (EMA | {"train.clip_norm": 0.1} if task == "detect" else {})
        yield Case("lp=2", task, Bounds.all(1e-5, metrics=1e-5), branching)
        yield Case("lp=3", task, Bounds.all(1e-5, metrics=1e-5), branching, is_slow=True)
        yield Case("dp=2,lp=2", task, Bounds.all(1e-5, metrics=1e-5), branching, is_slow=others)
        yield Case("lp=2,sp=2", task, BANDS_AND_BRANCHES, branching, is_slow=others)
        yield Case("tp=2", task, SPLIT[task], NARROW)
        yield Case("dp=2,tp=2", task, SPLIT[task], NARROW, is_slow=True)
        yield Case("fsdp=2", task, Bounds.all(0.0, 0.0), SHARDED | UNEVEN | averaged, same_bits_as="dp=1")
        yield Case("fsdp=2,sp=2", task, BANDS, SHARDED | EMA, is_slow=others)
    yield Case("sp=2,pp=2", "detect", Bounds(loss=1e-5))


@dataclass(frozen=True)
class Move:
    """A run that stops after two of three steps and goes on under another plan.

    Attributes:
        task: The task.
        first: The plan that it starts with.
        then: The plan that it ends with.
        settings: Of the run.
        loss: Bound of the last loss, relative.
        weights: Bound of the weights; None where they are not compared.
        is_slow: Whether it belongs to the long tests.
    """

    task: str
    first: str
    then: str
    settings: Mapping[str, Any]
    loss: float = 1e-5
    weights: float | None = 1e-4
    is_slow: bool = False

    def param(self) -> Any:
        """Return it as a parameter of a test."""
        marks = [pytest.mark.slow] if self.is_slow else []
        optimizer = self.settings.get("train.optimizer", "sgd")
        return pytest.param(self, id=f"{self.first}-{self.then}-{self.task}-{optimizer}", marks=marks)


# AdamW divides by the gradient's size: where that is hardly more than rounding, a weight goes another way.
def moves() -> Iterator[Move]:
    """Yield from which plan to which a run goes on."""
    yield Move("detect", "dp=1", "sp=1x2", {}, weights=None)
    for first, then, is_slow in [("dp=1", "pp=2", False), ("pp=2", "dp=1", True), ("pp=2", "pp=3", True)]:
        yield Move("detect", first, then, EMA, weights=1e-5, is_slow=is_slow)
    for first, then, is_slow in [
        ("dp=1", "lp=2", False), ("lp=2", "dp=1", False), ("lp=2", "lp=3", True), ("lp=2", "dp=2,lp=2", True),
        ("lp=2", "pp=2", True),
    ]:  # fmt: skip
        yield Move("detect", first, then, EMA, is_slow=is_slow)
    for first, then in [("dp=1", "tp=2"), ("tp=2", "dp=1"), ("tp=2", "dp=2,tp=2")]:
        yield Move("detect", first, then, NARROW | {"train.evaluate_every": 2}, loss=1e-4)
    for optimizer in ("adamw", "sgd"):
        settings = SHARDED | EMA | {"train.optimizer": optimizer, "train.microbatches": 4}
        for first, then in [("dp=1", "fsdp=2"), ("fsdp=2", "dp=1"), ("fsdp=2", "fsdp=3")]:
            is_slow = optimizer == "sgd" or then == "fsdp=3"
            yield Move("classify", first, then, settings, loss=1e-4, is_slow=is_slow)


@dataclass(frozen=True)
class Use:
    """A run that is trained, evaluated and predicts through the commands, each under several plans.

    Attributes:
        plan: The plan of training.
        task: The task.
        settings: Of the run.
        words: More words of ``train``.
        evaluated: Plans of the evaluation, beside ``dp=1``, with the bound of each metric.
        predicted: Plans of the prediction, beside ``dp=1``, with the bounds of scores and boxes (absolute).
        predict_words: More words of ``predict``.
        is_large_image: Whether one image is predicted that is read in parts, instead of three of different widths.
        is_slow: Whether it belongs to the long tests.
    """

    plan: str
    task: str
    settings: Mapping[str, Any]
    evaluated: Mapping[str, float]
    predicted: Mapping[str, float]
    words: tuple[str, ...] = ()
    predict_words: tuple[str, ...] = ()
    is_large_image: bool = False
    is_slow: bool = False

    def param(self) -> Any:
        """Return it as a parameter of a test."""
        return pytest.param(self, id=f"{self.plan}-{self.task}", marks=[pytest.mark.slow] * self.is_slow)


def uses() -> Iterator[Use]:
    """Yield the plans under which the commands are tried."""
    crop = ("--set", "data.crop=96")
    for task in TASKS:
        if task == "detect":  # with a loader process, and an image that is read in parts
            yield Use(
                "sp=2", task, {"data.workers": 1}, {"sp=2": 1e-6}, {"sp=2": 1e-4, "sp=1x2": 1e-4}, (), crop, True
            )  # fmt: skip
        equal = {"pp=2": 0.0, "dp=2,pp=2": 0.0}
        yield Use(
            "pp=2", task, {}, equal, equal, ("--set", "plan.schedule=interleaved"), is_slow=task != "detect"
        )
        equal = {"lp=2": 0.0, "dp=2,lp=2": 0.0}
        bands = {"lp=2,sp=2": 1e-4} if task == "detect" else {}
        yield Use("lp=2", task, BRANCHING.get(task, {}), equal, equal | bands, is_slow=task != "detect")
        # to rounding where maps are cut; else each image is computed as on one worker, and batches do not divide evenly
        evaluated = {"fsdp=2": 0.0, "fsdp=2,sp=2": 1e-3}
        units = {"pipeline.unit_bytes": 4096}
        yield Use("fsdp=2", task, units, evaluated, {"fsdp=2": 0.0}, (), crop, is_slow=task != "detect")
        near = {"tp=2": 1e-6, "dp=2,tp=2": 1e-6}
        rounded = dict.fromkeys(near, 1e-3)
        yield Use("tp=2", task, NARROW, near, rounded, is_slow=task != "classify")
