"""Worlds of many replicas: as the simulation of each of their workers, and grown as the exchange's arithmetic says."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.simulated import Steady, ending_programs, kernel, receives, sends
from ziggurat.planning.program import Program, Start, Wait
from ziggurat.planning.scale import grow, recorded_replicas, simulate_replicas
from ziggurat.planning.segments import Jitter
from ziggurat.planning.simulate import simulate

COUNT = 3
NETWORK = Steady(0.2, 0.05)


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
    scaled = simulate_replicas(recorded_replicas(programs, COUNT, seconds), NETWORK, jitter=jitter)
    assert scaled.seconds == pytest.approx(step.seconds)
    of_one = len(programs) // COUNT
    for place in range(of_one):
        assert scaled.busy[place] == pytest.approx(sum(step.busy[place::of_one]) / COUNT)
    assert scaled.idle == pytest.approx(step.idle)


def exchanging(replicas, microbatches=2, num_bytes=1200):
    """Return workers of a pipeline of two, in some replicas: slices to all, a sum of slices, all slices to all, a gather."""
    programs = []
    for rank in range(2 * replicas):
        group = tuple(range(rank % 2, 2 * replicas, 2))
        pair = (rank // 2 * 2, rank // 2 * 2 + 1)
        events = []
        for number in range(microbatches):
            events += [
                kernel("compute"),
                (sends(pair, rank + 1) if rank % 2 == 0 else receives(pair, rank - 1)),
                Wait(number),
            ]
        events += [Start("all-to-all", group, num_bytes=num_bytes), Wait(microbatches)]
        events += [kernel(f"add {num_bytes // replicas}")]
        events += [Start("all-gather", group, num_bytes=num_bytes // replicas), Wait(microbatches + 1)]
        events += [Start("all-gather", tuple(range(2 * replicas)), num_bytes=24), Wait(microbatches + 2)]
        programs.append(Program(rank, tuple(events), peak_bytes=1000 + num_bytes // replicas))
    return programs


def cost(one):
    return 0.5 if one.name == "compute" else int(one.name.removeprefix("add ")) * 1e-3


@pytest.mark.parametrize("wanted", [4, 6, 12])
def test_replicas_grow_as_they_would_be_recorded(wanted):
    two, three = (recorded_replicas(exchanging(count), count, cost) for count in (2, 3))
    grown = grow(two, three, wanted)
    there = recorded_replicas(exchanging(wanted), wanted, cost)
    assert grown.programs == there.programs
    for mine, real in zip(grown.actions, there.actions, strict=True):
        assert [type(action) for action in mine] == [type(action) for action in real]
    jitter = Jitter(0.3)
    step = simulate(exchanging(wanted), cost, NETWORK, jitter=jitter)
    assert simulate_replicas(grown, NETWORK, jitter=jitter).seconds == pytest.approx(step.seconds)


def test_workers_that_do_other_things_do_not_grow():
    two, three = (recorded_replicas(exchanging(count, microbatches=count), count, cost) for count in (2, 3))
    with pytest.raises(ValueError, match="does other things with 2 and 3 replicas"):
        grow(two, three, 8)


def test_thousands_of_replicas_wait_for_the_slowest():
    """Of 16,384 workers one takes twice as long: all wait for it, half of their time."""
    two, three = (recorded_replicas(exchanging(count), count, cost) for count in (2, 3))
    grown = grow(two, three, 8192)
    even = simulate_replicas(grown, Steady())
    late = simulate_replicas(grown, Steady(), jitter=Jitter(slow=((5001, 2.0),)))
    assert late.seconds == pytest.approx(2 * even.seconds, rel=1e-3)
    assert late.waited[0] == pytest.approx(even.seconds, rel=1e-2)
    drawn = simulate_replicas(grown, Steady(), jitter=Jitter(0.1))
    assert even.seconds * 1.2 < drawn.seconds < even.seconds * 1.8
