"""The simulation of programs: against the schedules' own, hand-worked cases, and what holds of every step."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.simulated import Steady, ending_programs, kernel, programs_of, receives, sends
from ziggurat.parallel.pipeline.schedules import forward_only, make_schedule, num_stages
from ziggurat.parallel.pipeline.simulation import run_order
from ziggurat.planning.program import Mark, Program, Start, Wait
from ziggurat.planning.segments import Jitter
from ziggurat.planning.simulate import simulate

SIZES = [(workers, count) for workers in (1, 2, 3, 4, 5) for count in (1, 2, 3, 5, 8)]


def drawn_seconds(orders):
    draw = random.Random(7)
    return {str(action): draw.uniform(0.1, 2.0) for order in orders for action in order}


def assert_same(step, wanted, orders):
    assert step.seconds == pytest.approx(wanted.seconds)
    assert step.idle == pytest.approx(wanted.idle)
    spans = {span.name: (span.begin, span.end) for one in step.spans for span in one if "@" in span.name}
    assert set(spans) == {str(action) for order in orders for action in order}
    for action, (begin, end) in wanted.spans.items():
        assert spans[str(action)] == (pytest.approx(begin), pytest.approx(end))


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "interleaved"])
@pytest.mark.parametrize(("workers", "count"), SIZES)
@pytest.mark.parametrize("message_seconds", [0.0, 0.3])
def test_pipelines_take_what_their_schedules_take(name, workers, count, message_seconds):
    """Where every worker begins to receive at once; a message is on its way while its receiver computes."""
    orders, stages = make_schedule(name, workers, count), num_stages(name, workers)
    seconds = drawn_seconds(orders)
    wanted = run_order(orders, stages, lambda action: seconds[str(action)], message_seconds)
    programs = programs_of(orders, stages, early=True)
    assert_same(simulate(programs, lambda one: seconds[one.name], Steady(message_seconds)), wanted, orders)


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "interleaved"])
@pytest.mark.parametrize(("workers", "count"), SIZES)
def test_who_receives_late_waits_longer_only_where_messages_take_time(name, workers, count):
    orders, stages = make_schedule(name, workers, count), num_stages(name, workers)
    seconds = drawn_seconds(orders)
    wanted = run_order(orders, stages, lambda action: seconds[str(action)])
    programs = programs_of(orders, stages)
    assert_same(simulate(programs, lambda one: seconds[one.name], Steady()), wanted, orders)
    slower = run_order(orders, stages, lambda action: seconds[str(action)], 0.3).seconds
    late = simulate(programs, lambda one: seconds[one.name], Steady(0.3)).seconds
    assert late >= slower - 1e-9


def test_inference_through_stages():
    orders = forward_only(3, 6, 4)
    wanted = run_order(orders, 6)
    assert_same(simulate(programs_of(orders, 6), lambda one: 1.0, Steady()), wanted, orders)


def test_a_message_begins_when_both_ends_are_there_and_its_sender_goes_on():
    """0: computes 1 s, sends, computes 4 s, waits for the send. 1: computes 3 s, receives 10 bytes of 0.1 s."""
    first = Program(0, (kernel("a"), sends((0, 1), 1, num_bytes=10), kernel("b"), Wait(0)))
    second = Program(1, (kernel("c"), receives((0, 1), 0, num_bytes=10), Wait(0), kernel("d")))
    seconds = {"a": 1.0, "b": 4.0, "c": 3.0, "d": 2.0}
    step = simulate([first, second], lambda one: seconds[one.name], Steady(0.0, 0.1))
    assert step.seconds == pytest.approx(3 + 1 + 2)
    assert step.busy == (5.0, 5.0)
    assert step.waits == ((0.0, 0.0), (0.0, pytest.approx(1.0)))
    assert step.spans[1] == (("sum", "sum", 0, 3), ("receive", "from 0", 3, 4), ("sum", "sum", 4, 6))


def test_a_sender_waits_for_its_receiver():
    first = Program(0, (sends((0, 1), 1), Wait(0)))
    second = Program(1, (kernel("c"), receives((0, 1), 0), Wait(0)))
    step = simulate([first, second], lambda one: 3.0, Steady(0.5))
    assert step.waits == ((0.5, 3.0), (0.0, 0.5))
    assert step.spans[0] == (("wait", "for 1", 0, 3), ("send", "to 1", 3, 3.5))


def test_a_collective_begins_with_the_last_and_goes_on_beside_computing():
    group = (0, 1, 2)
    start = Start("all-reduce", group, num_bytes=10)
    programs = [Program(rank, (kernel(rank), start, kernel("after"), Wait(0))) for rank in group]
    seconds = {"0": 1.0, "1": 2.0, "2": 6.0, "after": 0.5}
    step = simulate(programs, lambda one: seconds[one.name], Steady(0.0, 0.1))
    assert step.seconds == pytest.approx(7.0)
    assert step.waits[0] == (pytest.approx(1.0), 0.0, pytest.approx(4.5))
    assert step.waits[2] == (0.0, 0.0, pytest.approx(0.5))
    assert step.idle == pytest.approx(1 - (1.5 + 2.5 + 6.5) / 21)


def test_workers_take_turns_on_fewer_cores():
    """Three workers on two cores: 1 s of each at 2/3 speed until one is done after 1.5 s, then at full speed."""
    programs = [Program(rank, (kernel(rank),)) for rank in range(3)]
    seconds = {"0": 1.0, "1": 1.5, "2": 2.0}
    step = simulate(programs, lambda one: seconds[one.name], Steady(), cores=2)
    assert step.busy == (pytest.approx(1.5), pytest.approx(2.0), pytest.approx(2.5))
    on_two = simulate(programs, lambda one: seconds[one.name], Steady(), cores=2, places=[0, 0, 1])
    assert on_two.busy == (1.0, 1.5, 2.0)


def test_messages_between_machines_share_their_cables():
    """Workers 0 and 1 of a machine send to 2 and 3 of another: each takes twice as long as alone; within a machine it does not."""
    programs = [
        *(Program(rank, (sends((0, 1, 2, 3), rank + 2, num_bytes=10), Wait(0))) for rank in (0, 1)),
        *(Program(rank, (receives((0, 1, 2, 3), rank - 2, num_bytes=10), Wait(0))) for rank in (2, 3)),
    ]
    network = Steady(0.0, 0.1)
    assert simulate(programs, lambda one: 0.0, network, places=[0, 0, 1, 1]).seconds == pytest.approx(2.0)
    assert simulate(programs, lambda one: 0.0, network).seconds == pytest.approx(1.0)
    assert simulate(programs, lambda one: 0.0, network, places=[0, 1, 2, 3]).seconds == pytest.approx(1.0)


def test_to_begin_a_message_costs_its_worker_time():
    start = Start("all-reduce", (0, 1), num_bytes=10)
    programs = [Program(rank, (kernel("a"), start, Wait(0), start, Wait(1))) for rank in (0, 1)]
    step = simulate(programs, lambda one: 1.0, Steady(), begin=lambda one: one.num_bytes / 100)
    assert step.busy == (pytest.approx(1.2), pytest.approx(1.2))


def test_what_waits_in_a_circle_is_told_by_name():
    group = (0, 1, 2)
    programs = [
        Program(
            rank, (Mark("forward 0"), receives(group, (rank + 1) % 3), Wait(0), sends(group, (rank - 1) % 3))
        )
        for rank in group
    ]
    with pytest.raises(ValueError, match="never end") as error:
        simulate(programs, lambda one: 1.0, Steady())
    told = str(error.value)
    for rank in group:
        source = (rank + 1) % 3
        assert f"worker {rank} (in forward 0) for the message 0 from worker {source} to worker {rank}" in told


def test_a_collective_that_one_does_not_come_to_is_told():
    programs = [Program(0, (Start("barrier", (0, 1)), Wait(0))), Program(1, ())]
    with pytest.raises(ValueError, match="barrier 0 of the workers 0, 1, to which 1 did not come"):
        simulate(programs, lambda one: 1.0, Steady())


def test_members_come_to_the_same_collectives():
    programs = [
        Program(0, (Start("barrier", (0, 1)),)),
        Program(1, (Start("all-reduce", (0, 1), num_bytes=4),)),
    ]
    with pytest.raises(ValueError, match="barrier on worker 0 and all-reduce on worker 1"):
        simulate(programs, lambda one: 1.0, Steady())


def test_a_message_has_one_length():
    programs = [Program(0, (sends((0, 1), 1, num_bytes=4),)), Program(1, (receives((0, 1), 0, num_bytes=5),))]
    with pytest.raises(ValueError, match="4 bytes at one end and 5 at the other"):
        simulate(programs, lambda one: 1.0, Steady())


def test_a_slow_worker_is_slow_in_all_it_does():
    programs = [Program(rank, (kernel("a"), Mark("forward 0"), kernel("a"))) for rank in range(3)]
    step = simulate(programs, lambda one: 1.0, Steady(), jitter=Jitter(slow=((1, 3.0),)))
    assert step.busy == (2.0, 6.0, 2.0)


def test_jitter_keeps_the_mean_and_comes_again_from_its_seed():
    programs = [Program(rank, (kernel("a"),)) for rank in range(500)]
    step = simulate(programs, lambda one: 1.0, Steady(), jitter=Jitter(0.2))
    assert sum(step.busy) / 500 == pytest.approx(1.0, abs=0.05)
    assert len(set(step.busy)) == 500
    assert step == simulate(programs, lambda one: 1.0, Steady(), jitter=Jitter(0.2))
    assert step != simulate(programs, lambda one: 1.0, Steady(), jitter=Jitter(0.2, seed=1))


@pytest.mark.parametrize(
    ("cores", "seconds"),
    [
        (None, 2.0),  # devices of their own: nothing that carries takes of them
        (4, 2.0),  # a core is free for each
        (
            2,
            3.0,
        ),  # two that compute and two that carry, one second each, on two cores: two seconds of which one is left
    ],
)
def test_threads_that_carry_take_cores_of_those_that_compute(cores, seconds):
    programs = [
        Program(rank, (Start("all-reduce", (0, 1), num_bytes=8), kernel("a"), kernel("a"), Wait(0)))
        for rank in range(2)
    ]
    step = simulate(programs, lambda one: 1.0, Steady(), cores=cores, carry=lambda start: 1.0)
    assert step.seconds == pytest.approx(seconds)


def test_what_comes_before_a_program_delays_all_of_it():
    programs = [Program(0, (sends((0, 1), 1),)), Program(1, (receives((0, 1), 0), Wait(0), kernel("a")))]
    step = simulate(programs, lambda one: 1.0, Steady(latency=0.5), before=0.25)
    assert step.seconds == pytest.approx(1.75)
    assert step.busy == pytest.approx((0.25, 1.25))


def test_a_message_is_over_when_it_is_carried_at_both_ends():
    programs = [Program(0, (sends((0, 1), 1),)), Program(1, (receives((0, 1), 0), Wait(0), kernel("a")))]
    step = simulate(programs, lambda one: 1.0, Steady(latency=0.5), cores=2, carry=lambda start: 0.75)
    assert step.seconds == pytest.approx(1.75)
    assert step.waits[1] == pytest.approx((0.0, 0.75))


def drawn(seed, low=0.01, high=3.0):
    """Return seconds of kernels that depend on their name alone."""
    return lambda one: random.Random(f"{seed} {one.name}").uniform(low, high)


NETWORK = Steady(0.2, 0.05)


@given(ending_programs(), st.integers(0, 1000), st.sampled_from([None, 1, 2, 3]))
@settings(max_examples=120, deadline=None)
def test_every_instant_of_every_worker_is_accounted_for(programs, seed, cores):
    step = simulate(programs, drawn(seed), NETWORK, cores=cores, carry=lambda start: 0.05)
    for spans, busy, waits in zip(step.spans, step.busy, step.waits, strict=True):
        clock = 0.0
        for span in spans:
            assert span.begin == clock < span.end
            clock = span.end
        assert busy + sum(waits) == pytest.approx(clock)
    assert step.seconds == max((spans[-1].end for spans in step.spans if spans), default=0.0)
    assert sum(step.busy) + step.idle * step.seconds * len(programs) == pytest.approx(
        step.seconds * len(programs)
    )


@given(ending_programs(), st.integers(0, 1000), st.sampled_from([None, 1, 2]), st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_in_a_world_that_is_slower_by_a_factor_all_takes_longer_by_it(programs, seed, cores, factor):
    step = simulate(programs, drawn(seed), NETWORK, cores=cores)
    slow = Steady(NETWORK.latency * factor, NETWORK.per_byte * factor)
    seconds = drawn(seed)
    slower = simulate(programs, lambda one: factor * seconds(one), slow, cores=cores)
    assert slower.seconds == pytest.approx(factor * step.seconds)
    assert slower.busy == pytest.approx([factor * busy for busy in step.busy])


@given(ending_programs(), st.integers(0, 1000), st.integers(0, 24), st.floats(0, 5))
@settings(max_examples=100, deadline=None)
def test_no_step_is_faster_for_a_kernel_that_is_slower(programs, seed, number, more):
    """On cores of their own: where they are shared, another order may be the better one."""
    seconds = drawn(seed)
    step = simulate(programs, seconds, NETWORK)
    slower = simulate(programs, lambda one: seconds(one) + more * one.name.startswith(f"{number} "), NETWORK)
    assert slower.seconds >= step.seconds - 1e-9


@given(ending_programs(), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_cores_do_their_work_and_no_more(programs, seed):
    seconds = drawn(seed)
    work = sum(count * seconds(one) for program in programs for one, count in program.kernels.items())
    own = simulate(programs, seconds, NETWORK)
    assert simulate(programs, seconds, NETWORK, cores=len(programs)) == own
    shared = simulate(programs, seconds, NETWORK, cores=1)
    assert shared.seconds >= max(own.seconds, work) - 1e-9
