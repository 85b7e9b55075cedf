"""The collectives over one process group: on tensors, checked before they are issued, converted where they fail.

`workers.Workers` is what others are given; this is the part of it that calls PyTorch. With one worker each collective has a form
without a group.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ziggurat.parallel.collectives.clock import Clock
from ziggurat.parallel.collectives.groups import Groups
from ziggurat.parallel.collectives.local_messages import SMALL_BYTES, LocalMessages, Waited
from ziggurat.parallel.collectives.observer import Observer, Talk
from ziggurat.parallel.collectives.requests import DONE, Request, converted
from ziggurat.parallel.collectives.sent import Sent
from ziggurat.parallel.runtime.heartbeat import waiting

Operation = Literal["sum", "max"]
_OPERATIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}


class Communicator:
    """This worker's way to talk to the others of one process group.

    Args:
        rank: This worker's number, from 0.
        size: How many workers there are.
        device: Where this worker computes.
        group: The process group, or None for one worker.
        groups: What was made from the same world.
        through_host: Whether tensors pass through the CPU's memory: gloo cannot reach a GPU's.

    Attributes:
        sent: What this worker has sent over the group so far.
        needs_group: Whether several workers talk over a process group.

    Raises:
        ValueError: If there is no group for several workers, or one for a single worker.
    """

    needs_group = True

    def __init__(
        self, rank: int, size: int, device: torch.device, group: dist.ProcessGroup | None, groups: Groups,
        through_host: bool = False,
    ) -> None:  # fmt: skip
        if self.needs_group and (group is None) != (size == 1):
            raise ValueError(
                f"a group is needed exactly if there are several workers: got {size} and {group}"
            )
        self.rank, self.size, self.device = rank, size, device
        self._group, self._groups, self._through_host = group, groups, through_host
        self._connected = None if group is None else groups.local(group, rank, size)
        self.sent = Sent()

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite each tensor with the first worker's.

        Args:
            tensors: On the worker's device, or in the CPU's memory: then one at a time is on the device, too.

        Communication: one broadcast for each tensor.
        """
        if self.size == 1:
            return
        for tensor in tensors:
            there = self._reached(tensor.to(self.device))  # itself, where it is there already
            if self.rank == 0:
                self.sent.add(self.size - 1, (self.size - 1) * tensor.nbytes)
            with self._collective("broadcast", there):
                if self._local is not None and there.is_contiguous():
                    self._local.broadcast(there).wait()
                else:
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
        there = self._reached(tensor)
        self.sent.add(2 * (self.size - 1), 2 * (self.size - 1) * tensor.nbytes // self.size)
        local = self._local
        if local is not None and tensor.nbytes <= SMALL_BYTES:
            return self._start("all-reduce", tensor, lambda: local.add_up(there, operation), (tensor, there))
        return self._start(
            "all-reduce",
            tensor,
            lambda: dist.all_reduce(there, _OPERATIONS[operation], group=self._open_group, async_op=True),
            (tensor, there),
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

    def start_all_gather(self, whole: Tensor, part: Tensor, sizes: Sequence[int] | None = None) -> Request:
        """Begin `all_gather` into a flat tensor that is there already.

        Args:
            whole: Overwritten; flat.
            part: As `all_gather` has it; with `sizes` of as many elements as they say.
            sizes: Elements of each worker's tensor, in order of rank; by default the same of each.

        Communication: one all-gather; of tensors of several sizes a message to each other worker, of its own elements exactly.
        """
        self._require_contiguous(whole, part)
        sizes = [part.numel()] * self.size if sizes is None else list(sizes)
        if (
            len(sizes) != self.size
            or part.numel() != sizes[self.rank]
            or whole.numel() != sum(sizes)
            or whole.dtype != part.dtype
        ):
            raise ValueError(
                f"tensors of {sizes} elements of {self.size} workers, of this one {part.numel()} {part.dtype}, do not fit into "
                f"{whole.numel()} {whole.dtype}"
            )
        if self.size == 1:
            whole.copy_(part.reshape(-1))
            return DONE
        if len(set(sizes)) > 1:
            return self._start_all_gather_of(whole.view(-1), part.reshape(-1), sizes)
        flat = whole.view(-1)
        mine, there = self._reached(part.reshape(-1)), self._reached(flat)
        self.sent.add(self.size - 1, (self.size - 1) * part.nbytes)
        local = self._local
        if local is not None:
            return self._start("all-gather", part, lambda: local.all_gather(there, mine), (flat, there))
        return self._start(
            "all-gather",
            part,
            lambda: dist.all_gather_single(there, mine, group=self._open_group, async_op=True),
            (flat, there),
        )

    def _start_all_gather_of(self, whole: Tensor, part: Tensor, sizes: Sequence[int]) -> Request:
        places = whole.split(list(sizes))
        places[self.rank].copy_(part)
        others = [rank for rank in range(self.size) if rank != self.rank]
        sends = [(rank, part) for rank in others if part.numel()]
        return self.start_swap(sends, [(rank, places[rank]) for rank in others if sizes[rank]])

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
        mine = self._reached(part)
        parts = [torch.empty_like(mine) for _ in range(self.size)] if self.rank == owner else None
        if self.rank != owner:
            self.sent.add(1, part.nbytes)
        with self._collective("gather", mine):
            if self._local is not None:
                self._local.gather(mine, parts, owner).wait()
            else:
                dist.gather(mine, parts, group=self._open_group, group_dst=owner)
        return parts and [one.to(self.device) for one in parts]

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
        mine, there = self._reached(sent), self._reached(received)
        to_others = [size for rank, size in enumerate(sent_sizes) if size and rank != self.rank]
        self.sent.add(len(to_others), sum(to_others) * sent.element_size())
        local = self._local
        if local is not None:
            return self._start(
                "all-to-all",
                sent,
                lambda: local.all_to_all(there, mine, received_sizes, sent_sizes),
                (received, there),
            )
        return self._start(
            "all-to-all",
            sent,
            lambda: dist.all_to_all_single(
                there, mine, list(received_sizes), list(sent_sizes), group=self._open_group, async_op=True
            ),
            (received, there),
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
        self.sent.add((self.size - 1).bit_length(), 0)
        local = self._local
        if local is not None:
            return self._start("barrier", None, local.barrier)
        return self._start("barrier", None, lambda: dist.barrier(group=self._open_group, async_op=True))

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
        there = [(tensor, self._reached(tensor)) for _, tensor in receives]
        mine = [self._reached(tensor) for _, tensor in sends]
        incoming = [(peer, t) for (peer, _), (_, t) in zip(receives, there, strict=True)]
        outgoing = [(peer, t) for (peer, _), t in zip(sends, mine, strict=True)]
        peers = [peer for peer, _ in (*receives, *sends)]
        self.sent.add(len(sends), sum(tensor.nbytes for _, tensor in sends))
        self._groups.check()
        with (
            self._observed("swap", None, sends, receives) as done,
            converted(lambda: self._unanswered(peers)),
        ):
            works = self._begin_batch(incoming, outgoing)
        # NCCL has one work for all of them
        of_work = [[peer] for peer in peers] if len(works) == len(peers) else [peers] * len(works)
        waited = [
            (work, lambda some=some: self._unanswered(some))
            for work, some in zip(works, of_work, strict=True)
        ]
        return Request(waited, self._groups.check, self.device, mine, there, done, self._groups.timed)

    def _begin_batch(
        self, incoming: Sequence[tuple[int, Tensor]], outgoing: Sequence[tuple[int, Tensor]]
    ) -> Sequence[Waited]:
        """Begin to receive and to send; return a work for each, or under NCCL one for all."""
        group = self._open_group
        if self._through_host or self.device.type == "cpu":
            connected = self._reached_by_sockets
            near = {} if connected is None else connected.peers
            works: list[Waited] = []
            # gloo knows no batches: PyTorch's would look the group up again for each message
            for peer, tensor in incoming:
                works.append(near[peer].receive(tensor) if peer in near else group.recv([tensor], peer, 0))
            for peer, tensor in outgoing:
                works.append(near[peer].send(tensor) if peer in near else group.send([tensor], peer, 0))
            return works
        operations = [dist.P2POp(dist.irecv, t, group=group, group_peer=peer) for peer, t in incoming]
        operations += [dist.P2POp(dist.isend, t, group=group, group_peer=peer) for peer, t in outgoing]
        return dist.batch_isend_irecv(operations)

    def abort(self, lost: str) -> None:
        """End all waits of this worker, in every group of its world; see `Groups.abort`.

        Args:
            lost: Which other worker is lost, and how: the message of each `CollectiveFailed` that follows.
        """
        self._groups.abort(lost)

    def to_host(self, result: Tensor) -> Tensor:
        """Return what a collective has given in the CPU's memory, once it is real.

        Raises:
            CollectiveFailed: If this worker was told that another one is lost: then the result may be anything.
        """
        with waiting():
            there = result.cpu()
        self._groups.check()
        return there

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

    @property
    def _reached_by_sockets(self) -> LocalMessages | None:
        """What connects this worker to others of its machine; nothing while somebody is told of all messages, and sees PyTorch's own."""
        return self._connected if self._groups.observer is None else None

    @property
    def _local(self) -> LocalMessages | None:
        """The same, where it reaches all of the group."""
        found = self._reached_by_sockets
        return found if found is not None and found.reach_all else None

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

    def observe(self, observer: Observer | None) -> None:
        """Tell somebody of all messages of this world from now on; None tells nobody."""
        self._groups.observer = observer

    @property
    def observer(self) -> Observer | None:
        """Who is told of the messages of this world; None in a real run."""
        return self._groups.observer

    def time_waits(self, clock: Clock | None) -> Clock | None:
        """Let a clock know how long this thread waits for other workers, in any group of this world, from now on.

        Returns:
            The one that was told before; None where none was.
        """
        before, self._groups.waits, self._groups.waiter = self._groups.waits, clock, threading.get_ident()
        return before

    @property
    def shared_memory(self) -> Literal["reserved", "promised", "none"]:
        """What memory that these workers share is to them, see `Observer`."""
        observer = self._groups.observer
        return "reserved" if observer is None else observer.shared_memory(self._world_ranks)

    def _observed(
        self,
        kind: Talk,
        given: Tensor | None,
        sends: Sequence[tuple[int, Tensor]] = (),
        receives: Sequence[tuple[int, Tensor]] = (),
    ) -> AbstractContextManager[Callable[[], None] | None]:
        """Return the context in which a message is begun; it gives what is called after its wait, if anybody wants to know."""
        if self._groups.observer is None:
            return nullcontext()
        ranks, num_bytes = self._world_ranks, 0 if given is None else given.nbytes
        sent, received = ([(ranks[peer], one.nbytes) for peer, one in some] for some in (sends, receives))
        return self._groups.observer.message(kind, ranks, num_bytes, sent, received)

    @contextmanager
    def _collective(self, name: Literal["broadcast", "gather"], given: Tensor) -> Iterator[None]:
        """Note that this worker waits while a block runs, and let it raise `CollectiveFailed`."""
        self._groups.check()
        with (
            self._groups.timed(self.device),
            waiting(),
            self._observed(name, given) as done,
            converted(lambda: self._failed(name)),
        ):
            yield
        if done is not None:
            done()
        self._groups.check()

    def _reached(self, tensor: Tensor) -> Tensor:
        """Return a tensor where the backend can reach it: itself, or a copy in the CPU's memory."""
        return tensor.to("cpu", copy=True) if self._through_host else tensor

    def _start(
        self,
        name: Talk,
        given: Tensor | None,
        begin: Callable[[], Waited | None],
        *results: tuple[Tensor, Tensor],
    ) -> Request:
        self._groups.check()
        with self._observed(name, given) as done, converted(lambda: self._failed(name)):
            work = begin()
        assert work is not None  # this worker is a member
        waited = [(work, lambda: self._failed(name))]
        return Request(waited, self._groups.check, self.device, (), results, done, self._groups.timed)

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
