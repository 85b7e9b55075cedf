"""Named tensors between the workers of a pipeline: their shapes travel with them.

There are two ways to send, with the same bits:

**As they come** (gloo). A send begins when its message is there, and never waits; whoever wants a message receives it when it needs
it. Messages from one worker to another arrive in the order in which they were sent, which both know from the schedule: whoever
wants one takes those before it, too, and keeps them. Such workers are a Kahn network: it ends exactly if no action needs one that
lies behind it.

**In slots** (NCCL). There a send ends only when it is received, and all messages of a worker go through one stream, in the order in
which they are begun: two workers that send to each other, or three in a circle, would wait for ever. So time is cut into slots
that all workers know (`slots.timetable`); after each, a worker sends and receives all that this slot has made, in one batch (`swap`).
No circle is possible: every worker takes part in the slots in the same order, the two ends of a message are in batches of the same slot, and
inside a batch nothing waits for anything else of it. By induction over the slots each batch ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ziggurat.parallel.collectives.requests import Request
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.pipeline.parcels import Arrival, Message, Parcel, pack
from ziggurat.parallel.pipeline.timing import Trace, noted
from ziggurat.parallel.spatial import SpatialMesh

__all__ = ["Channel", "Message"]


@dataclass(frozen=True)
class _Sending:
    """A piece of a message on its way."""

    request: Request
    to: int
    due: int


class Channel:
    """Sends and receives messages along one axis.

    Args:
        workers: Of the axis.
        spatial: Of tensors that are spread over the workers that share images.
        in_slots: Whether messages wait for the end of a slot; by default on a GPU.

    Attributes:
        in_slots: The same.
        bytes_sent: By this worker.
        trace: Where it is noted when this worker sends, receives and waits; or None.
    """

    def __init__(
        self, workers: Workers, spatial: SpatialMesh | None = None, in_slots: bool | None = None
    ) -> None:
        self.workers, self.spatial = workers, spatial
        self.in_slots = workers.device.type == "cuda" if in_slots is None else in_slots
        self.sending: list[_Sending] = []
        self.waiting: list[tuple[int, Parcel]] = []
        self.bytes_sent = 0
        self.trace: Trace | None = None

    def send(self, message: Message, to: int, due: int = 0) -> None:
        """Begin to send, or keep for the end of the slot; the tensors must not be overwritten until they have arrived.

        Args:
            message: The tensors.
            to: Number of the receiver.
            due: A number of the receiver's action that takes it, rising in its order.

        Communication:
            The head, and each tensor's own bytes.
        """
        with noted(self.trace, "send", f"to {to}"):
            parcel = pack(message, self.workers.device)
            pieces = [parcel.head, *parcel.rest, *parcel.body]
            self.bytes_sent += sum(piece.numel() * piece.element_size() for piece in pieces)
            if self.in_slots:
                self.waiting.append((to, parcel))
                return
            for piece in pieces:
                self.sending.append(_Sending(self.workers.start_send(piece, to), to, due))

    def receive(self, source: int) -> Message:
        """Return the next message of another worker that sends as messages come.

        Raises:
            CollectiveFailed: If it has ended, or has not sent within the process group's time-out.
        """
        arrival = Arrival(self.workers.device, self.spatial)
        with noted(self.trace, "wait", f"for {source}"):
            self._take([arrival.head], source)
            arrival.head = self.workers.to_host(arrival.head)
        with noted(self.trace, "receive", f"from {source}"):
            self._take(arrival.rest(), source)
            self._take(arrival.body(), source)
            return arrival.message()

    def swap(self, sources: Sequence[int]) -> list[Message]:
        """End a slot: send what has waited for this, and return what others have sent meanwhile.

        Args:
            sources: The sender of each message that this slot has made for this worker; from one of them in its order.

        Raises:
            CollectiveFailed: If another worker has ended, or does not take part within the process group's time-out.

        Communication:
            Up to three batches of messages, with the workers that this one has messages for or from: heads, what is longer than a
            head, bodies.
        """
        waiting, self.waiting = self.waiting, []
        arrivals = [(source, Arrival(self.workers.device, self.spatial)) for source in sources]
        with noted(self.trace, "wait", f"for {sorted(set(sources))}"):
            self._swap([(to, [parcel.head]) for to, parcel in waiting], [(s, [a.head]) for s, a in arrivals])
            for _, arrival in arrivals:
                arrival.head = self.workers.to_host(arrival.head)
        with noted(self.trace, "receive", f"from {sorted(set(sources))}"):
            self._swap([(to, parcel.rest) for to, parcel in waiting], [(s, a.rest()) for s, a in arrivals])
            self._swap([(to, parcel.body) for to, parcel in waiting], [(s, a.body()) for s, a in arrivals])
        return [arrival.message() for _, arrival in arrivals]

    def settle(self, peer: int, done: int) -> None:
        """Let go of the memory of what a worker has taken in its actions up to one that it is known to have done.

        (gloo does not say of a transfer that it is complete unless one waits for it; here that takes no time.)
        """
        arrived = [one for one in self.sending if one.to == peer and one.due <= done]
        self.sending = [one for one in self.sending if one.to != peer or one.due > done]
        for one in arrived:
            one.request.wait()

    def flush(self) -> None:
        """Return when all that was sent as it came has arrived.

        Raises:
            CollectiveFailed: If a receiver has ended, or has not received within the process group's time-out.
        """
        sending, self.sending = self.sending, []
        for one in sending:
            with noted(self.trace, "wait", f"until {one.to} has it"):
                one.request.wait()

    def _take(self, pieces: Sequence[Tensor], source: int) -> None:
        for piece in pieces:
            self.workers.start_receive(piece, source).wait()

    def _swap(
        self, sends: Sequence[tuple[int, list[Tensor]]], receives: Sequence[tuple[int, list[Tensor]]]
    ) -> None:
        self.workers.start_swap(
            [(to, piece) for to, pieces in sends for piece in pieces],
            [(source, piece) for source, pieces in receives for piece in pieces],
        ).wait()
