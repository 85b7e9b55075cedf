"""Messages between the workers of one machine, through sockets of its kernel, in the place of gloo's.

    gloo            worker ── ready? ──> worker      each end has a thread that polls; three messages over the loopback interface, with
                           <── ready ──               two changes of threads each
                           ─── bytes ──>
    a local socket  worker ─── bytes ──>  worker      one call writes, one call reads

A swap takes a third of the processor's time that it takes by gloo, up to 1 MiB (`benchmarks/messages`); and it does not wait for the
turn of a thread where other programs want the processor.

A message begins with its kind and its length, so that workers that do not do the same find out instead of taking bytes for others. It is
written at once as far as the kernel takes it; the rest of a large one is written by a thread, so that nobody waits for a receiver who
computes, or who waits for a send of its own. Whoever wants a message reads it. Swaps between two workers meet in their order, and so do
collectives; but a swap and a collective may be begun in another order by each worker, as under gloo: what comes before it is wanted is kept.

The sockets have no name in any folder and end with their workers: a read from one that has died fails at once.
"""

from __future__ import annotations

import ctypes
import os
import queue
import socket
import struct
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ziggurat.parallel.collectives.observer import Talk

SMALL_BYTES = 1 << 16  # an all-reduce of so much goes to all at once; a longer one by gloo, along a ring
PIECE_BYTES = 1 << 18  # of a message that a thread writes
BUFFER_BYTES = 1 << 20  # that the kernel is asked to take of a message that nobody reads yet
DEFAULT_SECONDS = 1800.0  # as gloo waits
KINDS: tuple[Talk, ...] = (
    "swap", "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "broadcast", "gather", "barrier",
)  # fmt: skip
_HEADER = struct.Struct("<Q")  # the kind in the highest byte, the length in the others
_LENGTH_BITS = 56
_LENGTHS = (1 << _LENGTH_BITS) - 1


class Waited(Protocol):
    """What somebody waits for: a work of PyTorch, or one of these messages."""

    def wait(self) -> object:
        """Return when it is done; RuntimeError where it fails."""
        ...


class Several:
    """Several things that are waited for as one.

    Args:
        works: In the order in which they are waited for.
    """

    def __init__(self, works: Sequence[Waited]) -> None:
        self.works = works

    def wait(self) -> None:
        """Return when all are done."""
        for work in self.works:
            work.wait()


class _Sending:
    """What is left of a message that a thread writes, a piece at a time.

    Args:
        tensor: Whose memory it is.
        left: Of that memory, what is not written yet.
        head: Written before.
    """

    def __init__(self, tensor: Tensor, left: memoryview, head: bytes) -> None:
        self.tensor: Tensor | None = tensor
        self.left, self.head = left, head
        self.lock = threading.Lock()

    def next_piece(self) -> bytes:
        """Return a copy of what is written next; nothing at the end."""
        with self.lock:
            piece = self.head + bytes(self.left[: PIECE_BYTES - len(self.head)])
            self.left, self.head = self.left[len(piece) - len(self.head) :], b""
            return piece

    def wait(self) -> None:
        """Return when the tensor may be changed: at once, with a copy of what is left. Two that wait for each other's sends would wait for ever."""
        with self.lock:
            if self.tensor is not None:
                self.left, self.tensor = memoryview(bytes(self.left)), None


class _Receiving:
    """A message that is to come."""

    def __init__(self, peer: Peer, kind: int, tensor: Tensor) -> None:
        self.peer, self.kind, self.tensor = peer, kind, tensor
        self.place, self.stream = _memory_of(tensor), _stream_of(kind)
        self.is_done = False

    def wait(self) -> None:
        if not self.is_done:
            self.peer.read_until(self)


class _Early(NamedTuple):
    """A message that nobody wanted when it came."""

    head: int
    data: bytearray


class _Sent:
    """A message that the kernel has taken."""

    def wait(self) -> None:
        return


_SENT = _Sent()


