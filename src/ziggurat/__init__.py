"""Parallel training and inference of pyramid neural networks, in the same bits on any number of workers.

The public names, imported when they are first used:

- `start_training`, `start_evaluation`, `start_prediction`: what the commands do, as functions.
- `load_run`: the model of a finished run.
- `RunConfig`: every setting, with its default.
- `launch`, `Workers`, `DataParallel`: the same exactness for a training loop of your own.
- `join_world`, `spread`: one image over several workers, in a training loop of your own.
- `UserError`: what a wrong input raises.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ziggurat.commands.start import start_evaluation as start_evaluation
    from ziggurat.commands.start import start_prediction as start_prediction
    from ziggurat.commands.start import start_training as start_training
    from ziggurat.config import RunConfig as RunConfig
    from ziggurat.errors import UserError as UserError
    from ziggurat.parallel.collectives.workers import Workers as Workers
    from ziggurat.parallel.runtime.launch import join_world as join_world
    from ziggurat.parallel.runtime.launch import launch as launch
    from ziggurat.runs.folder import load_run as load_run
    from ziggurat.strategies.data_parallel import DataParallel as DataParallel
    from ziggurat.strategies.spread import spread as spread

_HOMES = {
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
