"""What messages take, against collectives that are carried message by message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ziggurat.planning.network import Link, Links
from ziggurat.planning.program import Start

ALPHA, BETA = 2.0, 0.5
HERE = Links({"machine": Link(ALPHA, BETA), "network": Link(10 * ALPHA, 10 * BETA)})


def ring_by_steps(count, size, steps):
    """Seconds of so many steps in which each worker hands a part on; the next begins when its part is there."""
    clock = [0.0] * count
    for _ in range(steps):
        clock = [max(clock[rank], clock[rank - 1]) + ALPHA + BETA * size for rank in range(count)]
    return max(clock)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_rings_take_what_their_steps_take(count):
    group, places = tuple(range(count)), [0] * count
    reduce = Start("all-reduce", group, num_bytes=64 * count)
    gather = Start("all-gather", group, num_bytes=64)
    assert HERE.seconds(reduce, places) == pytest.approx(ring_by_steps(count, 64, 2 * (count - 1)))
    assert HERE.seconds(gather, places) == pytest.approx(ring_by_steps(count, 64, count - 1))


def test_a_message_takes_its_latency_and_its_bytes():
    message = Start("swap", (0, 1), sends=((1, 100),))
    assert HERE.seconds(message, [0, 0]) == ALPHA + 100 * BETA
    assert HERE.seconds(message, [0, 1]) == 10 * (ALPHA + 100 * BETA)
    assert HERE.seconds(Start("swap", (0, 1), receives=((1, 100),)), [0, 0]) == ALPHA + 100 * BETA


def test_trees_and_rounds_grow_with_the_logarithm():
    places = [0] * 9
    barrier = Start("barrier", tuple(range(9)))
    assert HERE.seconds(barrier, places) == 4 * ALPHA
    assert HERE.seconds(Start("broadcast", tuple(range(8)), num_bytes=10), places) == 3 * (ALPHA + 10 * BETA)


def test_one_worker_waits_for_nobody():
    assert HERE.seconds(Start("all-reduce", (3,), num_bytes=100), [0] * 4) == 0.0


def test_a_cable_is_shared_by_what_one_collective_sends():
    group = (0, 1, 2, 3)
    reduce = Start("all-reduce", group, num_bytes=400)
    beside, across = [0, 0, 1, 1], [0, 1, 0, 1]  # one message of a step leaves each machine, or two
    assert HERE.carried(reduce, beside).num_bytes == 600
    assert HERE.carried(reduce, across).num_bytes == 1200
    # of two workers on a machine each sends two thirds of its bytes away
    assert HERE.carried(Start("all-to-all", group, num_bytes=300), beside).num_bytes == pytest.approx(400)


def test_a_measured_kind_goes_before_its_connection_and_barriers_before_messages():
    links = Links(
        {"machine": Link(1.0, 1.0), "memory": Link(0.25, 0.0)}, {("machine", "all-reduce"): Link(0.0, 2.0)}
    )
    assert links.seconds(Start("all-reduce", (0, 1), num_bytes=8), [0, 0]) == 16
    assert links.seconds(Start("all-gather", (0, 1), num_bytes=8), [0, 0]) == 9
    assert links.seconds(Start("barrier", (0, 1)), [0, 0]) == 0.25


def test_nccl_takes_trees_where_they_are_faster():
    group = tuple(range(64))
    links = {"network": Link(1e-5, 1e-10)}
    small, large = Start("all-reduce", group, num_bytes=1000), Start("all-reduce", group, num_bytes=10**10)
    nccl, gloo = Links(links, carrier="nccl"), Links(links)
    places = [*range(64)]
    assert nccl.seconds(small, places) == pytest.approx(12e-5, rel=0.01)
    assert gloo.seconds(small, places) == pytest.approx(126e-5, rel=0.01)
    assert nccl.seconds(large, places) == pytest.approx(gloo.seconds(large, places), rel=0.01)


def test_gloo_all_reduces_for_a_reduce_scatter_and_nccl_goes_half_the_way():
    scatter = Start("reduce-scatter", (0, 1, 2, 3), num_bytes=400)
    reduce = scatter._replace(kind="all-reduce")
    assert HERE.seconds(scatter, [0] * 4) == HERE.seconds(reduce, [0] * 4)
    nccl = Links(HERE.links, carrier="nccl")
    assert nccl.seconds(scatter, [0] * 4) == HERE.seconds(reduce, [0] * 4) / 2


def test_an_unknown_connection_is_said():
    with pytest.raises(ValueError, match="nothing is known of messages by network"):
        Links({"machine": Link(1, 1)}).seconds(Start("barrier", (0, 1)), [0, 1])
    assert (HERE.alpha("machine"), HERE.beta("network")) == (ALPHA, 10 * BETA)


@given(
    kind=st.sampled_from(["all-reduce", "all-gather", "reduce-scatter", "all-to-all", "broadcast", "gather", "barrier"]),
    count=st.integers(2, 12), size=st.integers(0, 10**6), machines=st.integers(1, 4), carrier=st.sampled_from(["gloo", "nccl"]),
)  # fmt: skip
def test_more_bytes_and_slower_links_are_never_faster(kind, count, size, machines, carrier):
    places = [rank % machines for rank in range(count)]
    links = Links({"machine": Link(1e-5, 1e-9), "network": Link(1e-4, 1e-8)}, carrier=carrier)
    slower = Links({"machine": Link(2e-5, 1e-9), "network": Link(2e-4, 1e-8)}, carrier=carrier)
    start = Start(kind, tuple(range(count)), num_bytes=size)
    assert 0 < links.seconds(start, places) <= links.seconds(start._replace(num_bytes=size + 100), places)
    assert links.seconds(start, places) <= slower.seconds(start, places)