class _Unsent:
    """A message to a worker that has ended."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def wait(self) -> None:
        raise RuntimeError(f"Connection closed by peer: {self.error}") from self.error


class Peer:
    """The connection to one other worker.

    Args:
        connection: Connected.
        seconds: For which it is waited.
    """

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self.connection, self.seconds = connection, seconds
        whole, part = divmod(seconds, 1)
        connection.settimeout(None)
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(whole), int(part * 1e6))
        )
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self.outgoing: queue.SimpleQueue[_Sending | None] = queue.SimpleQueue()
        self.unsent = 0  # messages that the thread has not written yet
        self.thread: threading.Thread | None = None
        self.incoming: tuple[deque[_Receiving], ...] = (deque(), deque())
        self.early: tuple[deque[_Early], ...] = (deque(), deque())
        self.writing, self.reading = threading.Lock(), threading.Lock()
        self.header = bytearray(_HEADER.size)
        self.fault = ""

    def send(self, tensor: Tensor, kind: int = 0) -> Waited:
        """Begin to send, as part of a swap or of another kind."""
        payload = _memory_of(tensor)
        header = _HEADER.pack(kind << _LENGTH_BITS | payload.nbytes)
        with self.writing:
            written = 0
            if not self.unsent:
                try:
                    written = self.connection.sendmsg([header, payload], [], socket.MSG_DONTWAIT)
                except BlockingIOError:
                    pass  # the kernel takes nothing now
                except OSError as error:  # told where one waits: who never does has no need of it
                    return _Unsent(error)
                if written == len(header) + payload.nbytes:
                    return _SENT
            begun = max(0, written - len(header))
            sending = _Sending(tensor, payload[begun:], header[written:])
            self.unsent += 1
            if self.thread is None:
                given = weakref.ref(self), self.connection, self.outgoing
                self.thread = threading.Thread(target=_write_all, args=given, name="messages", daemon=True)
                self.thread.start()
            self.outgoing.put(sending)
        return sending

    def receive(self, tensor: Tensor, kind: int = 0) -> Waited:
        """Begin to receive; the tensor is overwritten."""
        receiving = _Receiving(self, kind, tensor)
        self.incoming[receiving.stream].append(receiving)
        return receiving

    def read_until(self, wanted: _Receiving) -> None:
        """Read messages until one has come."""
        with self.reading:
            try:
                self._give_early(wanted.stream)
                while not wanted.is_done:
                    if self.fault:
                        raise RuntimeError(self.fault)
                    self._read()
            except OSError as error:
                late = isinstance(error, BlockingIOError)
                self.fault = (
                    f"Timed out after {self.seconds:.0f} s of waiting"
                    if late
                    else f"Connection closed by peer: {error}"
                )
                raise RuntimeError(self.fault) from error

    def _give_early(self, stream: int) -> None:
        """Give messages that nobody wanted when they came to who wants them now."""
        early, incoming = self.early[stream], self.incoming[stream]
        while early and incoming:
            wanted, message = incoming.popleft(), early.popleft()
            self._check(wanted, message.head)
            wanted.place[:] = message.data
            wanted.is_done = True

    def _read(self) -> None:
        """Read a message."""
        self._fill(memoryview(self.header))
        (head,) = _HEADER.unpack(self.header)
        stream, length = _stream_of(head >> _LENGTH_BITS), head & _LENGTHS
        self._give_early(stream)  # another thread may have begun to want one
        if incoming := self.incoming[stream]:
            self._check(incoming[0], head)
            self._fill(incoming[0].place)
            incoming.popleft().is_done = True
        else:
            message = _Early(head, bytearray(length))
            self._fill(memoryview(message.data))
            self.early[stream].append(message)

    def _check(self, wanted: _Receiving, head: int) -> None:
        if head != wanted.kind << _LENGTH_BITS | wanted.place.nbytes:
            self.fault = (
                f"a worker sent {head & _LENGTHS} bytes as part of its {KINDS[head >> _LENGTH_BITS]} where this one wants "
                f"{wanted.place.nbytes} of its {KINDS[wanted.kind]}"
            )
            raise RuntimeError(self.fault)

    def _fill(self, place: memoryview) -> None:
        read, size = 0, place.nbytes
        while read < size:
            some = self.connection.recv_into(place[read:] if read else place)
            if not some:
                raise ConnectionResetError("it has ended")
            read += some

    def end(self) -> None:
        """Let all that wait for a message fail, here and there."""
        self.outgoing.put(None)
        with suppress(OSError):  # it has ended already
            self.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, when all that was sent is on its way: its receiver may come later."""
        self.outgoing.put(None)
        if self.thread is not None:
            self.thread.join(self.seconds)
        self.end()
        self.connection.close()


def _write_all(
    peer: weakref.ref[Peer], connection: socket.socket, outgoing: queue.SimpleQueue[_Sending | None]
) -> None:
    """Write what is left of messages, in order, until there is a None."""
    while (sending := outgoing.get()) is not None:
        with suppress(
            OSError
        ):  # the receiver has ended: whoever sends to it next, or receives from it, finds out
            while piece := sending.next_piece():
                connection.sendall(piece)
        owner = peer()
        if owner is not None:
            with owner.writing:
                owner.unsent -= 1
        del owner, sending


