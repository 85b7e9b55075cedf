"""Parallel training and inference of pyramid neural networks, in the same bits on any number of workers.

The public names, imported when they are first used:

- `train`, `evaluate`, `predict`, `verify`: what the commands do, as functions.
- `load`: a trained model, ready for images of any size (`Predictor`).
- `RunConfig`: every setting, with its default.
- `Step` with `TrainState`, `Parallel` and `Setting`: one exact training step in a loop of your own, under any plan; `launch`, `Workers`, `make_mesh`: its workers.
- `join_world`, `spread`: one image over several workers, in a training loop of your own.
- `Task` with `Metric` and `Findings`, `Format`, `Family`, and `register_task`, `register_format`, `register_family`,
  `register_reader`, `register_data`, `register_model`: a kind of work, a format of data sets, models, a format of images of your own; `main` runs the commands with
  them (docs/extending.md).
- `UserError`: what a wrong input raises.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = (
    False  # as of typing, which the command line has no time for: Ctrl-C may come in its first instants
)
if TYPE_CHECKING:
    from typing import Any

    from ziggurat.cli.main import main as main
    from ziggurat.commands.evaluate import evaluate as evaluate
    from ziggurat.commands.load import load as load
    from ziggurat.commands.predict import predict as predict
    from ziggurat.commands.train import train as train
    from ziggurat.config import RunConfig as RunConfig
    from ziggurat.data.formats import register_format as register_format
    from ziggurat.data.formats.own import register_data as register_data
    from ziggurat.data.formats.registry import Format as Format
    from ziggurat.data.readers.registry import register_reader as register_reader
    from ziggurat.errors import UserError as UserError
    from ziggurat.inference.predictor import Predictor as Predictor
    from ziggurat.metrics.base import Metric as Metric
    from ziggurat.metrics.findings import Findings as Findings
    from ziggurat.models.build import register_family as register_family
    from ziggurat.models.families import Family as Family
    from ziggurat.models.own import register_model as register_model
    from ziggurat.parallel.collectives.workers import Workers as Workers
    from ziggurat.parallel.runtime.launch import WorkerSettings as WorkerSettings
    from ziggurat.parallel.runtime.launch import join_world as join_world
    from ziggurat.parallel.runtime.launch import launch as launch
    from ziggurat.strategies.base import Setting as Setting
    from ziggurat.strategies.mesh import make_mesh as make_mesh
    from ziggurat.strategies.parallel import Parallel as Parallel
    from ziggurat.strategies.spread import spread as spread
    from ziggurat.strategies.state import TrainState as TrainState
    from ziggurat.tasks.base import Task as Task
    from ziggurat.tasks.registry import register_task as register_task
    from ziggurat.training.step import Step as Step
    from ziggurat.verification import verify as verify

_HOMES = {
    "Family": "ziggurat.models.families",
    "Findings": "ziggurat.metrics.findings",
    "Format": "ziggurat.data.formats.registry",
    "Metric": "ziggurat.metrics.base",
    "Parallel": "ziggurat.strategies.parallel",
    "Predictor": "ziggurat.inference.predictor",
    "RunConfig": "ziggurat.config",
    "Setting": "ziggurat.strategies.base",
    "Step": "ziggurat.training.step",
    "Task": "ziggurat.tasks.base",
    "TrainState": "ziggurat.strategies.state",
    "UserError": "ziggurat.errors",
    "WorkerSettings": "ziggurat.parallel.runtime.launch",
    "Workers": "ziggurat.parallel.collectives.workers",
    "evaluate": "ziggurat.commands.evaluate",
    "export": "ziggurat.commands.export",
    "join_world": "ziggurat.parallel.runtime.launch",
    "launch": "ziggurat.parallel.runtime.launch",
    "load": "ziggurat.commands.load",
    "main": "ziggurat.cli.main",
    "make_mesh": "ziggurat.strategies.mesh",
    "predict": "ziggurat.commands.predict",
    "register_data": "ziggurat.data.formats.own",
    "register_family": "ziggurat.models.build",
    "register_format": "ziggurat.data.formats",
    "register_model": "ziggurat.models.own",
    "register_reader": "ziggurat.data.readers.registry",
    "register_task": "ziggurat.tasks.registry",
    "spread": "ziggurat.strategies.spread",
    "train": "ziggurat.commands.train",
    "verify": "ziggurat.verification",
}
# Names of before: their homes and names now, and what to use instead. They go with the next version.
_OLD = {
    "DataParallel": ("ziggurat.strategies.data_parallel", "DataParallel", "ziggurat.Step"),
    "load_run": ("ziggurat.runs.folder", "load_run", "ziggurat.load"),
    "start_evaluation": ("ziggurat.commands.evaluate", "evaluate", "ziggurat.evaluate"),
    "start_prediction": ("ziggurat.commands.predict", "predict", "ziggurat.predict"),
    "start_training": ("ziggurat.commands.train", "train", "ziggurat.train"),
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``ziggurat --help`` need not wait for PyTorch."""
    if name in _OLD:
        import warnings

        home, now, instead = _OLD[name]
        warnings.warn(
            f"ziggurat.{name} goes with the next version: use {instead}", DeprecationWarning, stacklevel=2
        )
        return getattr(importlib.import_module(home), now)
    if name not in _HOMES:
        raise AttributeError(f"module 'ziggurat' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
