"""Training with wide layers spread over workers: a run's model, average and optimizer, of what is split a part each.

whole model, average, optimizer      on every worker, as one worker makes or resumes them
TensorParallel                       the same pairs of layers of model and average are cut, with the moments of their weights
step, step, ...                      of what is split, a worker has gradients, moments and average of its part
to_write                             whole tensors for a checkpoint, each on one of the workers
whole                                on the first worker, for the export

Every worker computes what is not split, from the same numbers in the same order: an all-reduce gives each the same bits.
So its weights stay the same on all of them, though nobody sends them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.config import RunConfig
from ziggurat.parallel.graph.trace import ImageSpec
from ziggurat.parallel.tensor.layers import part_of
from ziggurat.strategies.data_training import DataTraining
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.tensor_parallel import TensorParallel
from ziggurat.strategies.training import PassWork, Whole
from ziggurat.strategies.whole_state import fill_whole, state_parts

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of a number


class TensorTraining(DataTraining):
    """A run's training state, with wide layers spread over the tp axis.

    Args:
        state: Whole; its weights are made those of the first worker. Of what is split the other workers' parts are dropped.
        make_optimizer: Makes one of a whole model.
        spec: Of the images of a microbatch.
        mesh: All workers; they call this together.
        config: Says how wide what is split must be.

    Attributes:
        tensor: Has split the model and its average.

    Raises:
        UserError: If nothing of the model can be split, or it cannot be recorded.
    """

    survives = False  # of what is split it has its own part only

    def __init__(
        self,
        state: Whole,
        make_optimizer: Callable[[Any], torch.optim.Optimizer],
        spec: ImageSpec,
        mesh: Mesh,
        config: RunConfig,
    ) -> None:
        model, average, optimizer = state
        mesh.workers.broadcast(list(model.state_dict().values()))
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the network's own
            self.tensor = TensorParallel(model, spec, mesh.tp, config.tensor.min_width)
        self.tensor.require_splits(config.model.name)
        if average is not model:
            self.tensor.split(average)
        cut_moments(optimizer, names, model, self.tensor)
        self.mesh, self.make_optimizer = mesh, make_optimizer
        super().__init__(state, mesh)

    def gradient_norm(self) -> Tensor:
        """Return the norm of the gradient of all parameters: parts of all workers, and what is not split once.

        Should workers have computed other bits of what is not split (a device whose sums have no fixed order), all take the
        first one's gradients.

        Communication:
            One all-gather of two numbers and a checksum of the bits over tp.
        """
        split: list[Tensor] = []
        common: list[Tensor] = []
        for name, parameter in self.names.items():
            if parameter.grad is not None:
                (split if name in self.tensor.dims else common).append(parameter.grad)
        device = self.mesh.workers.device
        squares = [nn.utils.get_total_norm(grads).double().square().to(device) for grads in (split, common)]
        mine = torch.stack([*squares, checksum(common, device)])
        of_parts, of_common, sums = self.mesh.tp.all_gather(mine).view(self.mesh.tp.size, -1).unbind(1)
        if (sums != sums[0]).any():
            self.mesh.tp.broadcast(common)
        return (of_parts.sum() + of_common[0]).sqrt().float()

    def bad_gradients(self, work: PassWork) -> dict[int, str]:
        """Return the first parameter of each microbatch whose gradient is not finite, in whichever part."""
        found = self.mesh.tp.gather(super().bad_gradients(work))
        indices = sorted({index for one in found for index in one})
        return {index: self._first([one[index] for one in found if index in one]) for index in indices}

    def bad_gradient(self) -> str:
        """Return the first parameter whose gradient is not finite, in whichever part; or nothing."""
        return self._first(self.mesh.tp.gather(super().bad_gradient()))

    def _first(self, found: list[str]) -> str:
        return next((name for name in self.names if name in found), "")

    def workers_of_loss(self, place: int) -> range:
        """Return the workers that compute the loss for a place of the dp axis: all of its tp axis."""
        return range(place * self.mesh.tp.size, (place + 1) * self.mesh.tp.size)

    def describe(self) -> list[str]:
        """Return a line on what is split."""
        return [self.tensor.describe()]

    def to_write(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what this worker writes of a checkpoint: of what is split some whole tensors, each worker others.

        Communication:
            One gather over tp of each tensor that is split, at the first place of dp: about as many bytes for each worker
            as its parts have.
        """
        if self.mesh.dp.rank:  # the first place of dp has the same, and writes it
            return state
        mine, number = {}, 0
        for name, value in state.items():
            kind, _, owner = name.partition(".")
            dim = self._dim_of(kind, owner.rpartition(".")[0] if kind == "optimizer" else owner, value)
            if dim is None:
                mine[name] = value
                continue
            whole = self.tensor.axis.collect(value, dim, number % self.mesh.tp.size)
            number += 1
            if whole is not None:
                mine[name] = whole
        return mine

    def _dim_of(self, kind: str, name: str, value: Tensor) -> int | None:
        """Return the dim that is cut of a tensor of the state; None if it is whole, as an optimizer's count of steps is."""
        is_part = kind != "optimizer" or value.shape == self.names[name].shape
        return self.tensor.dims.get(name) if is_part else None

    def whole(self) -> Whole | None:
        """Return the whole training state on the first worker, elsewhere None.

        Placement:
            What is not split shares its memory with this worker's state.

        Communication:
            One gather over tp of each tensor that is split.
        """
        if self.mesh.dp.rank:  # others have the same
            return None
        model, average, optimizer = self.state
        own = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
        parts = state_parts(model, average, optimizer, own)
        for key, value in parts.items():
            dim = None if value is None else self._dim_of(key[0], key[1], value)
            if value is not None and dim is not None:
                parts[key] = self.tensor.axis.collect(value, dim, 0)
        if self.mesh.tp.rank:
            return None
        whole = self.tensor.meta_model(model)
        whole_average = whole if average is model else self.tensor.meta_model(average)
        return fill_whole(whole, whole_average, parts, optimizer, self.make_optimizer)


def checksum(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Return a number of the tensors' bits, in float64, that hardly remains when some of them change.

    Each value's bits as an integer, squared, so that a step up in one place and down in another do not cancel; the sum is
    taken modulo 2**52, which float64 holds exactly. Not finite values have bits, too.
    """
    total = torch.zeros((), dtype=torch.int64, device=device)
    for tensor in tensors:
        bits = tensor.view(INTEGERS[tensor.element_size()])
        total += (bits * bits).sum()  # the product without its upper half, the sum in int64
    return (total % 2**52).double()


def cut_moments(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], model: nn.Module, tensor: TensorParallel
) -> None:
    """Give an optimizer a split model's parameters in the place of the whole ones, and cut what it keeps of them.

    Args:
        optimizer: Of the whole parameters.
        names: Of each of them, by its id.
        model: Split.
        tensor: Has split it.
    """
    parameters = dict(model.named_parameters())
    for group in optimizer.param_groups:
        for place, whole in enumerate(group["params"]):
            name = names[id(whole)]
            if name not in tensor.dims:
                continue
            part = group["params"][place] = parameters[name]
            if whole in optimizer.state:
                slots = optimizer.state[part] = optimizer.state.pop(whole)
                for word, value in slots.items():
                    if isinstance(value, Tensor) and value.shape == whole.shape:
                        slots[word] = part_of(value, tensor.axis, tensor.dims[name])