class LocalMessages:
    """This worker's connections to the other workers of a group that are on its machine.

    Args:
        rank: This worker's number in the group.
        size: How many workers the group has.
        connections: To others, by their number.
        seconds: After which waiting for one fails; by default `DEFAULT_SECONDS`.
    """

    def __init__(
        self, rank: int, size: int, connections: dict[int, socket.socket], seconds: float | None
    ) -> None:
        self.rank, self.size = rank, size
        self.peers = {
            peer: Peer(connection, seconds or DEFAULT_SECONDS) for peer, connection in connections.items()
        }
        self.reach_all = len(self.peers) == size - 1
        self._others = [(rank + step) % size for step in range(1, size)]
        _OPEN.add(self)

    @torch.no_grad()
    def all_gather(self, whole: Tensor, part: Tensor, kind: Talk = "all-gather") -> Waited:
        """Begin to gather flat tensors of one length; as all collectives here for groups whose members are all reached."""
        places = whole.view(self.size, -1) if part.numel() else [whole] * self.size
        places[self.rank].copy_(part)
        return self._exchange(
            kind, dict.fromkeys(self._others, part), {peer: places[peer] for peer in self._others}
        )

    def broadcast(self, tensor: Tensor) -> Waited:
        """Begin to send the first worker's to all."""
        if self.rank:
            return self._exchange("broadcast", {}, {0: tensor})
        return self._exchange("broadcast", dict.fromkeys(self._others, tensor), {})

    @torch.no_grad()
    def gather(self, part: Tensor, parts: Sequence[Tensor] | None, owner: int) -> Waited:
        """Begin to send all parts to one worker, who gives room for them."""
        if parts is None:
            return self._exchange("gather", {owner: part}, {})
        parts[owner].copy_(part)
        return self._exchange("gather", {}, {peer: parts[peer] for peer in self._others})

    @torch.no_grad()
    def all_to_all(
        self, received: Tensor, sent: Tensor, received_sizes: Sequence[int], sent_sizes: Sequence[int]
    ) -> Waited:
        """Begin to send a piece of a flat tensor to each worker; pieces without elements are not sent."""
        places, pieces = received.split(list(received_sizes)), sent.split(list(sent_sizes))
        places[self.rank].copy_(pieces[self.rank])
        return self._exchange(
            "all-to-all",
            {peer: pieces[peer] for peer in self._others if sent_sizes[peer]},
            {peer: places[peer] for peer in self._others if received_sizes[peer]},
        )

    @torch.no_grad()
    def add_up(self, tensor: Tensor, operation: Literal["sum", "max"]) -> Waited:
        """Begin to add up a small tensor: each worker adds all of them, in order of rank."""
        rows = tensor.new_empty((self.size, tensor.numel()))
        return _Sum(self.all_gather(rows, tensor.reshape(-1), "all-reduce"), rows, tensor, operation)

    def barrier(self) -> Waited:
        """Begin a barrier: a message without bytes to and from everybody."""
        nothing = torch.empty(0)
        return self._exchange(
            "barrier", dict.fromkeys(self._others, nothing), dict.fromkeys(self._others, nothing)
        )

    def _exchange(self, kind: Talk, sends: dict[int, Tensor], receives: dict[int, Tensor]) -> Waited:
        number = KINDS.index(kind)
        works = [self.peers[peer].receive(tensor, number) for peer, tensor in receives.items()]
        return Several(works + [self.peers[peer].send(tensor, number) for peer, tensor in sends.items()])

    def end(self) -> None:
        """Let all that wait for a message fail, here and there; may be called from another thread."""
        for peer in self.peers.values():
            peer.end()

    def close(self) -> None:
        """Close the connections, when all that was sent is on its way."""
        for peer in self.peers.values():
            peer.close()


class _Sum:
    """A sum of rows of several workers, which is made where it is waited for."""

    def __init__(
        self, gathered: Waited, rows: Tensor, total: Tensor, operation: Literal["sum", "max"]
    ) -> None:
        self.gathered, self.rows, self.total, self.operation = gathered, rows, total, operation

    @torch.no_grad()
    def wait(self) -> None:
        self.gathered.wait()
        first, *others = self.rows
        flat = self.total.view(-1).copy_(first)
        for row in others:
            flat.add_(row) if self.operation == "sum" else torch.maximum(flat, row, out=flat)


def _stream_of(kind: int) -> int:
    """Return to which of two streams a kind of message belongs: swaps, or collectives."""
    return int(kind != 0)


def _memory_of(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU, which must live meanwhile; nothing of PyTorch is called that modes see."""
    size = tensor.nbytes
    if not size:
        return memoryview(bytearray())
    return memoryview((ctypes.c_ubyte * size).from_address(tensor.data_ptr())).cast("B")


def _rest(pieces: list[memoryview], done: int) -> list[memoryview]:
    """Return what is left of pieces of memory after some bytes."""
    left = []
    for piece in pieces:
        if done < piece.nbytes:
            left.append(piece[done:])
        done = max(0, done - piece.nbytes)
    return left


_OPEN: weakref.WeakSet[LocalMessages] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """Close, in a process that was forked, what is its parent's: others would not see the end of the parent."""
    for messages in list(_OPEN):
        for peer in messages.peers.values():
            peer.connection.close()


os.register_at_fork(after_in_child=_let_go_in_child)
