"""Which settings are out of their range, whatever the data and the plan are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ziggurat.config.fields import about
from ziggurat.config.names import field_types, shown_name
from ziggurat.config.reading import flatten
from ziggurat.config.records import RunConfig
from ziggurat.config.values import read_value, shown
from ziggurat.errors import UserError

ORDERED = [
    ("data.scale_min", "data.scale_max"),
    ("digits.count_min", "digits.count_max"),
    ("digits.height_min", "digits.height_max"),
    ("digits.height_max", "digits.size"),
]


# Settings of which one at most may be on: each says how large images become.
EXCLUSIVE = [("data.gsd", "data.mpp"), ("data.gsd", "data.resize"), ("data.mpp", "data.resize")]


def range_faults(config: RunConfig) -> list[str]:
    """Return a sentence for every setting that is of a wrong type or out of its range, in the order of the settings, and for every pair."""
    faults = dict(_faults_of(config, ""))
    flat = flatten(config)
    for low, high in ORDERED:
        if low not in faults and high not in faults and flat[low] > flat[high]:
            faults[f"{low} {high}"] = f"{low} must not exceed {high}: got {flat[low]} and {flat[high]}"
    for one, other in EXCLUSIVE:
        if one not in faults and other not in faults and flat[one] and flat[other]:
            faults[f"{one} {other}"] = (
                f"{one} and {other} both say how large images become: got {flat[one]:g} and {flat[other]:g}; leave one out, or set it to 0"
            )
    if config.loss.detection == "equalized" and config.loss.focal_gamma == 0:
        faults["loss.focal_gamma"] = (
            "loss.focal_gamma must be positive with loss.detection=equalized, which multiplies by the growth of the exponent: got 0"
        )
    if config.data.aspect_grouping and config.data.quarter_turns:
        faults["data.aspect_grouping"] = (
            f"data.aspect_grouping={config.data.aspect_grouping} needs images that stay as wide and high as they are: got "
            "data.quarter_turns=true; leave one out"
        )
    faults |= _faults_of_members(config, faults)
    if not config.train.steps and not config.train.epochs:
        faults["train.steps"] = "nothing to do: give train.epochs or train.steps"
    return list(faults.values())


def _faults_of_members(config: RunConfig, known: Mapping[str, str]) -> dict[str, str]:
    """Return what is wrong with settings of members together, if each of them is right."""
    members, data, faults = config.members, config.data, dict[str, str]()
    if any(key.startswith("members.") for key in known) or members.count < 2:
        return faults
    if members.number >= members.count:
        faults["members.member"] = (
            f"members.member must be less than members.count, {members.count}: got {members.member}"
        )
    if members.data != "all" and data.split == "blocks":
        faults["members.data"] = (
            f"members.data must be all with data.split=blocks, which divides the images already: got {members.data}"
        )
    if members.data == "folds" and data.val:
        faults["members.data"] = (
            f"members.data=folds evaluates each member on its fold: data.val={data.val} has no effect; leave it out"
        )
    return faults


def _faults_of(record: Any, prefix: str) -> Iterator[tuple[str, str]]:
    types = field_types(type(record))
    for item in dataclasses.fields(record):
        key, value = prefix + item.name, getattr(record, item.name)
        if dataclasses.is_dataclass(value):
            yield from _faults_of(value, f"{key}.")
            continue
        try:
            value = read_value(
                types[item.name], value, shown_name(key)
            )  # a record that Python has made may hold anything
        except UserError as error:
            yield key, error.faults[0]
            continue
        rule = about(item).rule
        if rule is not None and not rule.holds(value):
            yield key, f"{shown_name(key)} must {rule.words}: got {shown(value)}"
