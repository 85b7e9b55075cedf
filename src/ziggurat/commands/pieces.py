"""Pieces of a user's own that a run is given in the place of names: data, a model, a task, callbacks.

They get names in the registries, by which all else asks for them. Workers that are forked know them; those that are started anew (on GPUs, or with
several threads) get them sent, so that these must be things that pickle can name: of a script's top level.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ziggurat.config import RunConfig
from ziggurat.data.formats.own import OwnData, adopt_data, register_data, registered_data
from ziggurat.errors import UserError
from ziggurat.models.own import PREFIX, register_model, registered_models
from ziggurat.models.vision import VisionModel
from ziggurat.strategies.plan import parse_plan
from ziggurat.tasks.base import Task
from ziggurat.tasks.registry import register_task
from ziggurat.training.callbacks import Callbacks

Build = Callable[[int], VisionModel]


@dataclass(frozen=True)
class Pieces:
    """What workers have to know.

    Attributes:
        data: Data sets by their names.
        models: Functions that build models, by their names.
        tasks: Tasks of the user's own.
        callbacks: Called in the run.
    """

    data: dict[str, OwnData] = field(default_factory=dict)
    models: dict[str, Build] = field(default_factory=dict)
    tasks: tuple[type[Task[Any, Any]], ...] = ()
    callbacks: Callbacks = field(default_factory=Callbacks)

    def install(self) -> None:
        """Give them their names in this process."""
        adopt_data(self.data)
        for name, build in self.models.items():
            register_model(build, name.removeprefix(PREFIX))
        for task in self.tasks:
            register_task(task)


def name_data(data: Any, validation: Any = None) -> str | None:
    """Return the name of a data set: as it was given, or of an object the one that it is registered by now.

    Raises:
        UserError: If it is none, or a validation set stands beside a name.
    """
    if data is None or isinstance(data, (str, os.PathLike)):
        if validation is not None:
            raise UserError("validation is a data set beside one of your own: with a path, set data.val")
        return None if data is None else os.fspath(data)
    return register_data(type(data).__name__, data, validation)


def name_model(model: str | Build | None) -> dict[str, Any]:
    """Return the setting that names a model, if one is given."""
    if model is None:
        return {}
    return {"model.name": model if isinstance(model, str) else register_model(model)}


def name_task(task: str | type[Task[Any, Any]] | None) -> dict[str, Any]:
    """Return the setting that names a task, if one is given."""
    if task is None:
        return {}
    return {"task": task if isinstance(task, str) else register_task(task).name}


def pieces_for(config: RunConfig, tasks: tuple[type[Task[Any, Any]], ...], callbacks: Callbacks) -> Pieces:
    """Return what the workers of a run have to know.

    Raises:
        UserError: If they are started anew, and it cannot be sent to them.
    """
    pieces = Pieces(registered_data(), registered_models(), tasks, callbacks)
    is_started_anew = config.device != "cpu" or config.threads != 1
    if parse_plan(config.plan).num_workers > 1 and is_started_anew:
        try:
            pickle.dumps(pieces)
        except Exception as error:  # noqa: BLE001 - pickle raises almost anything
            raise UserError(
                "workers on GPUs, or with several threads, are started anew, and what they are given must be named at the top level "
                f"of a module (no lambda, no inner function): {error}; move it there, or give threads=1 on the CPU"
            ) from None
    return pieces
