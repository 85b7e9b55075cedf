"""From a model, its moving average and its optimizer to named tensors, and back.

Names: ``model.NAME`` and ``average.NAME`` are weights and buffers, ``optimizer.PARAMETER.SLOT`` what the optimizer
keeps of a parameter. The settings of the optimizer are no state: the config and the step give them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.runs.checkpoint.tensors import TensorFacts, read_tensors, stored_tensors

MAX_SHOWN = 5  # names of a message


def training_state(
    model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Return the tensors of a state that are on this worker, by name, not copied.

    Args:
        model: The weights.
        average: The moving average of the weights (may be the model itself, and is left out then).
        optimizer: What it keeps of each parameter goes by the parameter's name.

    Raises:
        TypeError: If the optimizer keeps something that is no tensor.
    """
    state = _weights(model, average)
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            if value is None:
                continue
            if not isinstance(value, Tensor):
                kind = type(value).__name__
                raise TypeError(
                    f"an optimizer's state must be tensors: {names[parameter]} has a {kind}, {slot}"
                )
            state[f"optimizer.{names[parameter]}.{slot}"] = value
    return state


def load_training_state(
    folder: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Read the tensors of a checkpoint, which has been checked, into model, average and optimizer.

    Args:
        folder: The checkpoint.
        model: Takes the weights.
        average: Takes the moving average (may be the model itself).
        optimizer: Takes what is stored of its parameters, in the memory format of each: the fused optimizers walk
            through both side by side.

    Raises:
        UserError: If it is of another model; then nothing is changed.
    """
    stored = stored_tensors(folder)
    wanted = _weights(model, average)
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    slots: dict[str, dict[str, Tensor]] = {}
    for name in sorted(name for name in stored if name.startswith("optimizer.")):
        owner, _, slot = name.removeprefix("optimizer.").rpartition(".")
        if owner in parameters:
            slots.setdefault(owner, {})[slot] = wanted[name] = _place(stored[name], parameters[owner])
    differences = _differences(wanted, stored)
    if differences:
        raise UserError(
            f"the checkpoint {folder} is of another model: {differences}; give the folder of its own run"
        )
    read_tensors(folder, wanted)
    optimizer.state.clear()
    for owner, values in slots.items():
        optimizer.state[parameters[owner]] = values


def _weights(model: nn.Module, average: nn.Module) -> dict[str, Tensor]:
    """Return the weights that are on this worker; those of other workers' stages have no memory here."""
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    if average is not model:
        weights |= {f"average.{name}": value for name, value in average.state_dict().items()}
    return {name: value for name, value in weights.items() if not value.is_meta}


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
