"""Which messages of several programs meet: found from their order alone, before anybody knows how long anything takes.

    worker 0   Start(swap, sends 1: 64) ---- meeting 0 ---- Start(swap, receives 0: 64)   worker 1
               Start(all-reduce)       ----- meeting 1 ---- Start(all-reduce)

A message between two workers begins when both ends are there, as gloo and NCCL have it: a sender is done when its receiver has
come and has taken all of it. A collective begins when all of its group have come.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ziggurat.planning.program import Program, Start


@dataclass
class Meeting:
    """A message, or a collective, of several workers.

    Attributes:
        start: What is carried; of a message from one worker to another a swap of these two.
        comers: Workers that must come; of a message sender and receiver.
        ends: Of each of them that comes, how many `Start` it has had before.
        number: Which of its kind this is: the first message from one worker to another, or collective of a group, is 0.
    """

    start: Start
    comers: tuple[int, ...]
    number: int
    ends: dict[int, int] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.start.kind == "swap":
            sender, receiver = self.comers
            return f"message {self.number} from worker {sender} to worker {receiver}"
        return f"{self.start.kind} {self.number} of the workers {', '.join(map(str, self.comers))}"


@dataclass(frozen=True)
class Meetings:
    """All meetings of some programs.

    Attributes:
        all: Of every worker.
        of: For each worker and each `Start` of it, places in `all`.
    """

    all: list[Meeting]
    of: list[list[list[int]]]


def find_meetings(programs: Sequence[Program]) -> Meetings:
    """Return what meets: the n-th message from a worker to another with the n-th that this one receives from it.

    Args:
        programs: In order of rank; of a world's workers all, or the first ones. Of a group that has others, too, those who are
            given come.

    Raises:
        ValueError: If a message is longer at one end, or members of a group come to different collectives.

    Example:
        >>> one = Program(0, (Start("swap", (0, 1), sends=((1, 64),)),))
        >>> other = Program(1, (Start("swap", (0, 1), receives=((0, 64),)),))
        >>> [str(meeting) for meeting in find_meetings([one, other]).all]
        ['message 0 from worker 0 to worker 1']
    """
    found = Meetings([], [])
    of_messages: dict[tuple[tuple[int, ...], int, int], list[int]] = defaultdict(list)
    of_groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for program in programs:
        place = _Place(program.rank, len(programs), found, of_messages, of_groups)
        starts = [event for event in program.events if isinstance(event, Start)]
        found.of.append([place.come(number, start) for number, start in enumerate(starts)])
    return found


class _Place:
    """One worker on its way through its program.

    Args:
        rank: Of the worker.
        num_workers: That are given.
        found: All meetings so far.
        of_messages: Places of meetings by group, sender and receiver.
        of_groups: Places of meetings by group.
    """

    def __init__(
        self,
        rank: int,
        num_workers: int,
        found: Meetings,
        of_messages: dict[tuple[tuple[int, ...], int, int], list[int]],
        of_groups: dict[tuple[int, ...], list[int]],
    ) -> None:
        self.rank, self.num_workers, self.found = rank, num_workers, found
        self.of_messages, self.of_groups = of_messages, of_groups
        self.counts: dict[tuple[tuple[int, ...], int, int], int] = defaultdict(int)
        self.collectives: dict[tuple[int, ...], int] = defaultdict(int)

    def come(self, number: int, start: Start) -> list[int]:
        """Return the places of what a `Start` takes part in."""
        if start.kind == "swap":
            sent = [self._message(number, start, self.rank, to, size) for to, size in start.sends]
            return sent + [self._message(number, start, by, self.rank, size) for by, size in start.receives]
        if len(start.group) == 1:
            return []
        count = self.collectives[start.group]
        self.collectives[start.group] += 1
        comers = tuple(rank for rank in start.group if rank < self.num_workers)
        place = self._meet(self.of_groups[start.group], count, start, comers)
        meeting = self.found.all[place]
        if meeting.start.kind != start.kind:
            other = next(iter(meeting.ends))
            raise ValueError(
                f"collective {count} of the workers {', '.join(map(str, start.group))} is {meeting.start.kind} on worker {other} "
                f"and {start.kind} on worker {self.rank}: they would wait for each other for ever"
            )
        if start.num_bytes > meeting.start.num_bytes:  # the largest counts
            meeting.start = start
        meeting.ends[self.rank] = number
        return [place]

    def _message(self, number: int, start: Start, sender: int, receiver: int, num_bytes: int) -> int:
        key = start.group, sender, receiver
        message = Start("swap", (sender, receiver), sends=((receiver, num_bytes),))
        place = self._meet(self.of_messages[key], self.counts[key], message, (sender, receiver))
        self.counts[key] += 1
        meeting = self.found.all[place]
        if meeting.start != message:
            there = meeting.start.sends[0][1]
            raise ValueError(f"{meeting} has {there} bytes at one end and {num_bytes} at the other")
        meeting.ends[self.rank] = number
        return place

    def _meet(self, places: list[int], count: int, start: Start, comers: tuple[int, ...]) -> int:
        """Return the place of a meeting, which is made by who comes to it first."""
        if count == len(places):
            places.append(len(self.found.all))
            self.found.all.append(Meeting(start, comers, count))
        return places[count]
