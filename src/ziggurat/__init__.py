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
    from ziggurat.config import RunConfig as RunConfig
    from ziggurat.errors import UserError as UserError
    from ziggurat.parallel.launch import join_world as join_world
    from ziggurat.parallel.launch import launch as launch
    from ziggurat.parallel.workers import Workers as Workers
    from ziggurat.plans.data_parallel import DataParallel as DataParallel
    from ziggurat.plans.spread import spread as spread
    from ziggurat.run import load_run as load_run
    from ziggurat.start import start_evaluation as start_evaluation
    from ziggurat.start import start_prediction as start_prediction
    from ziggurat.start import start_training as start_training

_HOMES = {
    "DataParallel": "ziggurat.plans.data_parallel",
    "RunConfig": "ziggurat.config",
    "UserError": "ziggurat.errors",
    "Workers": "ziggurat.parallel.workers",
    "join_world": "ziggurat.parallel.launch",
    "launch": "ziggurat.parallel.launch",
    "load_run": "ziggurat.run",
    "spread": "ziggurat.plans.spread",
    "start_evaluation": "ziggurat.start",
    "start_prediction": "ziggurat.start",
    "start_training": "ziggurat.start",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``ziggurat --help`` need not wait for PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ziggurat' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
