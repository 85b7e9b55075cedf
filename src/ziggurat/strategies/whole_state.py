"""From the parts of a training state that lie on several workers to the whole, and back.

What is written of a run (checkpoints, weights) is that of the whole model, whatever the plan: so a run that was started
under one plan goes on under another.

    pp     a worker has the weights, average and moments of its stages  --+
    tp     of what is split, those of its part                          --+-->  the first worker: the whole model,
    fsdp   its rows of each                                             --+     average and optimizer
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.pipeline.messages import Channel, Message
from ziggurat.strategies.training import Whole
from ziggurat.torch_internals.modules import own_states, replace_state

Model = TypeVar("Model", bound=nn.Module)
Key = tuple[
    str, str, str
]  # of a tensor: weights, average or optimizer; the parameter; the optimizer's word for it


def keep_moments(optimizer: torch.optim.Optimizer, names: Mapping[int, str], kept: set[str]) -> None:
    """Let an optimizer forget the parameters that are not kept.

    Args:
        optimizer: Of all parameters.
        names: Of each parameter, by its id.
        kept: Names.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if names[id(parameter)] not in kept:
                optimizer.state.pop(parameter, None)
        group["params"] = [p for p in group["params"] if names[id(p)] in kept]


def gather_whole(
    model: Model,
    average: Model,
    optimizer: torch.optim.Optimizer,
    own: set[str],
    channel: Channel,
    make_optimizer: Callable[[Model], torch.optim.Optimizer],
) -> Whole | None:
    """Return the whole state on the first worker of the pp axis; elsewhere None.

    Args:
        model: With this worker's weights.
        average: Likewise; may be the model itself.
        optimizer: Of this worker's parameters.
        own: Names of this worker's parameters and buffers.
        channel: To the other workers of the axis.
        make_optimizer: Makes one of a whole model, whose groups come in the same order.

    Placement:
        Before, each worker has its stages; after, the first has a copy of everything.

    Communication:
        Every other worker sends its weights, average and moments to the first.
    """
    mine = state_parts(model, average, optimizer, own)
    workers: Workers = channel.workers
    if workers.rank:
        channel.send(Message(mine), 0)
        channel.flush()
        return None
    parts = {key: None if tensor is None else tensor.clone() for key, tensor in mine.items()}
    for source in range(1, workers.size):
        for key, tensor in channel.receive(source).tensors.items():
            parts.setdefault(key, tensor)
    whole = copy.deepcopy(model)
    whole_average = whole if average is model else copy.deepcopy(average)
    return fill_whole(whole, whole_average, parts, optimizer, make_optimizer)


def fill_whole(
    whole: Model,
    whole_average: Model,
    parts: Mapping[Key, Tensor | None],
    optimizer: torch.optim.Optimizer,
    make_optimizer: Callable[[Model], torch.optim.Optimizer],
) -> Whole:
    """Return the whole state of parts that are whole tensors.

    Args:
        whole: Some of its parameters and buffers may have no memory.
        whole_average: Likewise; may be the same.
        parts: Of all that has none, and of the optimizer.
        optimizer: Has the settings.
        make_optimizer: Makes one of a whole model, whose groups come in the same order.
    """
    fill_states(whole, _named(parts, "weights"))
    if whole_average is not whole:
        fill_states(whole_average, _named(parts, "average"))
    whole_optimizer = make_optimizer(whole)
    for group, known in zip(whole_optimizer.param_groups, optimizer.param_groups, strict=True):
        group.update({name: value for name, value in known.items() if name != "params"})
    parameters = dict(whole.named_parameters())
    for (kind, name, word), tensor in parts.items():
        if kind == "optimizer":
            whole_optimizer.state[parameters[name]][word] = tensor
    return Whole(whole, whole_average, whole_optimizer)


def fill_states(model: Model, tensors: Mapping[str, Tensor]) -> Model:
    """Replace the parameters and buffers without memory by tensors of their names; ties stay.

    Returns:
        The model itself.
    """
    names = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
    filled: dict[int, Any] = {}
    for module in model.modules():
        for key, tensor in own_states(module):
            if not tensor.is_meta:
                continue
            if id(tensor) not in filled:
                value = tensors[names[id(tensor)]]
                is_parameter = isinstance(tensor, nn.Parameter)
                filled[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if is_parameter else value
            replace_state(module, key, filled[id(tensor)])
    return model


def state_parts(
    model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, own: set[str]
) -> dict[Key, Tensor | None]:
    """Return what this worker has of the parameters and buffers with the names `own`, by kind and name."""
    parts: dict[Key, Tensor | None] = {}
    for kind, one in (("weights", model), ("average", average)):
        if kind == "weights" or average is not model:
            states = (*one.named_parameters(), *one.named_buffers())
            parts |= {(kind, name, ""): tensor.detach() for name, tensor in states if name in own}
    for name, parameter in model.named_parameters():
        for word, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                parts["optimizer", name, word] = value.detach()
    return parts


def _named(parts: Mapping[Key, Tensor | None], kind: str) -> dict[str, Tensor]:
    return {name: t for (one, name, _), t in parts.items() if one == kind and t is not None}
