"""Reading, overriding and saving a run's configuration: YAML files and ``key=value`` settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ziggurat.config.names import (
    PLAN,
    field_types,
    full_name,
    known_keys,
    shown_name,
    unknown_setting,
)
from ziggurat.config.records import RunConfig
from ziggurat.config.values import read_value
from ziggurat.config.yaml_files import read_yaml
from ziggurat.errors import UserError
from ziggurat.system.writing import write_text


def override(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Return `config` with some settings replaced.

    Args:
        config: The configuration to start from.
        settings: From names to values; a string is read as the setting's type. `full_names` says what a name may be.

    Raises:
        UserError: If names are unknown or values are not of the setting's type; all of them are listed.

    Example:
        >>> override(RunConfig(), {"train.lr": "0.01"}).train.lr
        0.01
    """
    faults: list[str] = []
    for given, value in settings.items():
        try:
            key = full_name(given)
            config = _replace(config, key, key.split("."), value)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return config


def _replace(record: Any, key: str, path: list[str], value: Any) -> Any:
    name, *rest = path
    if rest:
        return dataclasses.replace(record, **{name: _replace(getattr(record, name), key, rest, value)})
    return dataclasses.replace(
        record, **{name: read_value(field_types(type(record))[name], value, shown_name(key))}
    )


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
        UserError: If the file cannot be read, is not YAML, or has unknown, doubled or ill-typed settings.
    """
    return override(RunConfig(), read_settings(path))


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings that a YAML file names, by their dotted names.

    Raises:
        UserError: If the file cannot be read, is not YAML, or has unknown or doubled settings.
    """
    settings: dict[str, Any] = {}
    faults: list[str] = []
    for key, value in _leaves(read_yaml(path), ""):
        full = f"pipeline.{key[len(PLAN) :]}" if key.startswith(PLAN) else key
        if full not in known_keys():  # a last part is not enough here: sections say what is meant
            faults.append(unknown_setting(key))
        elif full in settings:
            faults.append(f"the config {path} names {shown_name(full)} twice: remove one")
        settings[full] = value
    if faults:
        raise UserError(faults)
    return settings


def _leaves(tree: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield what a tree of settings names; an empty section names nothing."""
    sections = {key[: place + 1] for key in known_keys() for place, letter in enumerate(key) if letter == "."}
    for name, value in tree.items():
        key = f"{prefix}{'' if name is None else name}"
        is_section = f"{key}." in sections
        if isinstance(value, dict) and (is_section or key == PLAN.rstrip(".")):
            yield from _leaves(value, f"{key}.")
        elif not (value is None and is_section):
            yield key, value


def save_config(config: RunConfig, path: Path) -> None:
    """Write the whole configuration as YAML.

    Raises:
        UserError: If the file cannot be written.
    """
    write_text(path, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
