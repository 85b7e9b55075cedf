"""Named tensors between the workers of a pipeline: their shapes travel with them, and sends never wait.

A message is a head (names, shapes, types, memory formats, layout over other axes) of a fixed length and then the tensors'
own memory. Messages from one worker to another arrive in the order in which they were sent, which both know from the
schedule: whoever wants one takes those before it, too, and keeps them.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.pipeline.timing import Trace, noted
from ziggurat.parallel.runtime.heartbeat import waiting
from ziggurat.parallel.spatial import SpatialMesh, SpatialTensor
from ziggurat.parallel.spatial.layout import Dims

HEAD_BYTES = 4096  # longer heads take a second piece
LENGTH_BYTES = 8


class WorkerLost(RuntimeError):  # noqa: N818 - reads as what happened
    """Another worker of the pipeline has ended, or is stuck; the message names it."""


@dataclass(frozen=True)
class Placed:
    """How one tensor of a message lies in memory and over workers.

    Attributes:
        shape: Of the sender's own part.
        order: Its dims, the slowest in memory first.
        dtype: Its type.
        requires_grad: Whether the receiver sends a gradient back.
        dims: Its layout over the workers that share images; None for a plain tensor.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool
    dims: Dims | None = None


@dataclass(frozen=True)
class Message:
    """What one worker sends another at a time.

    Attributes:
        tensors: By name; None stands for a gradient that is zero everywhere.
        note: Anything small that goes with them.
    """

    tensors: Mapping[Any, Tensor | None]
    note: Any = None


@dataclass(frozen=True)
class _Sending:
    """A piece of a message on its way."""

    work: dist.Work
    memory: Tensor
    to: int
    due: int


