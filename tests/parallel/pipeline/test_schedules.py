"""Schedules, without processes: what is done, in what order, what is alive, and that every order ends."""

from collections import Counter

import pytest

from ziggurat.errors import UserError
from ziggurat.parallel.pipeline.schedules import (
    Action,
    forward_only,
    gpipe,
    interleaved,
    make_schedule,
    num_stages,
    one_forward_one_backward,
)
from ziggurat.parallel.pipeline.simulation import needs_of_chain, peak_alive, run_order

NAMES = ("gpipe", "1f1b", "interleaved")
SIZES = [(workers, count) for workers in (1, 2, 3, 4) for count in range(1, 9)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("workers", "count"), SIZES)
def test_every_stage_does_every_microbatch_once_and_in_order(name, workers, count):
    orders, stages = make_schedule(name, workers, count), num_stages(name, workers)
    done = Counter(action for order in orders for action in order)
    wanted = {Action(k, s, m) for k in ("forward", "backward") for s in range(stages) for m in range(count)}
    assert done == Counter(wanted)
    for worker, order in enumerate(orders):
        assert {action.stage % workers for action in order} == {worker}
        for stage in range(worker, stages, workers):
            for kind in ("forward", "backward"):
                numbers = [a.microbatch for a in order if (a.kind, a.stage) == (kind, stage)]
                assert numbers == list(range(count))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("workers", "count"), SIZES)
def test_every_order_ends(name, workers, count):
    stages = num_stages(name, workers)
    timeline = run_order(make_schedule(name, workers, count), stages)
    assert len(timeline.spans) == 2 * stages * count
    for action, (begin, _) in timeline.spans.items():
        for need in needs_of_chain(action, stages):
            assert timeline.spans[need][1] <= begin


@pytest.mark.parametrize("chunks", [2, 3, 4])
@pytest.mark.parametrize("workers", range(1, 10))
def test_interleaved_ends_with_every_number_of_workers_and_microbatches(workers, chunks):
    """With five workers and seven microbatches, and many others with five or more, it did not."""
    for count in range(40):
        run_order(interleaved(workers, chunks, count), workers * chunks)


@pytest.mark.parametrize(("workers", "count"), SIZES)
def test_what_is_alive_is_what_theory_says(workers, count):
    assert [peak_alive(order) for order in gpipe(workers, count)] == [count] * workers
    alive = [peak_alive(order) for order in one_forward_one_backward(workers, count)]
    assert alive == [min(workers - stage, count) for stage in range(workers)]
    for worker, order in enumerate(interleaved(workers, 2, count)):
        ahead = min(workers, count) + 2 * (workers - worker - 1)
        assert peak_alive(order) == min(2 * count, ahead + 1)


@pytest.mark.parametrize(("workers", "count"), SIZES)
def test_the_bubble_is_what_theory_says(workers, count):
    for order in (gpipe, one_forward_one_backward):
        timeline = run_order(order(workers, count), workers)
        assert timeline.seconds == 2 * (count + workers - 1)
        assert timeline.idle == pytest.approx((workers - 1) / (count + workers - 1))
    if count % workers == 0:
        timeline = run_order(interleaved(workers, 2, count), 2 * workers)
        assert timeline.idle == pytest.approx((workers - 1) / (2 * count + workers - 1))


def end_of_all_interleavings(orders, stages):
    """Walk through every state that any interleaving of the workers leads to; return those without a next one."""
    final, seen, todo = set(), set(), [(0,) * len(orders)]
    while todo:
        state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        done = {action for order, place in zip(orders, state, strict=True) for action in order[:place]}
        nexts = [
            (*state[:worker], place + 1, *state[worker + 1 :])
            for worker, place in enumerate(state)
            if place < len(orders[worker])
            and all(need in done for need in needs_of_chain(orders[worker][place], stages))
        ]
        todo += nexts
        if not nexts:
            final.add(state)
    return final


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("workers", "count"), [(1, 3), (2, 1), (2, 3), (2, 4), (3, 1), (3, 2), (3, 3), (4, 2)]
)
def test_no_interleaving_deadlocks(name, workers, count):
    orders = make_schedule(name, workers, count)
    assert end_of_all_interleavings(orders, num_stages(name, workers)) == {tuple(map(len, orders))}


def test_the_model_check_finds_a_deadlock():
    orders = gpipe(2, 2)
    orders[0].reverse()  # backward before forward
    assert end_of_all_interleavings(orders, 2) == {(0, 0)}
    with pytest.raises(ValueError, match="worker 0 before B1@0, worker 1 before F0@1 wait for each other"):
        run_order(orders, 2)


def test_the_tables_of_the_docstrings():
    timeline = run_order(one_forward_one_backward(3, 4), 3)
    rows = []
    for stage in range(3):
        row = ["  "] * 12
        for action, (begin, _) in timeline.spans.items():
            if action.stage == stage:
                row[int(begin)] = str(action)[:2]
        rows.append(f"stage {stage}   {' '.join(row)}".rstrip())
    for row in rows:
        assert row in one_forward_one_backward.__doc__
    two = interleaved(2, 2, 2)
    assert " ".join(map(str, two[1])) == "F0@1 F1@1 F0@3 B0@3 F1@3 B1@3 B0@1 B1@1"
    assert " ".join(map(str, two[0])) == "F0@0 F1@0 F0@2 F1@2 B0@2 B1@2 B0@0 B1@0"


def test_inference_goes_forward_only():
    assert [" ".join(map(str, order)) for order in forward_only(2, 4, 2)] == [
        "F0@0 F0@2 F1@0 F1@2",
        "F0@1 F0@3 F1@1 F1@3",
    ]
    assert forward_only(2, 2, 0) == [[], []]


def test_an_unknown_schedule():
    with pytest.raises(UserError, match="one of gpipe, 1f1b, interleaved: got 'zigzag'"):
        make_schedule("zigzag", 2, 2)
