"""The workers of one mesh axis, as one small object with a one-worker form.

Every part that talks to other workers is given a `Workers`; with one worker no process group is needed, so that
every path of the program runs, and is tested, without one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from ziggurat.errors import UserError
from ziggurat.parallel.runtime.heartbeat import waiting

T = TypeVar("T")


class Workers:
    """This worker's view of the workers along one axis.

    Attributes:
        rank: This worker's number, from 0.
        size: How many workers there are.
        device: Where this worker computes.
        group: The process group, or None for one worker.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        device: torch.device | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if (group is None) != (size == 1):
            raise ValueError(
                f"a group is needed exactly if there are several workers: got {size} and {group}"
            )
        self.rank = rank
        self.size = size
        self.device = device or torch.device("cpu")
        self.group = group

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that writes files and speaks to the user."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Return every worker's value, in order of rank, on every worker.

        Communication: one all-gather of pickled objects (between this run's own workers only).
        """
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        with waiting():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def broadcast_object(self, value: T) -> T:
        """Return the first worker's value on every worker.

        Communication: one broadcast of a pickled object.
        """
        if self.group is None:
            return value
        values = [value]
        with waiting():
            dist.broadcast_object_list(values, src=dist.get_global_rank(self.group, 0), group=self.group)
        return values[0]

    def decide_on_first(self, decide: Callable[[], T]) -> T:
        """Return on every worker what a function returns on the first, or raise there what it raises.

        Raises:
            UserError: The first worker's.

        Communication: one broadcast of a pickled object.
        """
        found: T | UserError | None = None
        if self.is_first:
            try:
                found = decide()
            except UserError as error:
                found = error
        found = self.broadcast_object(found)
        if isinstance(found, UserError):
            raise found
        return cast(T, found)

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Overwrite each tensor with the first worker's.

        Args:
            tensors: On the worker's device, or in the CPU's memory: then one at a time is on the device, too.

        Communication: one broadcast for each tensor.
        """
        if self.group is None:
            return
        source = dist.get_global_rank(self.group, 0)
        for tensor in tensors:
            there = tensor.to(self.device)  # itself, where it is there already
            with waiting():
                dist.broadcast(there, src=source, group=self.group)
            if there is not tensor:
                tensor.copy_(there)

    def sum(self, numbers: Sequence[int]) -> list[int]:
        """Return the sums of whole numbers over all workers, on every worker.

        Communication: one all-reduce of eight bytes a number.
        """
        if self.group is None:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        with waiting():
            dist.all_reduce(total, group=self.group)
        sums: list[int] = total.tolist()
        return sums

    def add_up(self, part: Tensor) -> Tensor:
        """Overwrite a tensor with its sum over all workers, and return it.

        Communication: one all-reduce.
        """
        if self.group is not None:
            with waiting():
                dist.all_reduce(part, group=self.group)
        return part

    def send(self, tensor: Tensor, to: int) -> None:
        """Send a tensor to one worker, which calls `receive`."""
        with waiting():
            dist.send(tensor.contiguous(), group=self.group, group_dst=to)

    def receive(self, room: Tensor, source: int) -> Tensor:
        """Fill a contiguous tensor with what one worker sends, and return it."""
        with waiting():
            dist.recv(room, group=self.group, group_src=source)
        return room

    def subgroup(self, ranks: Sequence[int]) -> Workers:
        """Return some of the workers, this one among them; only these call this, in the same order of calls."""
        if len(ranks) == self.size:
            return self
        if len(ranks) == 1:
            return Workers(device=self.device)
        assert self.group is not None
        world = [dist.get_global_rank(self.group, rank) for rank in ranks]
        with waiting():
            group = dist.new_group(world, use_local_synchronization=True)
        assert isinstance(group, dist.ProcessGroup)  # this worker is a member
        return Workers(list(ranks).index(self.rank), len(ranks), self.device, group)

    def barrier(self) -> None:
        """Return when every worker has called this."""
        if self.size > 1:
            with waiting():
                dist.barrier(group=self.group)
