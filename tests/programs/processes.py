"""The network talks to other processes: to whom it would talk under data parallelism, where there is a group; alone it does nothing.

On one worker there is no group. Under a plan there is one, and it is not the network's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from programs.networks import Between, Returned, last

SIZES = {"synchronised_batch_norm": "4x3x24x20", "counts_of_a_codebook_summed": "4x3x24x20"}
PLANS = {
    "mean_over_all": "sp=2 pp=2 dp=2",
    "divided_by_the_number_of_workers": "sp=2 pp=2 dp=2",
    "first_worker_only": "sp=2 pp=2",
    "synchronised_batch_norm": "sp=2 pp=2",
    "counts_of_a_codebook_summed": "sp=2 pp=2",
}


def _there_are_others() -> bool:
    return dist.is_available() and dist.is_initialized()


def _size() -> int:
    return dist.get_world_size() if _there_are_others() else 1


def mean_over_all() -> nn.Module:
    """A number is added up over all processes, and divided by how many there are."""

    def average(x: Tensor) -> Tensor:
        value = torch.full((1,), 3.0, dtype=torch.float64)
        if _there_are_others():
            dist.all_reduce(value)
            value /= dist.get_world_size()
        return x * value

    return Between(average)


def statistics_over_all() -> nn.Module:
    """The channels' means are added up over all processes."""

    def centre(x: Tensor) -> Tensor:
        means = x.detach().mean((0, 2, 3), keepdim=True)
        if _there_are_others():
            dist.all_reduce(means)
        return x - means / _size()

    return Between(centre)


def divided_by_the_number_of_workers() -> nn.Module:
    """A loss's normalizer: a number over ``get_world_size()``, at least one (DETR's number of boxes)."""
    return Between(lambda x: x / max(8 / _size(), 1))


def first_worker_only() -> nn.Module:
    """The first process alone does something more."""
    return Between(lambda x: x * 2 if not _there_are_others() or dist.get_rank() == 0 else x)


def seeded_by_the_rank() -> nn.Module:
    """Noise with a seed of the rank (masked image models on several GPUs)."""

    def add(x: Tensor) -> Tensor:
        rank = dist.get_rank() if _there_are_others() else 0
        generator = torch.Generator().manual_seed(17 + rank)
        return x + torch.randn(x.shape, generator=generator, dtype=x.dtype)

    return Between(add)


def broadcast_from_the_first() -> nn.Module:
    """Random numbers of the first process for all (codebooks are initialised so)."""

    def draw(x: Tensor) -> Tensor:
        noise = torch.randn(1, 8, 1, 1, dtype=torch.float64)
        if _there_are_others():
            dist.broadcast(noise, 0)
        return x + noise

    return Between(draw)


def waits_for_all() -> nn.Module:
    """A barrier."""
    return Between(lambda x: last(dist.barrier() if _there_are_others() else None, x.tanh()))


def features_of_all_gathered() -> nn.Module:
    """Features of all processes are gathered, and compared with one's own (contrastive losses)."""

    def compare(x: Tensor) -> list[Tensor]:
        features = x.mean((2, 3))
        others = features
        if _there_are_others():
            found = [torch.zeros_like(features) for _ in range(_size())]
            dist.all_gather(found, features.detach())
            found[dist.get_rank()] = features
            others = torch.cat(found)
        return [x, features @ others.T]

    return Returned(compare)


def objects_gathered() -> nn.Module:
    """Python objects of all processes are gathered."""

    def gather(x: Tensor) -> Tensor:
        found: list[Any] = [2.0]
        if _there_are_others():
            found = [None] * _size()
            dist.all_gather_object(found, 2.0)
        return x * (sum(found) / len(found))

    return Between(gather)


def reduced_without_waiting() -> nn.Module:
    """A sum over all processes that is waited for later."""

    def reduce(x: Tensor) -> Tensor:
        value, work = torch.ones(1, dtype=torch.float64), None
        if _there_are_others():
            work = dist.all_reduce(value, op=dist.ReduceOp.MAX, async_op=True)
        y = x.tanh()
        if work is not None:
            work.wait()
        return y * value

    return Between(reduce)


def own_group() -> nn.Module:
    """The network makes a group of its own, and adds up in it."""

    def add(x: Tensor) -> Tensor:
        value = torch.ones(1, dtype=torch.float64)
        if _there_are_others():
            group = dist.new_group(list(range(_size())))
            dist.all_reduce(value, group=group)
        return x * value / _size()

    return Between(add)


def sent_to_the_next() -> nn.Module:
    """A number is sent to the next process, and one received from the one before."""

    def send(x: Tensor) -> Tensor:
        value, found = torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        if _there_are_others():
            rank, size = dist.get_rank(), _size()
            work = dist.isend(value, (rank + 1) % size)
            dist.recv(found, (rank - 1) % size)
            work.wait()
        return x * found

    return Between(send)


def reduced_in_backward() -> nn.Module:
    """A gradient is added up over all processes by a hook of the network's own (data parallelism by hand)."""

    def together(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        if _there_are_others():
            dist.all_reduce(gradient)
        return gradient / _size()

    model = Between(torch.tanh)
    model.before.weight.register_hook(together)
    return model


def synchronised_batch_norm() -> nn.Module:
    """`nn.SyncBatchNorm`, which on one process is batch norm."""

    class Norm(nn.SyncBatchNorm):
        """On the CPU PyTorch's own refuses: where there is a group it adds the moments up itself."""

        def forward(self, x: Tensor) -> Tensor:
            moments = torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])
            if _there_are_others():
                moments = moments.clone()
                dist.all_reduce(moments)
            mean, square = moments / _size()
            scale = self.weight * (square - mean.square() + self.eps).rsqrt()
            return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]

    return Between(Norm(8))


def counts_of_a_codebook_summed() -> nn.Module:
    """How often each entry of a codebook is chosen, added up over all processes (vector quantization)."""

    class Codebook(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("counts", torch.zeros(8))

        def forward(self, x: Tensor) -> Tensor:
            counts = torch.nn.functional.one_hot(x.detach().argmax(1), 8).double().sum((0, 1, 2))
            if _there_are_others():
                dist.all_reduce(counts)
            self.counts.mul_(0.9).add_(counts, alpha=0.1)
            return x / (1 + self.counts.view(8, 1, 1))

    return Between(Codebook())


def backend_asked_for() -> nn.Module:
    """The backend of the group decides on a way that is the same."""
    return Between(lambda x: x * 2 if _there_are_others() and dist.get_backend() == "nccl" else x + x)
