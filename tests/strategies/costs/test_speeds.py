"""Shares that follow speeds: the best ones by exhaustion, and no hunting over random traces of simulated times."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ziggurat.strategies.costs.speeds import Adaptation, Speeds, best_counts, noise_of, num_roots
from ziggurat.training.unequal_workers import WINDOW

TIMES = st.floats(0.1, 10.0)


def compositions(total, parts):
    """Yield all ways to share microbatches, one at least each."""
    for bounds in itertools.combinations(range(1, total), parts - 1):
        yield [b - a for a, b in itertools.pairwise((0, *bounds, total))]


@settings(max_examples=60, deadline=None)
@given(st.lists(TIMES, min_size=2, max_size=4), st.integers(4, 14), st.floats(0, 3.0))
def test_the_best_of_all_shares_is_found(seconds, num_microbatches, root_seconds):
    speeds = Speeds(tuple(seconds), root_seconds)
    found = best_counts(num_microbatches, speeds)
    assert sum(found) == num_microbatches
    assert min(found) >= 1
    best = min(speeds.seconds(counts) for counts in compositions(num_microbatches, len(seconds)))
    assert speeds.seconds(found) == pytest.approx(best)


def test_of_many_workers_and_microbatches_it_is_near_the_bound_and_soon_found():
    random.seed(0)
    speeds = Speeds(tuple(random.uniform(1, 3) for _ in range(16)))
    found = best_counts(1024, speeds)
    assert speeds.seconds(found) <= 1.03 * 1024 / sum(1 / each for each in speeds.seconds_each)


def test_roots_by_hand():
    assert [num_roots(counts) for counts in ([16], [8, 8], [9, 7], [3, 3, 2])] == [1, 2, 5, 5]


def simulate(traces, num_microbatches, steps, root_seconds=0.0):
    """Return the shares of every step if speeds are measured as in a run: medians of so many steps.

    Args:
        traces: Of each worker, from a step to its seconds of a microbatch.
    """
    adaptation = Adaptation.of((), num_microbatches, len(traces))
    window, counts = [], []
    for step in range(steps):
        each = [trace(step) for trace in traces]
        counts.append(adaptation.counts)
        window.append(each)
        if len(window) == WINDOW:
            medians = tuple(statistics.median(times) for times in zip(*window, strict=True))
            noise = max(noise_of(times) for times in zip(*window, strict=True))
            adaptation.follow(Speeds(medians, root_seconds, noise))
            window = []
    return counts


def changes(counts):
    return [step for step, (one, other) in enumerate(itertools.pairwise(counts), 1) if one != other]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 300), st.integers(2, 4), st.floats(0.0, 0.15))
def test_a_worker_that_becomes_half_as_fast_is_followed_within_25_steps_and_nothing_oscillates(
    seed, onset, num_workers, noise
):
    draw = random.Random(seed)
    slow = draw.randrange(num_workers)

    def trace(worker):
        return lambda step: (2.0 if worker == slow and step >= onset else 1.0) * draw.lognormvariate(0, noise)

    counts = simulate([trace(worker) for worker in range(num_workers)], 16, 500, root_seconds=0.05)
    even = Speeds(tuple(2.0 if worker == slow else 1.0 for worker in range(num_workers)), 0.05)
    before, after = even.seconds(Adaptation.of((), 16, num_workers).counts), even.seconds(counts[onset + 25])
    assert before / after >= 1.2
    later = [step for step in changes(counts) if step > onset + 25]
    assert len(later) <= 3, "refined by a microbatch at most, not to and fro"
    assert len(set(counts[onset + 25 :])) == len(later) + 1, "no shares come back that were left"
    if noise < 0.02:
        assert not later
        assert before / after >= 1.35 if num_workers == 2 else True


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 4))
def test_equal_workers_stay_as_they_are(seed, num_workers):
    draw = random.Random(seed)
    counts = simulate([lambda step: draw.lognormvariate(0, 0.2)] * num_workers, 8, 500, root_seconds=0.05)
    assert len(changes(counts)) <= 2


def test_a_worker_that_is_slow_now_and_then_is_not_followed_for_ever():
    """Ten steps slow, ten steps fast, for ever: each return costs twice the gain, so that it ends."""
    counts = simulate([lambda step: 1.0, lambda step: 1.6 if step // 32 % 2 else 1.0], 16, 2000)
    assert len(changes(counts)) <= 12
    assert not [step for step in changes(counts) if step > 1000]
