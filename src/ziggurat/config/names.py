"""The names of settings: in full, by their last part, and what is said of a name that there is not."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from ziggurat.config.records import RunConfig
from ziggurat.config.values import shown
from ziggurat.errors import UserError, nearest

# What other tools call settings: their own words, in lower case.
ELSEWHERE = {
    "imgsz": "data.crop", "img_size": "data.crop", "image_size": "data.crop", "img": "data.crop", "lr0": "train.lr",
    "learning_rate": "train.lr", "base_lr": "train.lr", "batch": "train.batch_size", "bs": "train.batch_size",
    "num_epochs": "train.epochs", "max_epochs": "train.epochs", "max_iter": "train.steps", "max_steps": "train.steps",
    "iterations": "train.steps", "num_workers": "data.workers", "ckpt": "model.weights", "checkpoint_path": "model.weights",
    "pretrained": "model.weights", "load_from": "model.weights", "conf": "decode.score_threshold", "iou": "decode.nms_threshold",
    "confidence": "decode.score_threshold", "max_det": "decode.max_detections", "gpu": "device", "gpus": "plan", "nproc": "plan",
    "amp": "dtype", "precision": "dtype", "backbone": "model.name", "arch": "model.name", "label_smoothing": "loss.smoothing",
    "random_seed": "seed", "accumulate": "train.microbatches", "num_classes": "data.classes", "names": "data.classes",
}  # fmt: skip
PLAN = "plan."  # plan.cut is the field pipeline.cut: the plan itself is a word
_SECTION = "pipeline."


def field_types(record: type[Any]) -> dict[str, Any]:
    """Return the type of each field of a section."""
    section: type = record
    return _field_types(section)


@cache
def _field_types(section: type) -> dict[str, Any]:
    return typing.get_type_hints(section)  # each takes a millisecond, and a config hundreds of them


@cache
def known_keys(record: type = RunConfig, prefix: str = "") -> tuple[str, ...]:
    """Return the dotted name of every setting, in order.

    Example:
        >>> known_keys()[:3]
        ('task', 'plan', 'seed')
    """
    hints = field_types(record)
    keys: list[str] = []
    for item in dataclasses.fields(record):
        if dataclasses.is_dataclass(hints[item.name]):
            keys += known_keys(hints[item.name], f"{prefix}{item.name}.")
        else:
            keys.append(prefix + item.name)
    return tuple(keys)


def full_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by their dotted names.

    Raises:
        UserError: If names are unknown; all of them are listed.

    Example:
        >>> full_names({"lr": 0.1, "plan.cut": "layer2", "data.crop": 64})
        {'train.lr': 0.1, 'pipeline.cut': 'layer2', 'data.crop': 64}
    """
    faults: list[str] = []
    found = {}
    for given, value in settings.items():
        try:
            found[full_name(given)] = value
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return found


def full_name(given: str) -> str:
    """Return the dotted name of a setting that is called by it, by its last part where no other has it, or as ``plan.cut``.

    Raises:
        UserError: If there is no such setting, or there are several.

    Example:
        >>> full_name("lr"), full_name("plan.cut")
        ('train.lr', 'pipeline.cut')
    """
    key, known = _section_of_plan(str(given)), known_keys()
    if key in known:
        return key
    is_section = any(one.startswith(f"{key}.") for one in known)  # data is not members.data
    called = _called(key) if "." not in key and not is_section else []
    if len(called) == 1:
        return called[0]
    if called:
        raise UserError(f"several settings are called '{key}': give one of {', '.join(called)}")
    raise UserError(unknown_setting(str(given)))


def shown_name(key: str) -> str:
    """Return how messages call a setting: one of a plan as users do, and not by its section of the config.

    Example:
        >>> shown_name("pipeline.cut"), shown_name("train.lr")
        ('plan.cut', 'train.lr')
    """
    return f"{PLAN}{key[len(_SECTION) :]}" if key.startswith(_SECTION) else key


def as_typed(text: str, typed: Iterable[str]) -> str:
    """Return a message in which settings of a plan are called as the user has typed them: by this name, or by their section of the config.

    Args:
        text: The message.
        typed: What the user has typed for the names of settings.

    Example:
        >>> as_typed("pipeline.wire must be one of fp32, bf16, int8: got 'int4'", ["lr", "plan.wire"])
        "plan.wire must be one of fp32, bf16, int8: got 'int4'"
    """
    for name in {one.strip() for one in typed if one.strip().startswith((PLAN, _SECTION))}:
        shown, section = shown_name(name), _section_of_plan(name)
        other = re.escape(section if name == shown else shown)
        text = re.sub(rf"(?<![\w.]){other}(?![\w.]*\w)", name, text)
    return text


def _section_of_plan(name: str) -> str:
    """Return the dotted name of a setting that is called as ``plan.cut``; any other name as it is."""
    return f"{_SECTION}{name[len(PLAN) :]}" if name.startswith(PLAN) else name


def unknown_setting(given: str) -> str:
    """Return what is said of a name that no setting has: the one by the same last part, a section's, or the nearest one.

    Example:
        >>> unknown_setting("model.lr")
        "unknown setting 'model.lr': did you mean 'train.lr'?"
    """
    known = known_keys()
    section = [key for key in known if key.startswith(f"{given}.")]
    called = _called(given.rpartition(".")[2]) or _called(given.rpartition(".")[2].lower())
    if section:
        hint = f"it is a section; give one of its settings, such as {shown_name(section[0])}"
    elif given.lower() in ELSEWHERE:
        hint = f"here it is '{ELSEWHERE[given.lower()]}'"
    elif called:
        hint = f"did you mean {_either(called)}?"
    else:
        hint = nearest(given, known)
        last = difflib.get_close_matches(
            given.rpartition(".")[2], [key.rpartition(".")[2] for key in known], n=1, cutoff=0.75
        )
        if last:  # a slip in the last part counts more than the section's name
            hint = f"did you mean {_either(_called(last[0]))}?"
    if not given.startswith(_SECTION):  # else its neighbours are called so, too
        hint = hint.replace(f"'{_SECTION}", f"'{PLAN}")
    return f"unknown setting {shown(given)}: {hint}"


def _called(last: str) -> list[str]:
    """Return the settings whose last part is a name."""
    return [key for key in known_keys() if key.rpartition(".")[2] == last]


def _either(keys: list[str]) -> str:
    return " or ".join(f"'{key}'" for key in keys)
