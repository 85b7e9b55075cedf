"""Worlds of many replicas: as the simulation of each of their workers, by tiers and machines."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.simulated import Steady, ending_programs, kernel, receives, sends
from ziggurat.planning.network import Link, Links
from ziggurat.planning.program import Program, Start, Wait
from ziggurat.planning.scale import meet_of, replicas_of, simulate_replicas
from ziggurat.planning.segments import Jitter
from ziggurat.planning.simulate import simulate

COUNT = 3
NETWORK = Steady(0.2, 0.05)


def replicas(programs, count, seconds):
    return replicas_of(programs[: len(programs) // count], count, seconds)


@given(
    ending_programs(most_workers=3, replicas=COUNT),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.4]),
    st.integers(0, 8),
)
@settings(max_examples=120, deadline=None)
def test_vectors_say_what_the_simulation_of_each_worker_says(programs, seed, deviation, slow):
    def seconds(one):
        return random.Random(f"{seed} {one.name}").uniform(0.01, 3)

    jitter = Jitter(deviation, ((slow % len(programs), 2.5),), seed)
    step = simulate(programs, seconds, NETWORK, jitter=jitter)
    scaled = simulate_replicas(replicas(programs, COUNT, seconds), NETWORK, jitter=jitter)
    assert scaled.seconds == pytest.approx(step.seconds)
    of_one = len(programs) // COUNT
    for place in range(of_one):
        assert scaled.busy[place] == pytest.approx(sum(step.busy[place::of_one]) / COUNT)
    assert scaled.idle == pytest.approx(step.idle)


def exchanging(count, tiers=(), microbatches=2, num_bytes=1200, wanted=None):
    """Return workers of a pipeline of two, in some replicas: in each tier slices to all, a sum of slices, all slices to all; then a gather."""
    programs = []
    for rank in range(wanted or 2 * count):
        pair = (rank // 2 * 2, rank // 2 * 2 + 1)
        events = []

        def meet(start, events=events):
            events.extend([start, Wait(sum(isinstance(event, Start) for event in events))])

        for _ in range(microbatches):
            events.append(kernel("compute"))
            meet(sends(pair, rank + 1) if rank % 2 == 0 else receives(pair, rank - 1))
        inner = 1
        for size in tiers or (count,):
            replica, first = rank // 2, rank // 2 // (inner * size) * inner * size + rank // 2 % inner
            assert replica >= first
            group = tuple(range(2 * first + rank % 2, 2 * (first + inner * size), 2 * inner))
            meet(Start("all-to-all", group, num_bytes=num_bytes // inner))
            events.append(kernel(f"add {num_bytes // inner // size}"))
            meet(Start("all-gather", group, num_bytes=num_bytes // inner // size))
            inner *= size
        meet(Start("all-gather", tuple(range(2 * count)), num_bytes=24))
        programs.append(Program(rank, tuple(events), peak_bytes=1000))
    return programs


def cost(one):
    return 0.5 if one.name == "compute" else int(one.name.removeprefix("add ")) * 1e-3


@pytest.mark.parametrize("tiers", [(), (2, 4), (4, 2), (2, 2, 2)])
@pytest.mark.parametrize("each", [2, 4, 8, 16])
@pytest.mark.parametrize("deviation", [0.0, 0.3])
def test_tiers_and_machines_are_those_of_the_simulation_of_each_worker(tiers, each, deviation):
    """Eight pipelines of two, on machines of one pipeline or several: who waits for whom, and which cables are shared."""
    programs, jitter = exchanging(8, tiers), Jitter(deviation)
    places = [rank // each for rank in range(16)]
    links = Links({"machine": Link(0.01, 1e-4), "network": Link(0.05, 1e-3)}, carrier="nccl")
    step = simulate(programs, cost, links, places=places, jitter=jitter)
    scaled = simulate_replicas(replicas(programs, 8, cost), links, places, jitter)
    if deviation:  # cables are shared by who comes at the same time: here by all
        assert step.seconds <= scaled.seconds * (1 + 1e-9) <= 1.25 * step.seconds
    else:
        assert scaled.seconds == pytest.approx(step.seconds)
        assert scaled.idle == pytest.approx(step.idle)


def test_a_replica_that_lies_across_machines_sets_the_pace():
    """Three machines of two, and pipelines of three: the first has its second message between machines, the second its first."""
    chain = [
        Program(0, (sends((0, 1), 1), kernel("compute"))),
        Program(1, (receives((0, 1), 0), Wait(0), kernel("compute"), sends((1, 2), 2))),
        Program(2, (receives((1, 2), 1), Wait(0), kernel("compute"))),
    ]
    links = Links({"machine": Link(0.01, 0.0), "network": Link(0.25, 0.0)})
    scaled = simulate_replicas(replicas_of(chain, 2, cost), links, [0, 0, 1, 1, 2, 2])
    assert scaled.seconds == pytest.approx(0.25 + 0.5 + 0.25 + 0.5)  # of either message the slower one


def test_who_meets_must_be_known():
    with pytest.raises(ValueError, match="it is not known which others meet likewise"):
        meet_of(Start("all-reduce", (0, 2, 6)), 1, 8)
    with pytest.raises(ValueError, match="it is not known which others meet likewise"):
        meet_of(Start("all-reduce", (0, 1, 2)), 2, 8)


def test_thousands_of_replicas_wait_for_the_slowest():
    """Of 16,384 workers one takes twice as long: all wait for it, half of their time."""
    first = replicas_of(exchanging(8192, wanted=2), 8192, cost)
    even = simulate_replicas(first, Steady())
    late = simulate_replicas(first, Steady(), jitter=Jitter(slow=((5001, 2.0),)))
    assert late.seconds == pytest.approx(2 * even.seconds, rel=1e-3)
    assert late.waited[0] == pytest.approx(even.seconds, rel=1e-2)
    drawn = simulate_replicas(first, Steady(), jitter=Jitter(0.1))
    assert even.seconds * 1.2 < drawn.seconds < even.seconds * 1.8
