"""Checkpoints: all that a worker's state is, so that a run can go on from them.

A state is (step, weights, optimizer, moving average); everything else is recomputed. A checkpoint is a folder
``step-N`` with the tensors as safetensors and the rest as JSON. It is written beside its final place and renamed
when all of it is on the disk, so a folder of that name is always whole.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ziggurat.errors import UserError

KEEP = 2  # newest checkpoints that stay


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Path:
    """Write the state after `step` optimizer steps (called by the first worker).

    Args:
        folder: The run's ``checkpoints`` folder.
        step: Optimizer steps that are done.
        model: The weights.
        average: The moving average of the weights (may be the model itself).
        optimizer: Its state is written with the parameters' numbers.

    Returns:
        The checkpoint's folder. Older ones beyond the newest two are removed.
    """
    final = folder / f"step-{step}"
    partial = folder / f".step-{step}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    state = optimizer.state_dict()
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if average is not model:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for number, values in state["state"].items():
        tensors |= {
            f"optimizer.{number}.{name}": value for name, value in values.items() if value is not None
        }
    save_file({name: _dense(value) for name, value in tensors.items()}, partial / "state.safetensors")
    record = {"step": step, "groups": state["param_groups"]}
    (partial / "state.json").write_text(json.dumps(record), encoding="utf-8")
    for file in partial.iterdir():
        _sync(file)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _sync(folder)
    for old in sorted(_steps(folder))[:-KEEP]:
        shutil.rmtree(folder / f"step-{old}")
    return final


def newest_step(folder: Path) -> int | None:
    """Return the step of the newest checkpoint, or None where there is none."""
    return max(_steps(folder), default=None)


def load_checkpoint(
    folder: Path, step: int, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Read the checkpoint of a step into model, average and optimizer.

    Raises:
        UserError: If it cannot be read, or is not of this model.
    """
    newest = folder / f"step-{step}"
    try:
        tensors = load_file(newest / "state.safetensors")
        record: dict[str, Any] = json.loads((newest / "state.json").read_text(encoding="utf-8"))
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(
            f"the checkpoint {newest} cannot be read: {error}; remove it to take an older one"
        ) from None
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    try:
        model.load_state_dict(parts["model"])
        if average is not model:
            average.load_state_dict(parts["average"])
    except RuntimeError as error:
        raise UserError(f"the checkpoint {newest} is of another model: {error}") from None
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        number, _, rest = name.partition(".")
        state.setdefault(int(number), {})[rest] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": record["groups"]})
    _match_memory_format(optimizer)


def _match_memory_format(optimizer: torch.optim.Optimizer) -> None:
    """Lay the optimizer's moments out as their weights: the fused optimizers walk through both side by side."""
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _dense(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU in C order, which safetensors needs."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _steps(folder: Path) -> list[int]:
    names = [path.name.removeprefix("step-") for path in folder.glob("step-*")]
    return [int(name) for name in names if name.isdecimal()]


def _sync(path: Path) -> None:
    """Return when the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
