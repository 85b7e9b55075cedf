"""What a worker holds of a run while it trains: weights, average and moments, found without asking the run for them.

PyTorch tells of every step of an optimizer; networks and averages are found among all objects of the process. So it is
known what is really there, whatever keeps it.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


def local(tensor: Tensor) -> Tensor:
    """Return this worker's part of a tensor that is spread; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def after_each_step(look: Callable[[Held], None], before: bool = False) -> None:
    """Call `look` with what this process holds, after (or before) each step of its optimizer from now on."""
    register = register_optimizer_step_pre_hook if before else register_optimizer_step_post_hook
    others = (
        _modules()
    )  # of tests before this one; they are kept, so that no later one has the number of one of them
    register(lambda optimizer, *_: look(Held(optimizer, others)))


def _modules() -> list[nn.Module]:
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, nn.Module)]


def _models(parameters: set[int], others: list[nn.Module]) -> list[nn.Module]:
    """Return the networks that are trained, and those of the same names with other weights."""
    known = set(map(id, others))
    modules = [one for one in _modules() if id(one) not in known]
    trained = max(
        modules, key=lambda one: (sum(id(p) in parameters for p in one.parameters()), len([*one.modules()]))
    )
    names = trained.state_dict().keys()
    same = [one for one in modules if type(one) is type(trained) and one.state_dict().keys() == names]
    return [trained, *(one for one in same if one is not trained)]


class Held:
    """What this process holds of a run.

    Attributes:
        model: The network that is trained.
        averages: Other networks of the same names.
        optimizer: Its optimizer.

    Args:
        others: Networks that were there before the run.
    """

    def __init__(self, optimizer: Optimizer, others: list[nn.Module]) -> None:
        self.optimizer = optimizer
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self.model, *self.averages = _models(owned, others)

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Return this worker's tensors with memory: ``model``, ``average``, ``moments``, each by name."""
        average = max(
            map(_states, self.averages), key=elements, default={}
        )  # others may have no memory at all
        found = {"model": _states(self.model), "average": average}
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        moments = {
            f"{names[id(parameter)]}.{slot}": local(value.detach())
            for parameter, slots in self.optimizer.state.items()
            for slot, value in slots.items()
            if isinstance(value, Tensor)
        }
        return found | {"moments": moments}

    def gradients(self) -> dict[str, Tensor]:
        """Return this worker's parts of the gradients by name."""
        named = self.model.named_parameters()
        return {name: local(p.grad).clone() for name, p in named if p.grad is not None}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters by name."""
        return dict(self.model.named_parameters())


def _states(module: nn.Module) -> dict[str, Tensor]:
    return {name: local(t.detach()) for name, t in module.state_dict().items() if not t.is_meta}


def elements(tensors: dict[str, Tensor]) -> int:
    """Return how many numbers they have."""
    return sum(tensor.numel() for tensor in tensors.values())


def digest(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Return a hash of the bits of each."""
    return {
        name: hashlib.sha256(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