class Channel:
    """Sends and receives messages along one axis.

    Args:
        workers: Of the axis.
        spatial: Of tensors that are spread over the workers that share images.

    Attributes:
        bytes_sent: By this worker.
        trace: Where it is noted when this worker sends, receives and waits; or None.
    """

    def __init__(self, workers: Workers, spatial: SpatialMesh | None = None) -> None:
        self.workers, self.spatial = workers, spatial
        self.sending: list[_Sending] = []
        self.bytes_sent = 0
        self.trace: Trace | None = None
        self.groups = _groups(workers)

    def send(self, message: Message, to: int, due: int = 0) -> None:
        """Begin to send, and return at once; the tensors must not be overwritten until `settle` or `flush`.

        Args:
            message: The tensors.
            to: Number of the receiver.
            due: A number of the receiver's action that takes it, rising in its order.

        Communication:
            The head, and each tensor's own bytes.
        """
        with noted(self.trace, "send", f"to {to}"):
            self._send(message, to, due)

    def _send(self, message: Message, to: int, due: int) -> None:
        placed: dict[Any, Placed | None] = {}
        payload: list[Tensor] = []
        for name, tensor in message.tensors.items():
            placed[name] = None
            if tensor is not None:
                local = tensor.local if isinstance(tensor, SpatialTensor) else tensor
                dense, order = _dense(local.detach())
                dims = tensor.dims if isinstance(tensor, SpatialTensor) else None
                placed[name] = Placed(tuple(local.shape), order, local.dtype, local.requires_grad, dims)
                payload.append(dense)
        head = pickle.dumps((placed, message.note))
        for piece in [*self._heads(head), *payload]:
            if piece.numel():
                self.bytes_sent += piece.numel() * piece.element_size()
                self.sending.append(_Sending(self._begin(dist.isend, piece, to), piece, to, due))

    def receive(self, source: int) -> Message:
        """Return the next message of another worker.

        Raises:
            WorkerLost: If it has ended, or has not sent within the process group's time-out.
        """
        with noted(self.trace, "wait", f"for {source}"):
            first = self._take(torch.empty(HEAD_BYTES, dtype=torch.uint8, device=self.workers.device), source)
        with noted(self.trace, "receive", f"from {source}"):
            return self._receive(first, source)

    def _receive(self, first: Tensor, source: int) -> Message:
        """Return a message whose head's first piece has come."""
        data = first.cpu().numpy().tobytes()
        length = int.from_bytes(data[:LENGTH_BYTES], "little")
        rest = length - (HEAD_BYTES - LENGTH_BYTES)
        if rest > 0:
            more = self._take(torch.empty(rest, dtype=torch.uint8, device=self.workers.device), source)
            data += more.cpu().numpy().tobytes()
        placed, note = pickle.loads(data[LENGTH_BYTES : LENGTH_BYTES + length])  # noqa: S301 - this run's own worker
        return Message({name: self._arrive(place, source) for name, place in placed.items()}, note)

    def settle(self, peer: int, done: int) -> None:
        """Let go of the memory of what a worker has taken in its actions up to one that it is known to have done.

        (gloo does not say of a transfer that it is complete unless one waits for it; here that takes no time.)
        """
        arrived = [one for one in self.sending if one.to == peer and one.due <= done]
        self.sending = [one for one in self.sending if one.to != peer or one.due > done]
        for one in arrived:
            self._wait(one.work, one.to)

    def flush(self) -> None:
        """Return when all that was sent has arrived.

        Raises:
            WorkerLost: If a receiver has ended, or has not received within the process group's time-out.
        """
        sending, self.sending = self.sending, []
        for one in sending:
            with noted(self.trace, "wait", f"until {one.to} has it"):
                self._wait(one.work, one.to)

    def _heads(self, head: bytes) -> list[Tensor]:
        data = len(head).to_bytes(LENGTH_BYTES, "little") + head
        pieces = [data[:HEAD_BYTES].ljust(HEAD_BYTES, b"\0")]
        if len(data) > HEAD_BYTES:
            pieces.append(data[HEAD_BYTES:])
        device = self.workers.device
        return [torch.frombuffer(bytearray(piece), dtype=torch.uint8).to(device) for piece in pieces]

    def _arrive(self, place: Placed | None, source: int) -> Tensor | None:
        if place is None:
            return None
        sizes = [place.shape[dim] for dim in place.order]
        memory = torch.empty(sizes, dtype=place.dtype, device=self.workers.device)
        if memory.numel():
            self._take(memory.view(-1), source)
        local = memory.permute([place.order.index(dim) for dim in range(len(sizes))])
        local.requires_grad_(place.requires_grad)
        if place.dims is None:
            return local
        assert self.spatial is not None
        return SpatialTensor(local, place.dims, self.spatial)

    def _take(self, memory: Tensor, source: int) -> Tensor:
        self._wait(self._begin(dist.irecv, memory, source), source)
        return memory

    def _begin(self, start: Callable[..., Any], piece: Tensor, peer: int) -> dist.Work:
        """Start one transfer; messages to higher and to lower ranks have groups of their own."""
        upwards = (peer > self.workers.rank) == (start is dist.isend)
        group = self.groups[0 if upwards else 1]
        try:
            work: dist.Work = start(piece, dist.get_global_rank(group, peer), group=group)
        except RuntimeError as error:
            raise self._lost(peer, error) from error
        return work

    def _wait(self, work: dist.Work, peer: int) -> None:
        try:
            with waiting():
                work.wait()
        except RuntimeError as error:
            raise self._lost(peer, error) from error

    def _lost(self, peer: int, error: RuntimeError) -> WorkerLost:
        group = self.groups[0]
        world = dist.get_global_rank(group, peer)
        return WorkerLost(
            f"worker {world} (number {peer} of the pipeline) did not answer worker {self.workers.rank} of the pipeline: "
            f"it has ended, or is stuck; see its own last message, and resume the run ({str(error).splitlines()[0]})"
        )


def _groups(workers: Workers) -> tuple[Any, Any]:
    """Return the process groups of messages to higher and to lower ranks.

    nccl runs the transfers between two workers in the order in which each of them starts them; with both directions in one
    group, two workers that send at once would wait for each other. gloo has no such order.
    """
    if workers.group is None or workers.device.type != "cuda":
        return workers.group, workers.group
    ranks = [dist.get_global_rank(workers.group, rank) for rank in range(workers.size)]
    return workers.group, dist.new_group(ranks, use_local_synchronization=True)


def _dense(tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return a tensor's memory without gaps as one dim, and its dims, the slowest in memory first.

    Example:
        >>> flat, order = _dense(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))
        >>> flat.shape, order
        (torch.Size([120]), (0, 2, 3, 1))
    """
    order = tuple(
        sorted(range(tensor.dim()), key=lambda d: (tensor.stride(d), tensor.shape[d]), reverse=True)
    )
    turned = tensor.permute(order)
    return turned.contiguous().view(-1), order
