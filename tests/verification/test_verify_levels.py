"""Level parallelism: the step by branches on several workers is that of one worker, wherever its calls lie."""

from __future__ import annotations

import copy
import random

import pytest
import torch

from support.ranks import run_ranks
from ziggurat.config import RunConfig, override
from ziggurat.errors import UserError
from ziggurat.parallel.branches import branches
from ziggurat.parallel.branches.placement import (
    NoBranches,
    Placement,
    place,
    refuse_chain,
    span_of,
    together,
)
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.costs import CallCost, call_names
from ziggurat.parallel.graph.graph import INPUT, Call, Graph, Value
from ziggurat.parallel.graph.trace import Tracer, spec_of
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.plan import parse_plan
from ziggurat.verification.compare import compare_steps, held_of
from ziggurat.verification.networks import build_network
from ziggurat.verification.precision import KeepFloat64
from ziggurat.verification.step import Trial, run_step
from ziggurat.verification.verify import verify


def graph_of(*uses: tuple[int, ...], states: dict[int, str] | None = None) -> Graph:
    """Return a graph whose calls use the values of earlier calls."""
    calls = [
        Call("", None, (), {}, tuple(Value(u, 0) for u in used), ((states or {}).get(n, "none"),))
        for n, used in enumerate(uses)
    ]
    return Graph(calls, written_states={"counter"})


FORK = ((INPUT,), (0,), (0,), (1, 2))  # stem, two branches, join


def placed(graph: Graph, costs: list[CallCost], num_workers: int = 2) -> Placement:
    return place(graph, dict(zip(call_names(graph), costs, strict=True)), num_workers)


def test_branches_are_computed_at_the_same_time():
    placement = placed(graph_of(*FORK), [CallCost(1.0), CallCost(4.0), CallCost(3.0), CallCost(1.0)])
    assert placement.worker_of == (0, 0, 1, 0)
    assert placement.seconds == (6.0, 3.0)
    assert placement.bound == 1.5
    refuse_chain(placement)


def test_work_that_changes_hands_is_not_faster():
    """Two workers have half of the work each, but one after the other."""
    graph = graph_of((INPUT,), (0,), states={})
    placement = Placement((0, 1), (2.0, 2.0), span_of(graph, [CallCost(2.0)] * 2, (0, 1)))
    assert (placement.bound, placement.apart) == (1.0, 0.5)


def test_what_changes_a_buffer_or_draws_stays_on_one_worker():
    costs = [CallCost(1.0), CallCost(4.0), CallCost(3.0), CallCost(1.0)]
    buffers = placed(graph_of(*FORK, states={1: "counter", 2: "counter"}), costs)
    draws = placed(
        graph_of(*FORK), [CallCost(c.seconds, draws=number in (1, 2)) for number, c in enumerate(costs)]
    )
    unknown = place(graph_of(*FORK), {}, 2)  # calls that were not measured may draw
    for placement in (buffers, draws, unknown):
        assert placement.worker_of == (0, 0, 0, 0)
        with pytest.raises(
            NoBranches, match=r"at least 2% of the work .* found 0.0% in 4 calls on 2 workers; use dp"
        ):
            refuse_chain(placement)


def test_a_chain_is_refused():
    with pytest.raises(NoBranches):
        refuse_chain(placed(graph_of((INPUT,), (0,), (1,)), [CallCost(1.0)] * 3))


def steps_at_random_places(workers: Workers, name: str, shape: tuple[int, ...], seeds: range) -> list[float]:
    """Return the largest error of a step for each seed, by which every call that may be alone is placed."""
    config = override(RunConfig(), {"model.name": name, "model.channels": 32, "model.head_depth": 1})
    torch.manual_seed(0)
    model = build_network(name, config.model).double()
    images = torch.randn(shape, dtype=torch.float64)
    trial = Trial(images, 0, 1, config)
    reference = run_step(copy.deepcopy(model), trial, make_mesh(Workers()))
    mesh = make_mesh(workers, f"lp={workers.size}")
    errors = []
    for seed in seeds:

        def scatter(graph: Graph, costs: object, num_workers: int, seed: int = seed) -> Placement:
            groups = together(graph, [CallCost(1.0)] * len(graph.calls))
            draw = random.Random(seed)
            owner = {group: draw.randrange(num_workers) for group in sorted(set(groups))}
            owner[groups[0]] = 0
            return Placement(tuple(owner[group] for group in groups), (1.0,) * num_workers, 1.0)

        branches.place = scatter  # in this process alone
        step = run_step(copy.deepcopy(model), trial, mesh)
        assert not held_of(reference).difference(*workers.gather(held_of(step)))
        errors.append(max(workers.gather(compare_steps(step, reference).largest)))
    with KeepFloat64():
        graph = Tracer(model.train()).trace(spec_of(images))
    assert len(set(scatter(graph, None, workers.size).worker_of)) == workers.size
    return errors


@pytest.mark.parametrize(
    ("name", "shape", "world"),
    [("fcos-test_resnet-fpn", (1, 3, 64, 64), 2), ("pnn", (2, 3, 64, 64), 3)],
)
def test_any_placement_is_exact(name: str, shape: tuple[int, ...], world: int) -> None:
    """Times are measured, so that calls may come to lie anywhere: in-place operations, shared layers, skips."""
    errors = run_ranks(steps_at_random_places, world, (name, shape, range(3)))[0]
    assert len(errors) == 3
    assert max(errors) <= 1e-10


def test_plans():
    assert parse_plan("lp=3").num_workers == 3
    assert parse_plan("dp=2,lp=3,sp=2").num_workers == 12
    with pytest.raises(UserError, match="lp does not go with pp: got 'pp=2,lp=2'"):
        parse_plan("pp=2,lp=2")


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("name", "shape", "plan", "microbatches"),
    [
        ("pnn", "3x3x64x64", "lp=3", 2),
        ("fcos-pnn", "1x3x64x64", "lp=3", 0),
        ("fcos-test_resnet-fpn", "1x3x96x96", "lp=2", 0),
        ("timm:hrnet_w18_small", "1x3x64x64", "lp=2", 0),
        ("pnn", "5x3x64x64", "lp=2", 3),
        ("pnn", "4x3x64x64", "dp=2,lp=2", 4),
        ("pnn", "2x3x64x64", "lp=2,sp=2", 0),
    ],
)
def test_exact(name: str, shape: str, plan: str, microbatches: int) -> None:
    settings = {"train.microbatches": microbatches} if microbatches else {}
    result = verify(name, shape, plan, settings=settings)
    assert result is not None
    assert result["ok"], result
    of = ("loss", "output", "gradient", "input", "buffer", "norm", "state")
    assert max(result[f"{name}_error"] for name in of) <= 1e-10
    seconds = result["branches"]["seconds"]
    assert 1 < result["branches"]["bound"] <= sum(seconds) / max(seconds) * (1 + 1e-9)
    assert (result["communication_bytes"] is None) == plan.startswith("dp")
    assert result["communication_bytes"] != 0
