"""The workers of one mesh axis, as one small object with a one-worker form.

Every part that talks to other workers is given a `Workers`, and talks through it: nothing else of the program calls a
collective. With one worker no process group is needed, so that every path runs, and is tested, without one.

    world           launch.py makes its group, and destroys it
      └ scope       the same workers; owns what is made from it, and `close` destroys that
          ├ subgroup(ranks)      some of them, this one included
          └ background()         all of them, on the CPU, for what runs beside training

A collective that fails raises `CollectiveFailed`. What is wrong with this worker's own arguments is found before it is issued,
and raises ValueError.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ziggurat.errors import UserError
from ziggurat.parallel.collectives.communicator import Communicator
from ziggurat.parallel.collectives.groups import Groups
from ziggurat.parallel.collectives.hierarchy import members
from ziggurat.parallel.runtime.crew import Line

T = TypeVar("T")


class Workers(Communicator):
    """This worker's view of the workers along one axis.

    Args:
        rank: This worker's number, from 0.
        size: How many workers there are.
        device: Where this worker computes; by default the CPU.
        group: The process group, or None for one worker. Who gives it destroys it.
        timeout: Of groups that are made from this one; by default the backend's own.
        through_host: Whether tensors pass through the CPU's memory: gloo cannot reach a GPU's.
        groups: Of the world that these were made from; by default these are one.

    Attributes:
        rank: This worker's number, from 0.
        size: How many workers there are.
        device: Where this worker computes.
        tiers: The groups in which this worker meets the others, the innermost first; see `arrange`.
        line: To the launcher, which can start more of them; None where their number stays (torchrun, GPUs, no launcher).
    """

    line: Line | None = None

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        device: torch.device | None = None,
        group: dist.ProcessGroup | None = None,
        timeout: timedelta | None = None,
        through_host: bool = False,
        groups: Groups | None = None,
    ) -> None:
        groups = groups or Groups(group, timeout)
        super().__init__(rank, size, device or torch.device("cpu"), group, groups, through_host)
        self._owns_group = False
        self._made: list[Workers] = []
        self.tiers: tuple[Workers, ...] = (self,) if size > 1 else ()

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that writes files and speaks to the user."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Return every worker's value, in order of rank, on every worker.

        Communication: two all-gathers, of sizes and of pickled objects (between this run's own workers only).
        """
        if self.size == 1:
            return [value]
        mine = self._pickled(value)
        gathered = self.all_gather(mine.new_tensor([mine.numel()], dtype=torch.int64))
        sizes: list[int] = self.to_host(gathered).tolist()
        whole = mine.new_empty(sum(sizes))
        self.start_all_gather(whole, mine, sizes).wait()
        return [_unpickled(row) for row in self.to_host(whole).split(sizes)]

    def broadcast_object(self, value: T) -> T:
        """Return the first worker's value on every worker.

        Communication: two broadcasts, of a size and of a pickled object.
        """
        if self.size == 1:
            return value
        mine = (
            self._pickled(value) if self.is_first else torch.empty(0, dtype=torch.uint8, device=self.device)
        )
        size = mine.new_tensor([mine.numel()], dtype=torch.int64)
        self.broadcast([size])
        if not self.is_first:
            mine = mine.new_empty(int(self.to_host(size)))
        self.broadcast([mine])
        return value if self.is_first else cast(T, _unpickled(self.to_host(mine)))

    def decide_on_first(self, decide: Callable[[], T]) -> T:
        """Return on every worker what a function returns on the first, or raise there what it raises.

        Raises:
            UserError: The first worker's.

        Communication: as `broadcast_object`.
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

    def sum(self, numbers: Sequence[int]) -> list[int]:
        """Return the sums of whole numbers over all workers, on every worker.

        Communication: one all-reduce of eight bytes a number.
        """
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        sums: list[int] = self.to_host(self.add_up(total)).tolist()
        return sums

    def scope(self) -> Workers:
        """Return the same workers: what is made from them is destroyed by their own `close`."""
        return self._child(self.rank, self.size, self.device, self._group, owned=False)

    def subgroup(self, ranks: Sequence[int]) -> Workers:
        """Return some of the workers, this one among them; only these call this, as often and in the same order each.

        Args:
            ranks: Their numbers here, rising.

        Communication: the members meet.
        """
        if self.rank not in ranks or sorted(set(ranks)) != list(ranks):
            raise ValueError(f"a subgroup of worker {self.rank} holds it and rises: got {list(ranks)}")
        if len(ranks) == self.size:
            return self
        if len(ranks) == 1:
            return self._child(0, 1, self.device, None, owned=False)
        world = self._world_ranks
        group = self._groups.make([world[rank] for rank in ranks])
        return self._child(list(ranks).index(self.rank), len(ranks), self.device, group, owned=True)

    def arrange(self, sizes: Sequence[int]) -> None:
        """Let these workers meet by tiers from now on, where they add up what each of them has, or gather it.

        Args:
            sizes: How many workers meet in each tier, the innermost first: ``(4, 8)`` lets four of consecutive ranks meet, then the
                eight that have the same place among their four.

        Raises:
            ValueError: If their product is not the number of workers.

        Communication: the members of each group meet; all workers call this.
        """
        if math.prod(sizes) != self.size:
            raise ValueError(f"tiers of {list(sizes)} are for {math.prod(sizes)} workers: got {self.size}")
        wide = [size for size in sizes if size > 1]
        self.tiers = tuple(self.subgroup(members(self.rank, wide, number)) for number in range(len(wide)))

    def background(self) -> Workers:
        """Return all workers with a group of their own on the CPU, for what runs beside training in another thread.

        Communication: the workers meet.
        """
        cpu = torch.device("cpu")
        if self.size == 1:
            return self._child(0, 1, cpu, None, owned=False)
        group = self._groups.make(self._world_ranks, "gloo")
        return self._child(self.rank, self.size, cpu, group, owned=True)

    def device_mesh(self) -> DeviceMesh:
        """Return these workers, several, as PyTorch's own kind of mesh: for `fully_shard`, which talks by itself.

        Raises:
            ValueError: For one worker.
        """
        return DeviceMesh.from_group(self._open_group, self.device.type)

    def close(self) -> None:
        """Destroy the groups that were made from these workers, the newest first, and their own if they have made it.

        All workers call this at the same place, when none of them uses the groups any more. Where a run fails it is not
        called: the end of the world's group, or of the process, ends them all.

        Communication: a barrier.
        """
        self.barrier()
        self._close()

    def _close(self) -> None:
        for one in reversed(self._made):
            one._close()
        self._made = []
        if self._owns_group and self._group is not None:
            self._groups.destroy(self._group)
            self._owns_group, self._group, self._connected = False, None, None

    def let_go(self) -> None:
        """Hold no group any more, after all were destroyed: it ends, and gloo's threads with it, where nobody holds it.

        A thread that comes late to the end of its message lets go of that message's tensor. Where the interpreter has ended by then,
        the process aborts.
        """
        for one in self._made:
            one.let_go()
        self._owns_group, self._group, self._connected = False, None, None
        self._groups.forget()

    def _child(
        self, rank: int, size: int, device: torch.device, group: dist.ProcessGroup | None, owned: bool
    ) -> Workers:
        through_host = self._through_host and device == self.device
        child = Workers(rank, size, device, group, through_host=through_host, groups=self._groups)
        child._owns_group = owned
        self._made.append(child)
        return child

    def _pickled(self, value: object) -> Tensor:
        data = bytearray(pickle.dumps(value))
        return torch.frombuffer(data, dtype=torch.uint8).to(self.device)


def _unpickled(data: Tensor) -> Any:
    return pickle.loads(data.numpy().tobytes())  # noqa: S301 - this run's own worker
