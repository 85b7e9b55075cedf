"""Finished runs, and files of weights that were trained elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ziggurat.config import RunConfig, load_config, override
from ziggurat.errors import UserError
from ziggurat.parallel.runtime.launch import world_from_environment
from ziggurat.runs.folder import CONFIG, Run, load_run
from ziggurat.runs.pretrained import load_published, published_config
from ziggurat.strategies.resolve import resolve_place


def config_of(run: Path, settings: Mapping[str, Any]) -> RunConfig:
    """Return the config of a run, or of a file of weights, for evaluation or prediction on this machine.

    Raises:
        UserError: If there is no such run, or the settings are not usable.
    """
    if run.is_file():
        base = published_config(settings.get("model.name", "auto"), run)
    elif (run / CONFIG).is_file():
        base = load_config(run / CONFIG)
        if settings.get("model.name", base.model.name) != base.model.name:
            raise UserError(f"--model belongs to a file of weights: the run {run} is of {base.model.name}")
    else:
        raise UserError(f"{run} is not the folder of a run (it has no {CONFIG}), nor a file of weights")
    here: dict[str, Any] = {"plan": "", "device": "auto"}  # threads stay: they decide the last bits
    return resolve_place(override(base, here | dict(settings)), world_from_environment())


def load(run: Path, config: RunConfig) -> Run:
    """Return the model of a run, or of a file of weights."""
    return load_published(run, config) if run.is_file() else load_run(run)
