"""How long messages take: latency and bandwidth by the kind of connection, and how a collective is made of messages.

    memory    a barrier between workers of one machine that exchange through shared memory; what they copy are kernels
    machine   messages between workers of one machine: local sockets, NCCL over NVLink or PCIe
    network   messages between machines

A message of ``n`` bytes takes ``alpha + beta * n``. A collective of ``W`` workers is carried so, by gloo and by NCCL (ring):

    all-reduce   2 (W - 1) messages, one after the other, of n / W bytes       gloo/allreduce.cc, NCCL ring
    all-gather   W - 1, one after the other, of n bytes                        gloo/allgather.cc
    reduce-scatter   gloo all-reduces, and each keeps its slice; NCCL: W - 1, one after the other, of n / W bytes
    all-to-all   W - 1 at once, n bytes in all                                 gloo/alltoallv.cc
    broadcast    a binomial tree: log2 W, one after the other                  gloo/broadcast.cc; NCCL sends along a ring, in pieces
    gather       W - 1 into one worker                                         gloo/gather.cc
    barrier      log2 W rounds                                                 gloo/barrier.cc; NCCL all-reduces a number

NCCL may also all-reduce along two trees, 2 log2 W messages deep, each byte up and down once: the faster way counts.

Local sockets send to everybody at once, where gloo's algorithms take several messages in turn; how long a message of each kind takes within them
is calibrated, so the table serves both.

Between machines a message takes its machine's cable, which it shares with what the same collective sends from there at the same time.
What several collectives send at once is the simulation's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ziggurat.planning.program import Kind, Start

Connection = Literal["memory", "machine", "network"]
Carrier = Literal["gloo", "nccl"]
CONNECTIONS: tuple[Connection, ...] = ("memory", "machine", "network")
CARRIERS: tuple[Carrier, ...] = ("gloo", "nccl")


class Link(NamedTuple):
    """What a message costs.

    Attributes:
        alpha: Seconds, of whatever size.
        beta: Seconds a byte; between machines, where a machine has several cables, by all of them.
    """

    alpha: float
    beta: float


class Carried(NamedTuple):
    """What a collective is made of.

    Attributes:
        messages: That follow one another.
        num_bytes: That follow one another on the slowest connection.
    """

    messages: float
    num_bytes: float


@dataclass(frozen=True)
class Links:
    """What carries messages between workers.

    Attributes:
        links: Of each kind of connection.
        kinds: Of a collective over a kind of connection, where it was measured by itself; else `links` counts.
        carrier: Whose algorithms the collectives have.
        processor: Of a message or collective within a machine, what the carrier's own threads take of a worker's processor; nothing
            where it was not measured.
        begins: Of the same, what the worker's own thread takes to begin it and to find it done, without waiting; likewise.

    Example:
        >>> links = Links({"machine": Link(1.0, 0.25)})
        >>> links.seconds(Start("all-reduce", (0, 1), num_bytes=8), places=[0, 0])
        4.0
    """

    links: Mapping[Connection, Link]
    kinds: Mapping[tuple[Connection, Kind], Link] = field(default_factory=dict)
    carrier: Carrier = "gloo"
    processor: Mapping[Kind, Link] = field(default_factory=dict)
    begins: Mapping[Kind, Link] = field(default_factory=dict)

    def alpha(self, connection: Connection) -> float:
        """Return the seconds of a message of no size."""
        return self._link(connection, None).alpha

    def beta(self, connection: Connection) -> float:
        """Return the seconds of a byte."""
        return self._link(connection, None).beta

    def seconds(self, start: Start, places: Sequence[int]) -> float:
        """Return how long a message or collective takes from when all its workers have come to it.

        Args:
            start: Of a message between two workers a swap whose group are these.
            places: The machine of each worker, by rank.

        Raises:
            ValueError: If there is no word on the kind of connection that it takes.
        """
        members = start.group
        if len(members) < 2:
            return 0.0
        connection: Connection = "machine" if len({places[rank] for rank in members}) == 1 else "network"
        ways = [self._ring(start, members, places)]
        if self.carrier == "nccl" and start.kind == "all-reduce":
            ways.append(self._trees(start, members, places))
        if start.kind == "barrier" and connection == "machine" and "memory" in self.links:
            connection = "memory"
        kind: Kind = "all-reduce" if start.kind == "reduce-scatter" else start.kind
        link = self._link(connection, kind)
        return min(way.messages * link.alpha + way.num_bytes * link.beta for way in ways)

    def processor_seconds(self, start: Start) -> float:
        """Return the seconds that the carrier's threads of each worker take of its processor.

        Args:
            start: As `seconds` has it.
        """
        return self._of_processor(self.processor, start)

    def begin_seconds(self, start: Start) -> float:
        """Return the seconds that a worker's own thread takes to begin a message or collective, and to find it done.

        Args:
            start: As a program has it.
        """
        return self._of_processor(self.begins, start)

    def _of_processor(self, measured: Mapping[Kind, Link], start: Start) -> float:
        kind: Kind = "all-reduce" if start.kind == "reduce-scatter" else start.kind
        link = measured.get(kind)
        if link is None or len(start.group) < 2:
            return 0.0
        if kind == "swap":  # each way by itself
            sizes = [size for _, size in (*start.sends, *start.receives)]
            return len(sizes) * link.alpha + sum(sizes) * link.beta
        way = self._ring(start, start.group, [0] * (max(start.group) + 1))
        return way.messages * link.alpha + way.num_bytes * link.beta

    def carried(self, start: Start, places: Sequence[int]) -> Carried:
        """Return what a message or collective is made of, along a ring; arguments as `seconds` has them."""
        return self._ring(start, start.group, places)

    def _link(self, connection: Connection, kind: Kind | None) -> Link:
        found = self.kinds.get((connection, kind)) if kind is not None else None
        if found is None:
            found = self.links.get(connection)
        if found is None:
            raise ValueError(f"nothing is known of messages by {connection}: known are {sorted(self.links)}")
        return found

    def _ring(self, start: Start, members: Sequence[int], places: Sequence[int]) -> Carried:
        count, size, kind = len(members), start.num_bytes, start.kind
        rounds = math.ceil(math.log2(count))
        at_once = _crossings(members, places)  # of a ring's messages, on the busiest cable
        if kind == "swap":
            return Carried(1, sum(n for _, n in start.sends) or sum(n for _, n in start.receives))
        if kind == "reduce-scatter" and self.carrier == "nccl":
            return Carried(count - 1, (count - 1) * size / count * at_once)
        if kind in ("all-reduce", "reduce-scatter"):
            return Carried(2 * (count - 1), 2 * (count - 1) * size / count * at_once)
        if kind == "all-gather":
            return Carried(count - 1, (count - 1) * size * at_once)
        if kind == "all-to-all":
            return Carried(count - 1, size * _leaving(members, places))
        if kind == "gather":
            return Carried(count - 1, (count - 1) * size)
        if kind == "broadcast":
            return Carried(rounds, size if self.carrier == "nccl" else rounds * size)
        return Carried(2 * (count - 1) if self.carrier == "nccl" else rounds, 0)  # a barrier

    def _trees(self, start: Start, members: Sequence[int], places: Sequence[int]) -> Carried:
        machines = len({places[rank] for rank in members})
        depth = math.ceil(math.log2(machines if machines > 1 else len(members)))
        return Carried(2 * depth, 2 * start.num_bytes)


def _crossings(members: Sequence[int], places: Sequence[int]) -> int:
    """Return how many messages of one step of a ring leave the busiest machine; 1 where all are on one.

    Example:
        >>> _crossings([0, 1, 2, 3], [0, 0, 1, 1]), _crossings([0, 1, 2, 3], [0, 1, 0, 1])
        (1, 2)
    """
    leaving: dict[int, int] = {}
    for rank, following in zip(members, [*members[1:], members[0]], strict=True):
        if places[rank] != places[following]:
            leaving[places[rank]] = leaving.get(places[rank], 0) + 1
    return max(leaving.values(), default=1)


def _leaving(members: Sequence[int], places: Sequence[int]) -> float:
    """Return what leaves the busiest machine in an all-to-all, in units of what one worker sends; 1 where all are on one.

    Example:
        >>> _leaving([0, 1, 2, 3], [0, 0, 1, 1])
        1.3333333333333333
    """
    on: dict[int, int] = {}
    for rank in members:
        on[places[rank]] = on.get(places[rank], 0) + 1
    if len(on) == 1:
        return 1.0
    return max(count * (len(members) - count) / (len(members) - 1) for count in on.values())
