"""Who is slow, in which phase, and what a step would take without it: by hand."""

from __future__ import annotations

import pytest

from ziggurat.strategies.pace import Spent
from ziggurat.training.unequal_workers import Took, Totals, find_straggler


def took(data=0.1, compute=1.0, exchange=0.1, step=1.5, count=4):
    waiting = step - data - compute - exchange
    return Took(data, compute, exchange, waiting, 0.2, step, (data + compute) / count)


FAST = took()


@pytest.mark.parametrize(
    ("workers", "worker", "phase", "without"),
    [
        ([FAST, took(compute=1.8, step=2.2), FAST], 1, "compute", 2.2 - 0.8),
        ([took(data=1.1, step=2.5), FAST], 0, "data", 2.5 - 1.0),
        ([FAST, FAST, took(exchange=0.7, step=2.1)], 2, "exchange", 2.1 - 0.6),
        # of two slow ones the slower is named, and the step then waits for the other
        ([took(compute=1.5, step=2.2), took(compute=1.8, step=2.2), FAST], 1, "compute", 2.2 - 0.3),
    ],
)
def test_a_straggler_is_named_with_its_phase_and_price(workers, worker, phase, without):
    found = find_straggler(workers, [list(range(len(workers)))])
    assert (found.worker, found.phase) == (worker, phase)
    assert found.without == pytest.approx(without)


@pytest.mark.parametrize(
    "workers",
    [
        [FAST, FAST],
        [FAST, took(compute=1.05)],  # too little to be said
        [took(compute=1.4, step=2.0, count=8), took(compute=1.0, step=2.0, count=2)],  # it has more to do
    ],
)
def test_nobody_is_named_without_reason(workers):
    assert find_straggler(workers, [[0, 1]]) is None


def test_only_peers_are_compared():
    """Stages of a pipeline differ by design; each is compared with the same stage of the other pipeline."""
    stages = [
        took(compute=0.5, step=3.0),
        took(compute=1.0, step=3.0),
        took(compute=0.5, step=3.0),
        took(compute=2.5, step=3.0),
    ]
    found = find_straggler(stages, [[0, 2], [1, 3]])
    assert (found.worker, found.without) == (3, pytest.approx(1.5))
    assert find_straggler(stages, [[0], [1], [2], [3]]) is None


def test_what_is_waited_for_is_not_a_workers_own():
    spent = Spent(computing=0.6, passes=0.9, summing=0.3, waiting=0.25)
    found = Took.of_step(waited=0.1, seconds=1.3, spent=spent, count=2)
    assert found.own == pytest.approx(0.1 + 0.6 + (1.3 - 0.9 - 0.25))
    assert found.waiting == pytest.approx(0.25 + 0.3)
    assert found.step == pytest.approx(found.own + found.waiting)
    assert found.each == pytest.approx(0.35)


def test_totals_are_means_and_sums():
    totals = Totals()
    for compute in (1.0, 2.0, 3.0):
        workers = [FAST, took(compute=compute, step=compute + 0.5)]
        totals.add(workers, find_straggler(workers, [[0, 1]]))
    assert totals.steps == 24
    assert totals.took[1].compute == pytest.approx(2.0)
    assert totals.slow == {(1, "compute"): 16}
    assert totals.lost[1, "compute"] == pytest.approx(8 * (1.0 + 2.0))
