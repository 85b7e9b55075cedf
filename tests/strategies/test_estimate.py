"""Rules of thumb: of each axis what it must say, whatever the numbers."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ziggurat.strategies.estimate import StepCost
from ziggurat.strategies.plan import Plan
from ziggurat.strategies.registry import STRATEGIES

costs = st.builds(
    StepCost,
    seconds=st.floats(1, 100),
    num_microbatches=st.integers(1, 64),
    weight_bytes=st.floats(1, 1e9),
    kept_bytes=st.floats(0, 1e9),
    activation_bytes=st.floats(0, 1e9),
)


@pytest.mark.parametrize("axis", STRATEGIES)
@given(cost=costs)
def test_an_axis_of_one_worker_changes_nothing(axis, cost):
    assert STRATEGIES[axis].estimate(cost, 1) == dataclasses.replace(cost, bytes_sent=0.0)


@pytest.mark.parametrize("axis", STRATEGIES)
@given(cost=costs, size=st.integers(2, 64))
def test_workers_never_do_more_than_one_nor_less_than_their_part(axis, cost, size):
    part = STRATEGIES[axis].estimate(cost, size)
    assert cost.seconds / size * (1 - 1e-9) <= part.seconds <= cost.seconds * (1 + 1e-9)
    assert cost.peak_bytes / size * (1 - 1e-9) <= part.peak_bytes <= cost.peak_bytes * (1 + 1e-9)
    assert part.bytes_sent >= cost.bytes_sent


@given(
    cost=costs, sizes=st.fixed_dictionaries({axis: st.integers(1, 4) for axis in ("dp", "sp", "pp", "tp")})
)
def test_a_product_composes(cost, sizes):
    assert Plan(**sizes).estimate(cost).seconds >= cost.seconds / Plan(**sizes).num_workers * (1 - 1e-9)


def test_a_pipeline_waits_for_its_first_microbatch():
    alone = StepCost(seconds=8, num_microbatches=4, weight_bytes=8, kept_bytes=0, activation_bytes=8)
    piped = Plan(pp=4).estimate(alone)
    assert piped.seconds == pytest.approx(8 / 4 * 7 / 4)
    assert piped.peak_bytes == pytest.approx(2 + 4 * 2)


def test_the_first_worker_of_an_uneven_share_decides():
    alone = StepCost(seconds=8, num_microbatches=8, weight_bytes=1, kept_bytes=0, activation_bytes=0)
    assert Plan(dp=3).estimate(alone).seconds == pytest.approx(3)
