"""What one worker does in a step, as far as time and memory depend on it: a list of kernels, messages and waits.

    worker 0   Kernel  Kernel  Start(swap, sends 1: 4096)  Kernel  Wait(0)  Kernel ...
    worker 1   Kernel  Start(swap, receives 0: 4096)  Wait(0)  Kernel  Kernel ...

A program says nothing of seconds: what a kernel takes is the table's, what a message takes the network's, and when each begins
the simulation's. Which messages meet follows from their order alone: the first that a worker sends another over a group is the
first that this one receives over it, and the first collective of a group is the first of each of its members.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal[
    "swap", "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "broadcast", "gather", "barrier"
]


class Form(NamedTuple):
    """What a tensor is like, without its numbers.

    Attributes:
        shape: Of the tensor.
        strides: In elements.
        dtype: Such as ``float32``.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


class Kernel(NamedTuple):
    """One operator of PyTorch on tensors of some form: what the time of computing depends on.

    Attributes:
        name: Such as ``aten.convolution.default``.
        arguments: In the order of its schema; a `Form` in the place of each tensor, a tuple in that of a list (see `kernels`).
    """

    name: str
    arguments: tuple[Hashable, ...]


VIEW = Kernel("aten.alias.default", ())
"""A call that computes nothing: a view, new memory, a number that is read. In a program all of them are this one."""


SPREAD = "spread."
"""How the names of operations on spread tensors begin, which stand among a program's kernels: what they do beside kernels and messages."""

_OPERATIONS: dict[str, Kernel] = {}


def spread_operation(kind: str, talks: bool, with_gradient: bool) -> Kernel:
    """Return an operation on spread tensors: the Python around the kernels and messages that it is made of, forward and backward.

    Args:
        kind: Of the operation, as the table of `parallel.spatial` has it.
        talks: Whether it sends something.
        with_gradient: Whether autograd is at work, so that its backward comes, too.

    Example:
        >>> spread_operation("window", True, False).name
        'spread.window, talks'
    """
    name = f"{SPREAD}{kind}{', talks' if talks else ''}{', with gradient' if with_gradient else ''}"
    return _OPERATIONS.setdefault(name, Kernel(name, ()))


def is_spread_operation(kernel: Kernel) -> bool:
    """Return whether a kernel stands for an operation on spread tensors, whose kernels and messages stand beside it."""
    return kernel.name.startswith(SPREAD)


class Start(NamedTuple):
    """A message, or a collective, that begins; it is done when its `Wait` has ended.

    Attributes:
        kind: ``swap`` sends to some workers and receives from others; the rest are collectives of a group.
        group: The workers of the group, by their number among all.
        sends: Of a swap: receivers and bytes.
        receives: Of a swap: senders and bytes.
        num_bytes: Of a collective: what this worker gives (all-reduce, all-gather, reduce-scatter, gather), sends in all
            (all-to-all), or what is handed on (broadcast).
    """

    kind: Kind
    group: tuple[int, ...]
    sends: tuple[tuple[int, int], ...] = ()
    receives: tuple[tuple[int, int], ...] = ()
    num_bytes: int = 0


class Wait(NamedTuple):
    """The worker goes on when a message or collective of its own is done.

    Attributes:
        start: How many `Start` there were before the one that is meant.
    """

    start: int


class Mark(NamedTuple):
    """A place in the step, for people: what follows belongs to it.

    Attributes:
        name: Such as ``forward 3``, ``exchange`` or, in a pipeline, ``F3@1``.
    """

    name: str


Event = Kernel | Start | Wait | Mark


@dataclass(frozen=True)
class Program:
    """What a worker does in a step.

    Attributes:
        rank: Of the worker.
        events: In order. Equal kernels are one object.
        peak_bytes: Most bytes of tensors that are alive at once.
        held_bytes: What there is of these before the step, by kind: ``weights``, ``moments``, ``average`` ...
    """

    rank: int
    events: tuple[Event, ...]
    peak_bytes: int = 0
    held_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def kernels(self) -> dict[Kernel, int]:
        """How often each kernel is called."""
        counts: dict[Kernel, int] = {}
        for event in self.events:
            if isinstance(event, Kernel):
                counts[event] = counts.get(event, 0) + 1
        return counts

    @property
    def bytes_sent(self) -> int:
        """What the worker sends, counting what a ring would of each collective."""
        return sum(sent_bytes(event) for event in self.events if isinstance(event, Start))


def sent_bytes(start: Start) -> int:
    """Return the bytes that a worker sends in a message or collective, as a ring carries it.

    Example:
        >>> sent_bytes(Start("all-reduce", (0, 1, 2, 3), num_bytes=100))
        150
    """
    others = len(start.group) - 1
    if start.kind == "swap":
        return sum(count for _, count in start.sends)
    if start.kind == "all-reduce":
        return 2 * others * start.num_bytes // len(start.group)
    if start.kind == "all-gather":
        return others * start.num_bytes
    if start.kind == "reduce-scatter":
        return others * start.num_bytes // len(start.group)
    return start.num_bytes if others else 0
