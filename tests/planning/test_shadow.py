"""Shadow workers: what they measure is what follows from their programs by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from ziggurat.planning.program import Kernel, Program, Start, Wait
from ziggurat.planning.shadow import shadow

TENTH = Kernel("tenth", ())
SECONDS = 0.1


def send(rank: int, to: int) -> Start:
    return Start("swap", tuple(sorted((rank, to))), sends=((to, 8),))


def receive(rank: int, source: int) -> Start:
    return Start("swap", tuple(sorted((rank, source))), receives=((source, 8),))


def quickest(
    most: float, programs: Sequence[Program], *named: Callable[..., float], **options: float
) -> float:
    """Return the seconds of a step, of a few where the first takes longer than most: other work of the machine can only add to them."""
    seconds = []
    for _ in range(6):
        seconds.append(shadow(programs, *named, steps=1, **options).seconds)  # type: ignore[arg-type]
        if seconds[-1] < most:
            break
    return min(seconds)


def test_workers_of_a_chain_wait_for_each_other() -> None:
    """Four workers, each of which computes when the one before has done so, and sends while it computes on."""
    programs = [
        Program(0, (TENTH, send(0, 1), TENTH, Wait(0))),
        Program(1, (receive(1, 0), Wait(0), TENTH, send(1, 2), Wait(1))),
        Program(2, (receive(2, 1), Wait(0), TENTH, send(2, 3), Wait(1))),
        Program(3, (receive(3, 2), Wait(0), TENTH)),
    ]
    least = 4 * SECONDS + 3 * 0.05
    assert least <= quickest(1.5 * least, programs, lambda kernel: SECONDS, lambda start: 0.05) < 1.5 * least


def test_a_collective_ends_after_the_last_who_begins_it() -> None:
    """Rank 3 comes last; what is computed between start and wait is hidden by it."""
    total = Start("all-reduce", (0, 1, 2, 3), num_bytes=8)
    programs = [Program(rank, (*(TENTH,) * rank, total, TENTH, Wait(0), TENTH)) for rank in range(4)]
    least = 4 * SECONDS + 0.15
    taken = quickest(1.5 * least, programs, lambda kernel: SECONDS, lambda start: 0.15, stretch=0.5)
    assert least <= taken < 1.5 * least


@pytest.mark.slow
def test_64_workers_on_whatever_cores_there_are() -> None:
    """Two all-reduces over pairs and one over all, of workers that compute as long: the machine's cores are no bound."""
    everyone = Start("all-reduce", tuple(range(64)), num_bytes=8)
    programs = []
    for rank in range(64):
        pair = Start("all-reduce", (rank & ~1, rank | 1), num_bytes=8)
        programs.append(Program(rank, (TENTH, pair, Wait(0), TENTH, everyone, TENTH, Wait(1))))
    found = shadow(programs, lambda kernel: SECONDS, steps=1, stretch=20.0)
    assert 3 * SECONDS <= found.seconds < 3.45 * SECONDS
