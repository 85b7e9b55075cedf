"""Level parallelism: the step by branches on several workers is that of one worker."""

from __future__ import annotations

import pytest

from ziggurat.errors import UserError
from ziggurat.parallel.levels.placement import CallCost, NoBranches, place
from ziggurat.parallel.pipeline.graph import INPUT, Call, Graph, Value
from ziggurat.plans.level_parallel import level_faults
from ziggurat.plans.plan import parse_plan
from ziggurat.verify.verify import verify


def graph_of(*uses: tuple[int, ...], states: dict[int, str] | None = None) -> Graph:
    """Return a graph whose calls use the values of earlier calls."""
    calls = [
        Call("", None, (), {}, tuple(Value(u, 0) for u in used), ((states or {}).get(n, "none"),))
        for n, used in enumerate(uses)
    ]
    return Graph(calls, written_states={"counter"})


FORK = ((INPUT,), (0,), (0,), (1, 2))  # stem, two branches, join


def test_branches_are_computed_at_the_same_time():
    placement = place(graph_of(*FORK), [CallCost(1.0), CallCost(4.0), CallCost(3.0), CallCost(1.0)], 2)
    assert placement.worker_of == (0, 0, 1, 0)
    assert placement.seconds == (6.0, 3.0)
    assert placement.bound == 1.5


def test_what_changes_a_buffer_or_draws_stays_on_one_worker():
    costs = [CallCost(1.0), CallCost(4.0), CallCost(3.0), CallCost(1.0)]
    with pytest.raises(
        NoBranches, match=r"at least 2% of the work .* found 0.0% in 4 calls on 2 workers; use dp"
    ):
        place(graph_of(*FORK, states={1: "counter", 2: "counter"}), costs, 2)
    draws = [CallCost(cost.seconds, draws=number in (1, 2)) for number, cost in enumerate(costs)]
    with pytest.raises(NoBranches):
        place(graph_of(*FORK), draws, 2)


def test_a_chain_is_refused():
    with pytest.raises(NoBranches):
        place(graph_of((INPUT,), (0,), (1,)), [CallCost(1.0)] * 3, 2)


def test_plans():
    assert parse_plan("lp=3").num_workers == 3
    with pytest.raises(UserError, match="lp does not go with other axes yet: got 'dp=2,lp=2'"):
        parse_plan("dp=2,lp=2")
    assert "use --plan dp=2" in level_faults(parse_plan("lp=2"))[0]


@pytest.mark.parametrize(
    ("name", "shape", "plan", "microbatches"),
    [
        ("pnn", "2x3x64x64", "lp=2", 0),
        ("pnn", "3x3x64x64", "lp=3", 2),
        ("fcos-pnn", "1x3x64x64", "lp=2", 0),
        ("fcos-pnn", "1x3x64x64", "lp=3", 0),
        ("fcos-resnet10t-fpn", "1x3x96x96", "lp=2", 0),
    ],
)
def test_exact(name: str, shape: str, plan: str, microbatches: int) -> None:
    settings = {"train.microbatches": microbatches} if microbatches else {}
    result = verify(name, shape, plan, settings=settings)
    assert result is not None
    assert result["ok"], result
    of = ("loss", "output", "gradient", "input", "buffer")
    assert max(result[f"{name}_error"] for name in of) <= 1e-10
    seconds = result["branches"]["seconds"]
    assert result["branches"]["bound"] == pytest.approx(sum(seconds) / max(seconds))
    assert 1 < result["branches"]["bound"] <= len(seconds)
    assert result["communication_bytes"] > 0
