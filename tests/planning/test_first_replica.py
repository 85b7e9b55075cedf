"""A world of which the first replica alone is recorded, against the same world recorded whole: the same kernels, messages and bytes, exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ziggurat.config import RunConfig, override
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.absent import FirstWorkers
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.planning.program import Event, Mark, Program, Start
from ziggurat.planning.record import Recorded, alike_fault, hollow_model, record_step
from ziggurat.planning.scale import all_workers
from ziggurat.strategies.plan import parse_plan
from ziggurat.verification.networks import build_network

MODEL = "timm:test_resnet"
SHARDED = {"pipeline.shard_optimizer": True}

# plan, microbatches, workers of a machine, settings
CASES: list[tuple[str, int, int, dict[str, Any]]] = [
    ("dp=4", 4, 0, {}),
    ("dp=8", 8, 2, SHARDED),
    ("dp=2,sp=2", 4, 0, {}),
    ("dp=4,pp=2", 8, 4, {}),
]
MORE = [
    (plan, microbatches, each, settings)
    for plan, microbatches in (
        ("dp=4", 8), ("dp=8", 8), ("dp=2,sp=2", 2), ("dp=4,sp=2", 4), ("dp=4,sp=1x2", 8), ("dp=2,pp=2", 4), ("dp=4,pp=2", 8),
        ("dp=2,sp=2,pp=2", 4),
    )
    for each in (0, 2, 4)
    for settings in ({}, SHARDED)
    if not (settings and "pp" in plan) and (plan, microbatches, each, settings) not in CASES
]  # fmt: skip


def record(
    name: str,
    plan: str,
    microbatches: int,
    each: int,
    settings: dict[str, Any],
    only_first: bool,
    side: int = 64,
) -> Recorded:
    chosen = {"model.name": name, "train.ema": 0.99, "dtype": "fp32", **settings}
    config = override(RunConfig(), chosen)
    torch.manual_seed(0)
    model = hollow_model(lambda: build_network(name, config.model), config)
    shape = (microbatches, 3, side, side)
    return record_step(
        model, config, parse_plan(plan), shape, microbatches, workers_per_machine=each, only_first=only_first
    )


def check_same(first: Recorded, whole: Recorded, takes_turns: bool = False) -> None:
    """Hold the first replica against all workers."""
    assert first.refused is None
    assert whole.refused is None
    for mine, real in zip(first.programs, whole.programs, strict=False):
        assert mine.kernels == real.kernels
        assert mine.events == real.events
        assert mine.bytes_sent == real.bytes_sent
        assert mine.held_bytes == real.held_bytes
        # a message of bytes, in which objects travel; in a pipeline, a message that comes early is there for longer
        assert abs(mine.peak_bytes - real.peak_bytes) <= (0.1 * real.peak_bytes if takes_turns else 8)


def unmarked(program: Program) -> list[Event]:
    """Return what a worker does, without the names for people, which count microbatches."""
    return [event for event in program.events if not isinstance(event, Mark)]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE)], ids=str
)
def test_the_first_replica_does_what_it_does_among_all(case: tuple[str, int, int, dict[str, Any]]) -> None:
    plan, microbatches, each, settings = case
    first = record(MODEL, plan, microbatches, each, settings, only_first=True)
    assert len(first.programs) == parse_plan(plan).num_of_one
    whole = record(MODEL, plan, microbatches, each, settings, only_first=False)
    check_same(first, whole, parse_plan(plan).has_timeline)
    if not settings:  # a sharded optimizer has more rows of a weight on some workers than on others
        for mine, real in zip(
            all_workers(first.programs, parse_plan(plan).num_data), whole.programs, strict=True
        ):
            assert mine.rank == real.rank
            assert unmarked(mine) == unmarked(real)


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["dp=4", "dp=4,sp=2", "dp=4,pp=2"])
def test_a_detector_does_too(plan: str) -> None:
    first, whole = (record("fcos-test_resnet-fpn", plan, 8, 4, {}, only, side=96) for only in (True, False))
    check_same(first, whole, parse_plan(plan).has_timeline)


def messages(program: Program) -> int:
    """Return how many messages a worker sends for its share of the sums, as the usual algorithms send them."""
    return sum(
        len(event.group) - 1 for event in program.events if isinstance(event, Start) and len(event.group) > 1
    )


@pytest.mark.sampled(0)
def test_messages_grow_with_the_sum_of_the_tiers_and_not_with_the_workers() -> None:
    """A worker of 512 sends as many messages as three tiers of eight have others: 7 times as many as one of four, not 170 times."""
    by_tiers = {"launch.hierarchy": "8x8x8"}
    counts = {
        (workers, text): messages(record(MODEL, f"dp={workers}", workers, 8, settings, True).programs[0])
        for workers, text, settings in (
            (4, "flat", {}),
            (512, "tiers", by_tiers),
            (512, "flat", {"launch.hierarchy": "flat"}),
        )
    }
    assert counts[512, "tiers"] == counts[4, "flat"] // 3 * (7 + 7 + 7)
    assert counts[512, "flat"] == counts[4, "flat"] // 3 * 511


def test_replicas_that_are_not_alike_are_refused() -> None:
    assert alike_fault(parse_plan("dp=6,sp=2"), 24) is None
    for plan, microbatches in (("dp=4", 12), ("dp=4", 6), ("dp=4", 2)):
        with pytest.raises(ValueError, match="have other parts of the tree"):
            record(MODEL, plan, microbatches, 0, {}, only_first=True)


def test_fsdp_talks_to_workers_that_are_not_there() -> None:
    refused = record(MODEL, "fsdp=128", 128, 0, {}, only_first=True).refused
    assert refused is not None
    assert "fsdp over 128 workers" in refused


def test_of_a_world_whole_replicas_are_needed() -> None:
    with pytest.raises(ValueError, match="several replicas of the 1 workers"):
        FirstWorkers(Workers(), Workers(), 1)
    world = FirstWorkers(Workers(), Workers(), 8).scope()
    assert world.subgroup([0]).size == 1
    assert world.sum([3, 4]) == [24, 32]
    tiers = world.subgroup([0, 2, 4, 6])
    tiers.arrange((2, 2))
    assert [tier.size for tier in tiers.tiers] == [2, 2]
    assert tiers.gather(("mine", 1)) == [("mine", 1)] * 4
    for refuses in (world.background, world.device_mesh, lambda: world.gather_to(torch.ones(1), 0)):
        with pytest.raises((ValueError, UserError)):
            refuses()
    world.close()
