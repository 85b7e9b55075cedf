"""Parallel training and inference of pyramid neural networks, in the same bits on any number of workers.

The public names, imported when they are first used:

- `start_training`, `start_evaluation`, `start_prediction`: what the commands do, as functions.
- `load_run`: the model of a finished run.
- `RunConfig`: every setting, with its default.
- `launch`, `Workers`, `DataParallel`: the same exactness for a training loop of your own.
- `join_world`, `spread`: one image over several workers, in a training loop of your own.
- `Task` with `Metric` and `Findings`, `Format`, `Family`, and `register_task`, `register_format`, `register_family`,
  `register_reader`: a kind of work, a format of data sets, models, a format of images of your own; `main` runs the commands with them (docs/extending.md).
- `UserError`: what a wrong input raises.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ziggurat.cli.main import main as main
    from ziggurat.commands.start import start_evaluation as start_evaluation
    from ziggurat.commands.start import start_prediction as start_prediction
    from ziggurat.commands.start import start_training as start_training
    from ziggurat.config import RunConfig as RunConfig
    from ziggurat.data.formats import register_format as register_format
    from ziggurat.data.formats.registry import Format as Format
    from ziggurat.data.readers.registry import register_reader as register_reader
    from ziggurat.errors import UserError as UserError
    from ziggurat.metrics.base import Metric as Metric
    from ziggurat.metrics.findings import Findings as Findings
    from ziggurat.models.build import register_family as register_family
    from ziggurat.models.families import Family as Family
    from ziggurat.parallel.collectives.workers import Workers as Workers
    from ziggurat.parallel.runtime.launch import join_world as join_world
    from ziggurat.parallel.runtime.launch import launch as launch
    from ziggurat.runs.folder import load_run as load_run
    from ziggurat.strategies.data_parallel import DataParallel as DataParallel
    from ziggurat.strategies.spread import spread as spread
    from ziggurat.tasks.base import Task as Task
    from ziggurat.tasks.registry import register_task as register_task

_HOMES = {
    "Task": "ziggurat.tasks.base",
    "Metric": "ziggurat.metrics.base",
    "Findings": "ziggurat.metrics.findings",
    "Format": "ziggurat.data.formats.registry",
    "Family": "ziggurat.models.families",
    "register_task": "ziggurat.tasks.registry",
    "register_reader": "ziggurat.data.readers.registry",
    "register_format": "ziggurat.data.formats",
    "register_family": "ziggurat.models.build",
    "main": "ziggurat.cli.main",
    "DataParallel": "ziggurat.strategies.data_parallel",
    "RunConfig": "ziggurat.config",
    "UserError": "ziggurat.errors",
    "Workers": "ziggurat.parallel.collectives.workers",
    "join_world": "ziggurat.parallel.runtime.launch",
    "launch": "ziggurat.parallel.runtime.launch",
    "load_run": "ziggurat.runs.folder",
    "spread": "ziggurat.strategies.spread",
    "start_evaluation": "ziggurat.commands.start",
    "start_prediction": "ziggurat.commands.start",
    "start_training": "ziggurat.commands.start",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``ziggurat --help`` need not wait for PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ziggurat' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
