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

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ziggurat.errors import UserError
from ziggurat.parallel.collectives.groups import Groups
from ziggurat.parallel.collectives.requests import DONE, Request, converted
from ziggurat.parallel.runtime.heartbeat import waiting

T = TypeVar("T")
Operation = Literal["sum", "max"]
_OPERATIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}


class Workers:
    """This worker's view of the workers along one axis.

    Args:
        rank: This worker's number, from 0.
        size: How many workers there are.
        device: Where this worker computes; by default the CPU.
        group: The process group, or None for one worker. Who gives it destroys it.
        timeout: Of groups that are made from this one; by default the backend's own.

    Attributes:
        rank: This worker's number, from 0.
        size: How many workers there are.
        device: Where this worker computes.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        device: torch.device | None = None,
        group: dist.ProcessGroup | None = None,
        timeout: timedelta | None = None,
    ) -> None:
        if (group is None) != (size == 1):
            raise ValueError(
                f"a group is needed exactly if there are several workers: got {size} and {group}"
            )
        self.rank = rank
        self.size = size
        self.device = device or torch.device("cpu")
        self._group = group
        self._groups = Groups(group, timeout)
        self._owns_group = False
        self._made: list[Workers] = []

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that writes files and speaks to the user."""
        return self.rank == 0

    # ---- objects -------------------------------------------------------------------------------------------------------

    def gather(self, value: T) -> list[T]:
        """Return every worker's value, in order of rank, on every worker.

        Communication: two all-gathers, of sizes and of pickled objects (between this run's own workers only).
        """
        if self.size == 1:
            return [value]
        mine = self._pickled(value)
        sizes: list[int] = self.all_gather(mine.new_tensor([mine.numel()], dtype=torch.int64)).tolist()
        padded = mine.new_zeros(max(sizes))
        padded[: len(mine)] = mine
        rows = self.all_gather(padded).view(self.size, -1)
        return [_unpickled(row[:size]) for row, size in zip(rows, sizes, strict=True)]

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
            mine = mine.new_empty(int(size))
        self.broadcast([mine])
        return value if self.is_first else cast(T, _unpickled(mine))

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
        sums: list[int] = self.add_up(total).tolist()
        return sums

    # ---- tensors, all workers ------------------------------------------------------------------------------------------

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite each tensor with the first worker's.

        Args:
            tensors: On the worker's device, or in the CPU's memory: then one at a time is on the device, too.

        Communication: one broadcast for each tensor.
        """
        if self.size == 1:
            return
        for tensor in tensors:
            there = tensor.to(self.device)  # itself, where it is there already
            with self._collective("broadcast"):
                dist.broadcast(there, group=self._open_group, group_src=0)
            if there is not tensor:
                tensor.copy_(there)

    def add_up(self, tensor: Tensor, operation: Operation = "sum") -> Tensor:
        """Overwrite a tensor with its sum (or the largest values) over all workers, and return it.

        Args:
            tensor: Contiguous, of one shape and type on all workers.
            operation: ``sum`` or ``max``.

        Communication: one all-reduce: ``2 (W - 1) / W`` of the tensor's bytes sent by each worker.
        """
        self.start_add_up(tensor, operation).wait()
        return tensor

    def start_add_up(self, tensor: Tensor, operation: Operation = "sum") -> Request:
        """Begin `add_up`; the tensor must not be touched before the request's end."""
        if self.size == 1:
            return DONE
        self._require_contiguous(tensor)
        return self._start(
            "all-reduce",
            lambda: dist.all_reduce(tensor, _OPERATIONS[operation], group=self._open_group, async_op=True),
        )

    def all_gather(self, part: Tensor) -> Tensor:
        """Return the elements of every worker's tensor, one worker after the other.

        Args:
            part: Contiguous, of one shape and type on all workers.

        Returns:
            Shape ``(size * part.numel(),)``, the same on every worker.

        Communication: one all-gather: ``W - 1`` times the part's bytes received by each worker.
        """
        if self.size == 1:
            return part.reshape(-1)
        whole = part.new_empty(self.size * part.numel())
        self.start_all_gather(whole, part).wait()
        return whole

    def start_all_gather(self, whole: Tensor, part: Tensor) -> Request:
        """Begin `all_gather` into a flat tensor that is there already."""
        self._require_contiguous(whole, part)
        if whole.numel() != self.size * part.numel() or whole.dtype != part.dtype:
            raise ValueError(
                f"{self.size} workers' tensors of {part.numel()} {part.dtype} do not fit into {whole.numel()} {whole.dtype}"
            )
        if self.size == 1:
            whole.copy_(part.reshape(-1))
            return DONE
        return self._start(
            "all-gather",
            lambda: dist.all_gather_single(
                whole.view(-1), part.reshape(-1), group=self._open_group, async_op=True
            ),
        )

    def gather_to(self, part: Tensor, owner: int) -> list[Tensor] | None:
        """Return every worker's tensor on one of the workers; elsewhere None.

        Args:
            part: Contiguous, of one shape and type on all workers.
            owner: The number of that worker.

        Communication: one gather: the part's bytes sent by each other worker.
        """
        if self.size == 1:
            return [part]
        self._require_contiguous(part)
        parts = [torch.empty_like(part) for _ in range(self.size)] if self.rank == owner else None
        with self._collective("gather"):
            dist.gather(part, parts, group=self._open_group, group_dst=owner)
        return parts

    def start_all_to_all(
        self, received: Tensor, sent: Tensor, received_sizes: Sequence[int], sent_sizes: Sequence[int]
    ) -> Request:
        """Begin to send a piece of a flat tensor to each worker, and to receive one from each.

        Args:
            received: Overwritten; flat.
            sent: Flat.
            received_sizes: Elements from each worker, in order of rank.
            sent_sizes: Elements to each worker, in order of rank.

        Communication: one all-to-all of these pieces.
        """
        self._require_contiguous(received, sent)
        for tensor, sizes in ((received, received_sizes), (sent, sent_sizes)):
            if tensor.numel() != sum(sizes) or len(sizes) != self.size:
                raise ValueError(f"{tensor.numel()} elements are not {list(sizes)} of {self.size} workers")
        if self.size == 1:
            received.copy_(sent)
            return DONE
        return self._start(
            "all-to-all",
            lambda: dist.all_to_all_single(
                received, sent, list(received_sizes), list(sent_sizes), group=self._open_group, async_op=True
            ),
        )

    def barrier(self) -> None:
        """Return when every worker has called this.

        Communication: a barrier.
        """
        self.start_barrier().wait()

    def start_barrier(self) -> Request:
        """Begin a barrier: the request ends when every worker has called this.

        Communication: a barrier.
        """
        if self.size == 1:
            return DONE
        return self._start("barrier", lambda: dist.barrier(group=self._open_group, async_op=True))

    # ---- tensors, two workers ------------------------------------------------------------------------------------------

    def start_send(self, tensor: Tensor, to: int) -> Request:
        """Begin to send a tensor to another worker, which receives it in the order in which this one sends.

        Under NCCL a send ends only when it is received, and what this worker begins later waits behind it: where two workers
        may send at once, they use `start_swap`.

        Communication: the tensor's bytes.
        """
        return self.start_swap([(to, tensor)], [])

    def start_receive(self, tensor: Tensor, source: int) -> Request:
        """Begin to receive a tensor from another worker; it is overwritten.

        Communication: the tensor's bytes.
        """
        return self.start_swap([], [(source, tensor)])

    def start_swap(
        self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]
    ) -> Request:
        """Begin to send some tensors and to receive others, at once: none waits for another of the same call.

        Args:
            sends: Receivers and tensors; to one worker in the order in which it receives.
            receives: Senders and tensors, which are overwritten; from one worker in the order in which it sends.

        Communication: the tensors' bytes, as one batch.
        """
        if not sends and not receives:
            return DONE
        self._require_contiguous(*(tensor for _, tensor in (*sends, *receives)))
        for peer, _ in (*sends, *receives):
            if not 0 <= peer < self.size or peer == self.rank:
                raise ValueError(f"worker {self.rank} of {self.size} cannot talk to worker {peer}")
        operations = [
            dist.P2POp(dist.irecv, t, group=self._open_group, group_peer=peer) for peer, t in receives
        ]
        operations += [
            dist.P2POp(dist.isend, t, group=self._open_group, group_peer=peer) for peer, t in sends
        ]
        peers = [peer for peer, _ in (*receives, *sends)]
        self._groups.check()
        with converted(lambda: self._unanswered(peers)):
            works = dist.batch_isend_irecv(operations)
        # NCCL has one work for all of them
        of_work = [[peer] for peer in peers] if len(works) == len(peers) else [peers] * len(works)
        waited = [
            (work, lambda some=some: self._unanswered(some))
            for work, some in zip(works, of_work, strict=True)
        ]
        return Request(waited, self._groups.check, self.device, [tensor for _, tensor in sends])

    # ---- groups --------------------------------------------------------------------------------------------------------

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
            self._owns_group, self._group = False, None

    # ---- losses --------------------------------------------------------------------------------------------------------

    def abort(self, lost: str) -> None:
        """End all waits of this worker, in every group of its world; see `Groups.abort`.

        Args:
            lost: Which other worker is lost, and how: the message of each `CollectiveFailed` that follows.
        """
        self._groups.abort(lost)

    def confirm(self) -> None:
        """Return when every collective so far has given its result, or raise.

        Called before a step changes the state: what NCCL has computed of a worker that died meanwhile is nothing.

        Raises:
            CollectiveFailed: If this worker was told that another one is lost.

        Communication: none; under CUDA this waits for the device.
        """
        if self.size > 1 and self.device.type == "cuda":
            with waiting():
                torch.cuda.synchronize(self.device)
        self._groups.check()

    # ---- inside --------------------------------------------------------------------------------------------------------

    def _child(
        self, rank: int, size: int, device: torch.device, group: dist.ProcessGroup | None, owned: bool
    ) -> Workers:
        child = Workers(rank, size, device, group)
        child._groups, child._owns_group = self._groups, owned
        self._made.append(child)
        return child

    @property
    def _world_ranks(self) -> list[int]:
        return [0] if self.size == 1 else dist.get_process_group_ranks(self._open_group)

    @property
    def _open_group(self) -> dist.ProcessGroup:
        if self._group is None:
            raise ValueError(f"these {self.size} workers have been closed, or are one that needs no group")
        return self._group

    def _unanswered(self, peers: Sequence[int]) -> str:
        world = self._world_ranks
        names = " or ".join(
            f"worker {world[peer]} (number {peer} of its axis)" for peer in dict.fromkeys(peers)
        )
        return f"{names} did not answer worker {world[self.rank]}"

    @contextmanager
    def _collective(self, name: str) -> Iterator[None]:
        """Note that this worker waits while a block runs, and let it raise `CollectiveFailed`."""
        self._groups.check()
        with waiting(), converted(lambda: self._failed(name)):
            yield
        self._groups.check()

    def _start(self, name: str, begin: Callable[[], dist.Work | None]) -> Request:
        self._groups.check()
        with converted(lambda: self._failed(name)):
            work = begin()
        assert work is not None  # this worker is a member
        return Request([(work, lambda: self._failed(name))], self._groups.check, self.device)

    def _failed(self, name: str) -> str:
        return f"one of the workers {self._world_ranks} did not answer worker {self._world_ranks[self.rank]} in its {name}"

    def _require_contiguous(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            if not tensor.is_contiguous():
                raise ValueError(
                    f"a collective takes contiguous tensors: got shape {tuple(tensor.shape)}, strides {tensor.stride()}"
                )
            if tensor.device.type != self.device.type:
                raise ValueError(
                    f"the workers compute on {self.device.type}: got a tensor on {tensor.device.type}"
                )

    def _pickled(self, value: object) -> Tensor:
        data = bytearray(pickle.dumps(value))
        return torch.frombuffer(data, dtype=torch.uint8).to(self.device)


def _unpickled(data: Tensor) -> Any:
    return pickle.loads(data.cpu().numpy().tobytes())  # noqa: S301 - this run's own worker
