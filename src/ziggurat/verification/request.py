"""What the user of `ziggurat verify` asks for: read and checked completely before any process starts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from ziggurat.config import RunConfig, check_command, override, range_faults
from ziggurat.config.names import shown_name
from ziggurat.config.values import shown
from ziggurat.errors import Faults, UserError
from ziggurat.models.build import task_of
from ziggurat.strategies.effects import check_effects
from ziggurat.strategies.plan import Plan, parse_plan
from ziggurat.strategies.shares import MEASURED, SETTING
from ziggurat.system.memory import total_memory
from ziggurat.verification.networks import OWN_PREFIXES, check_name, is_foreign
from ziggurat.verification.timeline import timeline_path

DTYPES = {"fp64": torch.float64, "fp32": torch.float32}
DEFAULT_INPUT = "2x3x256x256"
# A step in which everything acts: the gradient is clipped, an average is kept, and steps are as large as the weights.
DEFAULTS = override(RunConfig(), {"train.clip_norm": 0.1, "train.ema": 0.9, "train.lr": 0.1})


@dataclass(frozen=True)
class Request:
    """One verification.

    Attributes:
        name: The network's.
        shape: The input's, ``(B, C, *spatial)``.
        plan: Whose step is compared with that of one worker.
        dtype: ``fp64`` or ``fp32``.
        config: Its seed, device, threads, model, loss, train and launch are used.
        timeline: Where the trace of a plan with pp goes; None for no trace.
    """

    name: str
    shape: tuple[int, ...]
    plan: Plan
    dtype: Literal["fp64", "fp32"] = "fp64"
    config: RunConfig = field(default_factory=RunConfig)
    timeline: Path | None = None

    @property
    def num_microbatches(self) -> int:
        """Pieces of the batch, of equal size but for the last: as many as asked for, or fewer if that leaves none."""
        wanted = self.config.train.microbatches or min(self.plan.num_microbatches, self.shape[0])
        size = -(-self.shape[0] // wanted)
        return -(-self.shape[0] // size)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of weights and input."""
        return DTYPES[self.dtype]


def read_request(
    name: str, shape: str, plan: str, dtype: str, settings: Mapping[str, Any], timeline: str | None = None
) -> Request:
    """Check everything that the user gave.

    Raises:
        UserError: Listing every fault.
    """
    faults = Faults()
    check = faults.of
    check(check_name, name)
    sizes = check(read_shape, shape)
    parsed = check(read_plan, plan)
    given = check(check_command, "verify", settings)
    config = check(override, DEFAULTS, given or {})
    if config is not None:
        faults += range_faults(config)
    path = check(timeline_path, timeline) if timeline is not None else None
    if timeline is not None and parsed and not parsed.has_timeline:
        faults.append(f"--timeline shows the stages of a plan with pp: got the plan {parsed}; take pp=2")
    if dtype not in DTYPES:
        faults.append(f"--dtype must be one of {', '.join(DTYPES)}: got '{dtype}'")
    if sizes and parsed:
        faults += _shape_faults(sizes, shape, parsed)
    if sizes and parsed and config:
        faults += _microbatch_faults(sizes, parsed, config.train.microbatches)
    if faults or sizes is None or parsed is None or config is None:
        raise UserError(faults)
    kind: Literal["fp64", "fp32"] = "fp64" if dtype == "fp64" else "fp32"
    config = override(config, {"threads": max(1, config.threads)})
    if config.pipeline.shares == MEASURED:
        raise UserError(
            f"{SETTING}={MEASURED} measures the steps of a run: one step is verified with counts, such as {SETTING}=5,3"
        )
    pieces = Request(name, sizes, parsed, kind, config, path).num_microbatches
    known = {"plan": str(parsed), "train.microbatches": pieces, **_task_and_model(name, config.task)}
    check_effects(override(config, known), given or {})
    without = [
        f"{shown_name(key)} has no effect on {name}, which has a loss and settings of its own; leave it out"
        for key in given or {}
        if (key.startswith("loss.") and not _has_own_loss(name))
        or (key.startswith("model.") and is_foreign(name))
    ]
    if without:
        raise UserError(without)
    config = override(config, {"model.name": name})
    return Request(name, sizes, parsed, kind, config, path)


def _task_and_model(name: str, task: str) -> dict[str, str]:
    """Return what a config says of a network of ours; of others nothing."""
    if is_foreign(name):
        return {}
    return {"model.name": name, "task": task_of(name) if task == "auto" else task}


def _has_own_loss(name: str) -> bool:
    """Whether a network is verified with the loss of its task."""
    return not is_foreign(name) and not name.startswith(OWN_PREFIXES)


def _shape_faults(sizes: tuple[int, ...], shape: str, plan: Plan) -> list[str]:
    faults = []
    if plan.num_dims > len(sizes) - 2:
        faults.append(
            f"the plan {plan} cuts {plan.num_dims} spatial dims: the input {shape} has {len(sizes) - 2}; take a plan "
            "of fewer"
        )
    if sizes[0] % plan.num_data:
        faults.append(
            f"the batch must be a multiple of {plan.data_axis}: got {sizes[0]} images for {plan}; change --input"
        )
    return faults


def _microbatch_faults(sizes: tuple[int, ...], plan: Plan, count: int) -> list[str]:
    if not count or plan.num_data <= count <= sizes[0]:
        return []
    return [
        f"microbatches must be as many as {plan.data_axis} at least and as the images at most: got {count} for {plan} and "
        f"{sizes[0]} images; change --microbatches or --input"
    ]


def read_shape(text: str, at_once: int | None = None) -> tuple[int, ...]:
    """Return the shape of an input: images, batch, and one to three spatial dims.

    Args:
        text: What the user gave.
        at_once: Images that are in memory at once; by default all.

    Raises:
        UserError: If it is not three to five positive numbers with ``x`` between, or is more than the memory.

    Example:
        >>> read_shape("2x3x256x320")
        (2, 3, 256, 320)
    """
    if not re.fullmatch(r"[1-9][0-9]{0,8}(x[1-9][0-9]{0,8}){2,4}", text):
        raise UserError(
            f"--input must be BxCxHxW (or BxCxL, BxCxDxHxW) in positive whole numbers, such as {DEFAULT_INPUT}: got {shown(text)}"
        )
    sizes = tuple(int(size) for size in text.split("x"))
    needed, memory = 8 * math.prod((min(sizes[0], at_once or sizes[0]), *sizes[1:])), total_memory()
    if needed > memory:
        raise UserError(
            f"--input must fit into memory: {text} takes {needed / 10**9:.0f} GB, and there are {memory / 10**9:.0f} GB"
        )
    return sizes


def read_plan(text: str) -> Plan:
    """Return the plan.

    Raises:
        UserError: If it cannot be read, or is for one worker.

    Example:
        >>> read_plan("sp=3").num_workers, read_plan("dp=2,sp=2x2").num_workers
        (3, 8)
    """
    plan = parse_plan(text)
    if plan.num_workers == 1:
        raise UserError(
            f"verify compares a plan of two workers at least with one worker: got '{text}'; take sp=2"
        )
    return plan
