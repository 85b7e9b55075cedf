"""Placing models on the workers of a mesh: each axis in turn leaves what is this worker's; what lies where becomes a layout.

whole model, whole average, whole optimizer       on every worker, as one worker makes or resumes them
join        every axis looks at the whole model, and decides
place       every axis leaves its part, of model and average alike
bind        the optimizer's moments follow their parameters
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ziggurat.strategies.alone import refuse_own_groups
from ziggurat.strategies.base import Joined, Setting
from ziggurat.strategies.boxes import Box
from ziggurat.strategies.layout import Boxes, Layout
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.running import Runner, WholeRunner
from ziggurat.strategies.whole import local, named_states


def join(model: nn.Module, mesh: Mesh, setting: Setting) -> list[Joined]:
    """Let every axis of a mesh decide how a model lies on it, in the order of placing; all workers call this.

    Args:
        model: Whole, the same on every worker.
        mesh: All workers.
        setting: Completed by how the mesh cuts images, and by who takes other microbatches.

    Raises:
        UserError: On all workers, if an axis refuses the network, or a layer of it talks to other processes by itself.
    """
    refuse_own_groups(model)
    setting.data, setting.spatial, setting.device = mesh.data, mesh.spatial, mesh.workers.device
    return [strategy.join(model, setting) for strategy in mesh.strategies]


class Placed:
    """Models of one form, placed.

    Args:
        models: Whole; changed. The first is asked for the form.
        mesh: All workers; they call this together.
        joined: Of each axis.

    Attributes:
        layout: Where their parameters and buffers lie, by every name that these have.

    Placement:
        Before, every worker has all of each model; after, what the axes leave it.
    """

    def __init__(self, models: Sequence[nn.Module], mesh: Mesh, joined: Sequence[Joined]) -> None:
        self.joined = joined
        for one in joined:
            for model in models:
                one.prepare(model)
        shapes = {name: tuple(tensor.shape) for name, tensor in _all_names(models[0]).items()}
        for model in models:
            for one in joined:
                one.place(model)
        first_names = {id(tensor): name for name, tensor in reversed(named_states(models[0]).items())}
        mine: dict[str, tuple[tuple[int, ...], Boxes]] = {}
        for name, tensor in _all_names(models[0]).items():
            mine[name] = shapes[name], self._boxes(first_names[id(tensor)], shapes[name], tensor)
        self.layout = Layout.agree(mine, mesh.state)

    def _boxes(self, name: str, shape: tuple[int, ...], tensor: Tensor) -> Boxes:
        box: Box | None = Box.of(shape)
        for one in self.joined:
            box = None if box is None else one.narrow(name, box, tensor)
        return () if box is None else (box,)

    def runner(self, model: nn.Module) -> Runner:
        """Return what runs microbatches through one of the models."""
        found = (one.runner(model) for one in self.joined)
        return next((runner for runner in found if runner is not None), WholeRunner(model))

    def held(self, model: nn.Module) -> dict[str, Tensor | tuple[Tensor, ...]]:
        """Return what this worker has of each parameter and buffer of one of the models, by its first name."""
        return {
            name: local(tensor) if self.layout.mine(name) else ()
            for name, tensor in named_states(model).items()
        }


def _all_names(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model by all names that they have; those that are not saved, too."""
    return {**named_states(model), **model.state_dict(keep_vars=True)}


def bind(
    optimizer: torch.optim.Optimizer,
    before: Mapping[str, nn.Parameter],
    after: Mapping[str, nn.Parameter],
    layout: Layout,
) -> None:
    """Give an optimizer of whole parameters the placed ones, and cut what it keeps of each as the parameter is cut.

    Args:
        optimizer: A number that it keeps of a parameter, such as of its steps, stays as it is.
        before: The whole parameters, by name.
        after: The placed ones; of those that are others' without memory: the optimizer forgets these.
        layout: Where they lie.
    """
    names = {id(parameter): name for name, parameter in before.items()}
    for group in optimizer.param_groups:
        placed = []
        for whole in group["params"]:
            name = names[id(whole)]
            parameter = after[name]
            slots = optimizer.state.pop(whole, None) if parameter is not whole else None
            if parameter.is_meta:
                continue
            placed.append(parameter)
            if slots is not None:
                optimizer.state[parameter] = {
                    slot: _cut(value, whole, parameter, layout.mine(name), bool(group.get("fused")))
                    for slot, value in slots.items()
                }
        group["params"] = placed
        is_of_torch = type(optimizer) is torch.optim.SGD
        if is_of_torch and any(isinstance(p, DTensor) for p in placed):
            group["fused"] = False  # PyTorch has no fused one of sharded tensors


def _cut(value: Any, whole: nn.Parameter, parameter: nn.Parameter, boxes: Boxes, is_fused: bool) -> Any:
    """Return what is this worker's of what an optimizer keeps of a parameter, with memory of its own."""
    if not isinstance(value, Tensor):
        return value
    if value.shape != whole.shape:  # a number; a fused optimizer reads it where the parameter is
        return value.to(parameter.device) if is_fused else value
    part = torch.zeros_like(parameter, dtype=value.dtype, requires_grad=False)
    for box in boxes:
        local(part).copy_(box.of_tensor(value))
    return part
