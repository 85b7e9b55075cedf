"""Settings that would be taken and then do nothing: of another task, model, plan or data set, or beside other settings.

Whatever the user gives is answered: a setting without an effect is a fault that says where it would have one. What a
config file holds counts as given where it is not the default; where the command line has chosen another plan, model or
data set than the file was written for, its leftovers are said, not refused.

Who reads what is declared where it is read: by a task (`Task.settings`), a family of models (`Family.settings`), an axis of a plan
(`Strategy.settings`); what a command reads is in `ziggurat.config.reads`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ziggurat.config import RunConfig, flatten, listed, matches
from ziggurat.config.names import shown_name
from ziggurat.errors import UserError
from ziggurat.models.build import family_of
from ziggurat.models.families import FAMILIES
from ziggurat.strategies.machines import read_hierarchy
from ziggurat.strategies.plan import Plan, parse_plan
from ziggurat.strategies.registry import STRATEGIES
from ziggurat.strategies.rows import sharding_fault
from ziggurat.strategies.shares import MEASURED, SETTING, shares_fault
from ziggurat.strategies.wires import wire_fault
from ziggurat.tasks.registry import TASKS, find_task


def _fits_hierarchy(config: RunConfig) -> bool:
    num_data = parse_plan(config.plan).num_data
    sizes = read_hierarchy(config.launch.hierarchy)
    return num_data > 1 and (sizes is None or math.prod(sizes) == num_data)


def _has_own_bands(config: RunConfig) -> bool:
    return config.data.has_own_bands


# Settings that need another one: what it must be, and what is said.
NEEDS: dict[str, tuple[str, Callable[[RunConfig], bool], str]] = {
    "train.beta2": ("train.optimizer", lambda c: c.train.optimizer == "adamw", "train.optimizer=adamw"),
    "train.epochs": ("train.steps", lambda c: not c.train.steps, "train.steps=0: a run has one length"),
    "train.patience": ("train.evaluate_every", lambda c: c.train.evaluate_every > 0, "train.evaluate_every"),
    "train.drops": ("train.schedule", lambda c: c.train.schedule == "step", "train.schedule=step"),
    "train.drop_factor": ("train.schedule", lambda c: c.train.schedule == "step", "train.schedule=step"),
    "train.final_lr": (
        "train.schedule",
        lambda c: c.train.schedule in ("cosine", "onecycle"),
        "train.schedule=cosine or onecycle",
    ),
    "data.range": (
        "data.bands",
        lambda c: not c.data.has_own_bands,
        "data.bands=rgb: other bands keep their samples",
    ),
    "data.layout": ("data.bands", _has_own_bands, "bands of their own type: data.bands=4,3,2 or all"),
    "data.shown": (
        "data.bands",
        _has_own_bands,
        "bands that are not shown as they are: data.bands=4,3,2 or all",
    ),
    "data.stretch": (
        "data.bands",
        _has_own_bands,
        "bands that are not shown as they are: data.bands=4,3,2 or all",
    ),
    "data.repeat_threshold": (
        "data.balance",
        lambda c: c.data.balance != "none",
        "data.balance=repeat or repeat-instances",
    ),
    "loss.effective_beta": (
        "loss.class_weights",
        lambda c: c.loss.class_weights == "effective",
        "loss.class_weights=effective",
    ),
    "loss.equalized_scale": (
        "loss.detection",
        lambda c: c.loss.detection == "equalized",
        "loss.detection=equalized",
    ),
    "data.unscaled": ("data.gsd", lambda c: c.data.gsd > 0 or c.data.mpp > 0, "data.gsd or data.mpp"),
    "data.resize_limit": ("data.resize", lambda c: c.data.resize > 0, "data.resize"),
    "data.val": (
        "data.split",
        lambda c: c.data.split == "given",
        "data.split=given: blocks are evaluated on",
    ),
    "data.val_share": ("data.split", lambda c: c.data.split == "blocks", "data.split=blocks"),
    "data.block": ("data.split", lambda c: c.data.split == "blocks", "data.split=blocks"),
    "data.split_seed": ("data.split", lambda c: c.data.split == "blocks", "data.split=blocks"),
    "launch.hierarchy": (
        "plan",
        _fits_hierarchy,
        "a plan that spreads samples over as many workers as its sizes make together: dp=8 for 4x2",
    ),
    **{
        key: ("members.count", lambda c: c.members.count > 1, "members.count")
        for key in ("members.data", "members.member", "members.seed")
    },
    **{
        key: (
            "members.data",
            lambda c: c.members.count > 1 and c.members.data in ("disjoint", "folds"),
            "members.count and members.data=disjoint or folds",
        )
        for key in ("members.stratify", "members.groups")
    },
    **{
        key: ("local_sgd.replicas", lambda c: c.local_sgd.replicas > 0, "local_sgd.replicas")
        for key in ("local_sgd.sync_every", "local_sgd.outer_lr", "local_sgd.outer_momentum")
    },
    "pipeline.replan_every": (
        "pipeline.replan",
        lambda c: c.pipeline.replan != "never",
        "plan.replan=changes",
    ),
    "checkpoint.keep_best": (
        "train.evaluate_every",
        lambda c: c.train.evaluate_every > 0,
        "train.evaluate_every",
    ),
    "checkpoint.keep_every": (
        "train.checkpoint_every",
        lambda c: c.train.checkpoint_every > 0,
        "train.checkpoint_every",
    ),
}


class Idle(NamedTuple):
    """A setting without an effect.

    Attributes:
        key: Its name.
        because: The setting that leaves it without.
        sentence: What there is to say.
        is_fault: Whether it is refused wherever it comes from, or said only: how the embedded data set looks is harmless.
    """

    key: str
    because: str
    sentence: str
    is_fault: bool = True


def check_effects(
    config: RunConfig, given: Mapping[str, Any], from_file: Mapping[str, Any] | None = None
) -> list[str]:
    """Refuse settings that have no effect on a run, and return what is to be said of those that a file holds besides.

    Args:
        config: Resolved: with its task, model and plan.
        given: By the user, on the command line or in Python, by dotted names.
        from_file: What a config file names.

    Raises:
        UserError: Listing every one.
    """
    default = flatten(RunConfig())
    now = flatten(config)
    held = {key for key in from_file or {} if key not in given and now[key] != default[key]}
    faults, notes = [], []
    for idle in find_idle(config, [*given, *sorted(held)]):
        chosen_anew = idle.because in given or (idle.because == "model.name" and "task" in given)
        if not idle.is_fault or (idle.key in held and chosen_anew):
            notes.append(idle.sentence)
        else:
            faults.append(f"{idle.sentence}; leave it out")
    if faults:
        raise UserError(faults)
    return notes


def find_idle(config: RunConfig, keys: Iterable[str]) -> Iterator[Idle]:
    """Yield what has no effect on a resolved config, of settings that are named, each once."""
    judges = (_by_task, _by_model, _by_plan, _by_data, _by_others)
    for key in keys:
        found = next((idle for judge in judges if (idle := judge(config, key)) is not None), None)
        if found is not None:
            yield found


def _by_task(config: RunConfig, key: str) -> Idle | None:
    if config.task == "auto":  # no task takes part: a network of somebody else's is verified
        return None
    task = find_task(config.task)
    readers = [name for name, one in TASKS.items() if one.settings is not None and matches(one.settings, key)]
    if task.settings is not None and readers and task.name not in readers:
        sentence = f"{shown_name(key)} has no effect on a run to {task.name}: it is for {listed(readers)}"
        return Idle(key, "task", sentence)
    need = task.idle_settings(config).get(key)
    return (
        None
        if need is None
        else Idle(key, need.partition("=")[0], f"{shown_name(key)} has no effect without {need}")
    )


def _by_model(config: RunConfig, key: str) -> Idle | None:
    name = config.model.name
    if not key.startswith("model.") or name == "auto":
        return None
    family = family_of(name)
    if family.settings is None or matches(family.settings(name), key):
        return None
    declared = {one: kind.settings for one, kind in FAMILIES.items() if kind.settings is not None}
    examples = [
        next((model for model in FAMILIES[one].names() if matches(reads(model), key)), None)
        for one, reads in declared.items()
    ]
    found = [example for example in examples if example is not None]
    if not found:  # of all models: name and weights
        return None
    return Idle(
        key,
        "model.name",
        f"{shown_name(key)} has no effect on {name}: it is for models such as {listed(found)}",
    )


def _by_plan(config: RunConfig, key: str) -> Idle | None:
    if key == "pipeline.wire":
        fault = wire_fault(config.pipeline.wire, parse_plan(config.plan))
        return None if fault is None else Idle(key, "plan", fault)
    readers = [axis for axis, one in STRATEGIES.items() if matches(one.settings, key)]
    if not readers:
        return None
    plan = parse_plan(config.plan)
    if key == "pipeline.shard_optimizer" and (fault := sharding_fault(plan)) is not None:
        return Idle(key, "plan", fault)
    if set(readers) & set(plan.degrees):
        return _by_shares(config, key, plan)
    return Idle(
        key,
        "plan",
        f"{shown_name(key)} has no effect under the plan {config.plan}: it is for plans with {listed(readers)}",
    )


def _by_shares(config: RunConfig, key: str, plan: Plan) -> Idle | None:
    if key != "pipeline.shares":
        return None
    shares, num_microbatches = config.pipeline.shares, config.train.microbatches
    if num_microbatches and (fault := shares_fault(shares, plan.num_data, num_microbatches)) is not None:
        return Idle(key, "plan", fault)
    if shares != MEASURED:
        return None
    if num_microbatches == plan.num_data:
        sentence = f"{SETTING}={MEASURED} has no effect where each of {plan.num_data} workers has one microbatch: raise --microbatches"
        return Idle(key, "train.microbatches", sentence)
    if config.pipeline.max_bytes:
        sentence = f"plan.max_bytes bounds memory by the shares that a run begins with, and {SETTING}={MEASURED} changes them"
        return Idle(key, "pipeline.max_bytes", sentence)
    return None


def _by_data(config: RunConfig, key: str) -> Idle | None:
    paths = (config.data.path, config.data.val)
    if key.startswith("digits.") and "digits" not in paths:
        sentence = f"{shown_name(key)} has no effect on {config.data.path}: it is for the data set digits"
        return Idle(key, "data.path", sentence, is_fault=False)
    of_files = ("data.images", "data.label_column", "data.range", "data.gsd", "data.mpp", "data.unscaled")
    if key in of_files and set(paths) <= {"digits", ""}:
        return Idle(
            key, "data.path", f"{shown_name(key)} has no effect on the data set digits: it is for image files"
        )
    return None


def _by_others(config: RunConfig, key: str) -> Idle | None:
    if key not in NEEDS:
        return None
    other, holds, words = NEEDS[key]
    return None if holds(config) else Idle(key, other, f"{shown_name(key)} has no effect without {words}")
