"""Training where every worker has all weights: whole images over dp, parts of images over sp."""

from __future__ import annotations

import torch
from torch import Tensor

from ziggurat.strategies.data_parallel import DataParallel
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.training import (
    PassWork,
    Training,
    Whole,
    bad_gradients_of_each,
    first_not_finite,
    losses_one_by_one,
)


class DataTraining(DataParallel, Training):
    """A run's training state, on every worker.

    Args:
        state: Its weights are made those of the first worker.
        mesh: All workers.
    """

    looks_at_each = True

    def __init__(self, state: Whole, mesh: Mesh) -> None:
        super().__init__(state.model, mesh.dp, mesh.sp)
        self.state = state

    def loss_leaves(self, work: PassWork) -> list[Tensor]:
        """Run forward and backward of this worker's microbatches, one after the other."""
        return losses_one_by_one(self.model, self.mine, self.leaf, work)

    def output_leaves(self, work: PassWork) -> list[Tensor]:
        """Run forward alone, without gradients; running statistics are taken from the other pass."""
        with torch.no_grad():
            return [work.vector(work.forward(self.model, place), place) for place in range(work.count)]

    def bad_gradients(self, work: PassWork) -> dict[int, str]:
        """Return the first parameter of each microbatch whose gradient is not finite; ``parameter.grad`` is left alone."""
        return bad_gradients_of_each(self.model, self.mine, work)

    def bad_gradient(self) -> str:
        """Return the first parameter whose gradient is not finite; or nothing."""
        return first_not_finite((name, parameter.grad) for name, parameter in self.names.items())

    def workers_of_loss(self, place: int) -> range:
        """Return the workers that compute the loss for a place of the dp axis: all that share its images."""
        return range(place * self.sharing.size, (place + 1) * self.sharing.size)
