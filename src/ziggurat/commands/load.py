"""Loading a run, to predict with it in a program of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from ziggurat.commands.runs import members_of
from ziggurat.errors import UserError
from ziggurat.inference.predictor import Predictor
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.runs.members import RunNames
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.resolve import resolve_device

_OF_WORKERS = {"device", "launch", "plan", "threads"}  # settings of processes that are started


def load(
    run: RunNames,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    settings: Mapping[str, Any] | None = None,
) -> Predictor:
    """Load a run, a file of weights, or several whose predictions are averaged, as a predictor on this process.

    It computes with PyTorch's threads as they are: the bits are those of `ziggurat predict` where these are as many as the
    run's ``threads``.

    Args:
        run: A run, a checkpoint of it (``runs/x@best``), or a file of weights, whose model is ``model.name`` in the settings; or
            several (`ziggurat.runs.members`).
        device: Where it computes.
        settings: From dotted names to values, over those of the run.

    Raises:
        UserError: If there is no such run, or device, or the settings are not usable.
    """
    without_effect = sorted(name for name in settings or {} if name.partition(".")[0] in _OF_WORKERS)
    if without_effect:
        raise UserError(
            f"a run is loaded into this process as it is: the settings {', '.join(without_effect)} have no effect; give the "
            "device as an argument, or run ziggurat.predict on workers of their own"
        )
    members = members_of(run, {**(settings or {}), "plan": "dp=1", "device": device}, "predict")
    mesh = make_mesh(Workers(device=torch.device(resolve_device(device))))
    return Predictor.of_runs(members.load(), mesh)
