"""Reading, overriding and saving a run's configuration: YAML files and ``key=value`` settings."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from ziggurat.config.records import RunConfig
from ziggurat.errors import UserError, nearest
from ziggurat.system.writing import write_text

PLAN = "plan."  # plan.cut is another name of pipeline.cut: the plan itself is a word


def known_keys(record: type = RunConfig, prefix: str = "") -> list[str]:
    """Return the dotted name of every setting, in order.

    Example:
        >>> known_keys()[:3]
        ['task', 'plan', 'seed']
    """
    hints = typing.get_type_hints(record)
    keys = []
    for item in dataclasses.fields(record):
        if dataclasses.is_dataclass(hints[item.name]):
            keys += known_keys(hints[item.name], f"{prefix}{item.name}.")
        else:
            keys.append(prefix + item.name)
    return keys


def override(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Return `config` with some settings replaced.

    Args:
        config: The configuration to start from.
        settings: From dotted names to values; a string is read as the setting's type.

    Raises:
        UserError: If names are unknown or values are not of the setting's type; all of them are listed.

    Example:
        >>> override(RunConfig(), {"train.lr": "0.01"}).train.lr
        0.01
    """
    faults: list[str] = []
    for key, value in settings.items():
        try:
            full = f"pipeline.{key[len(PLAN) :]}" if key.startswith(PLAN) else key
            config = _replace(config, full, full.split("."), value)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return config


def _replace(record: Any, key: str, path: list[str], value: Any) -> Any:
    hints = typing.get_type_hints(type(record))
    name, *rest = path
    kind = hints.get(name)
    if kind is None or dataclasses.is_dataclass(kind) != bool(rest):
        raise UserError(f"unknown setting '{key}': {nearest(key, known_keys())}")
    if rest:
        return dataclasses.replace(record, **{name: _replace(getattr(record, name), key, rest, value)})
    return dataclasses.replace(record, **{name: _read(kind, value, key)})


def _read(kind: Any, value: Any, key: str) -> Any:
    """Read `value` as `kind`, which is bool, int, float, str or a Literal of strings."""
    if not isinstance(value, (bool, int, float, str)):
        raise UserError(f"{key} must be one value: got {value!r}")
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        if value not in allowed:
            raise UserError(f"{key} must be one of {', '.join(allowed)}: got '{value}'")
        return value
    if kind is bool:
        words = {"true": True, "false": False, True: True, False: False}
        word = value.lower() if isinstance(value, str) else value
        if word not in words or (isinstance(word, (int, float)) and not isinstance(word, bool)):
            raise UserError(f"{key} must be true or false: got '{value}'")
        return words[word]
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float) and value != int(value)):
            raise ValueError
        number = kind(value)
        if kind is float and not math.isfinite(number):
            raise ValueError
        return number
    except (TypeError, ValueError, OverflowError):
        wanted = {int: "a whole number", float: "a number", str: "a word"}[kind]
        raise UserError(f"{key} must be {wanted}: got '{value}'") from None


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return every setting by its dotted name.

    Example:
        >>> flatten(RunConfig())["train.optimizer"]
        'adamw'
    """
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[prefix + item.name] = value
    return flat


def load_config(path: Path) -> RunConfig:
    """Read a configuration as `save_config` writes it; settings that it does not name keep their defaults.

    Raises:
        UserError: If the file cannot be read, is not YAML, or has unknown or ill-typed settings.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"the config {path} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"the config {path} must hold settings by name: got {type(tree).__name__}")
    return override(RunConfig(), _flat_tree(tree))


def _flat_tree(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat_tree(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def save_config(config: RunConfig, path: Path) -> None:
    """Write the whole configuration as YAML.

    Raises:
        UserError: If the file cannot be written.
    """
    write_text(path, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
