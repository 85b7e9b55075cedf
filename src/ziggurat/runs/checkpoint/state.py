"""From the tensors of a checkpoint to a run's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.runs.checkpoint.tensors import TensorFacts, read_tensors, stored_tensors
from ziggurat.runs.checkpoint.writing import Progress
from ziggurat.strategies.costs.decisions import Decisions
from ziggurat.strategies.state import TrainState, split_slot

MAX_SHOWN = 5  # names of a message


def load_state(folder: Path, progress: Progress, state: TrainState[Any]) -> None:
    """Read a checkpoint, which has been checked, into a state.

    Args:
        folder: The checkpoint.
        progress: Of it: steps, counters and decisions.
        state: Whole. Its optimizer takes what is stored of its parameters, in the memory format of each: the fused optimizers
            walk through both side by side.

    Raises:
        UserError: If it is of another model; then nothing is changed.
    """
    stored, wanted = stored_tensors(folder), state.weights() | state.of_the_loss()
    parameters = {name: value for name, value in state.model.named_parameters() if value.requires_grad}
    replicas = state.replicas
    if replicas is not None:
        stored = {name: facts for name, facts in stored.items() if not replicas.is_others(name)}
        replicas.begin_like(stored, _place)
        wanted |= replicas.tensors()
    slots: dict[str, dict[str, Tensor]] = {}
    for name in sorted(name for name in stored if name.startswith("optimizer.")):
        owner, slot = split_slot(name)
        if owner in parameters:
            slots.setdefault(owner, {})[slot] = wanted[name] = _place(stored[name], parameters[owner])
    differences = _differences(wanted, stored)
    if differences:
        raise UserError(
            f"the checkpoint {folder} is of another model: {differences}; give the folder of its own run"
        )
    read_tensors(folder, wanted)
    state.optimizer.state.clear()
    for owner, values in slots.items():
        state.optimizer.state[parameters[owner]] = values
    take_progress(progress, state)


def take_progress(progress: Progress, state: TrainState[Any]) -> None:
    """Let a state be as far as a run is: steps, counters and decisions."""
    state.step = progress.step
    state.counters.update(progress.counters)
    state.decisions = Decisions.from_json(progress.decisions)


def _place(facts: TensorFacts, parameter: nn.Parameter) -> Tensor:
    """Return memory for what the optimizer keeps of a parameter."""
    if facts.shape == tuple(parameter.shape):
        return torch.empty_like(parameter, dtype=facts.dtype, requires_grad=False)
    return torch.empty(facts.shape, dtype=facts.dtype, device=parameter.device)


def _differences(wanted: dict[str, Tensor], stored: dict[str, TensorFacts]) -> str:
    """Say in what the stored tensors are not the wanted ones; nothing if they are."""
    facts = {name: TensorFacts(tuple(value.shape), value.dtype) for name, value in wanted.items()}
    found = [f"it has no {name}" for name in facts if name not in stored]
    found += [f"it has {name} besides" for name in stored if name not in facts]
    found += [
        f"its {name} is {stored[name]}, the model's {expected}"
        for name, expected in facts.items()
        if name in stored and stored[name] != expected
    ]
    more = f" and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    return ", ".join(found[:MAX_SHOWN]) + more
