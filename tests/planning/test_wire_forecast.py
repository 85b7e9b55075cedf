"""What narrow gradients would give, as plans tell it: recorded messages of a half and a quarter, a row for each wire, and a verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from support.simulated import Steady, kernel
from ziggurat.config import RunConfig, override
from ziggurat.planning.finding import find_plans
from ziggurat.planning.judging import Judge
from ziggurat.planning.program import Mark, Program, Start, Wait
from ziggurat.planning.record import hollow_model, record_step
from ziggurat.planning.request import read_plan_request
from ziggurat.planning.table import format_plans
from ziggurat.strategies.plan import parse_plan
from ziggurat.verification.networks import build_network

MODEL = "timm:test_resnet"
SHARDED = {"plan.shard_optimizer": True}


def recorded(wire: str, hollow: bool, **settings: Any) -> list[Program]:
    config = override(RunConfig(), {"model.name": MODEL, "dtype": "fp32", "plan.wire": wire, **settings})
    torch.manual_seed(0)
    if hollow:
        model = hollow_model(lambda: build_network(MODEL, config.model), config)
    else:
        model = build_network(MODEL, config.model).to(memory_format=torch.channels_last)
    found = record_step(
        model, config, parse_plan("dp=2"), (2, 3, 64, 64), 2, workers_per_machine=1, hollow=hollow
    )
    assert found.refused is None
    return list(found.programs)


def exchanged(program: Program) -> int:
    """Return the bytes of the all-to-all, in which gradients travel."""
    return sum(
        event.num_bytes for event in program.events if isinstance(event, Start) and event.kind == "all-to-all"
    )


@pytest.mark.sampled(0)
def test_a_recorded_step_sends_what_the_real_one_does():
    whole = [exchanged(program) for program in recorded("fp32", hollow=True)]
    for wire, share in (("bf16", 1 / 2), ("int8", 33 / 128)):
        found = [exchanged(program) for program in recorded(wire, hollow=True)]
        for narrow, wide in zip(found, whole, strict=True):
            # what statistics of batch norm send stays; parameters of less than a block are filled up
            assert share <= narrow / wide < share + 0.06
    assert found == [exchanged(program) for program in recorded("int8", hollow=False)]


@pytest.mark.sampled(0)
def test_a_recorded_step_of_a_sharded_optimizer_sends_what_the_real_one_does():
    found = recorded("int8", hollow=True, **SHARDED)
    assert [exchanged(program) for program in found] == [
        exchanged(program) for program in recorded("int8", hollow=False, **SHARDED)
    ]


# -- what a search says, by fakes -------------------------------------------------------------------------------------------


@dataclass
class Found:
    """Programs of the workers, or why there are none."""

    programs: list[Program]
    refused: str | None = None


class Costs:
    """Kernels that take as many seconds as their name says."""

    def known(self, one):
        return True

    def seconds(self, one):
        return float(one.name)

    def begin(self, start):
        return 0.0


def step_of(candidate) -> Found:
    """One worker takes 8 s, a plan of two 4 s and its messages; to round takes half a second."""
    plan, wire = candidate.plan, dict(candidate.settings).get("pipeline.wire", "fp32")
    if plan.num_workers == 1:
        return Found(
            [Program(0, (Mark("forward 0"), kernel(8)), 1000, {"weights": 100, "moments": 200})], None
        )
    if str(plan) != "dp=2":
        return Found([], f"{plan} is nothing for this network")
    num_bytes = {"fp32": 2000, "bf16": 1000, "int8": 520}[wire]
    computing = [kernel(4)] if wire == "fp32" else [kernel(4), kernel(0.5)]
    events = (Mark("forward 0"), *computing, Start("all-reduce", (0, 1), num_bytes=num_bytes), Wait(0))
    return Found([Program(rank, events, 900) for rank in (0, 1)])


def found_with(
    seconds_per_byte: float, settings: dict[str, Any] | None = None, **asked: Any
) -> dict[str, Any]:
    request = read_plan_request(
        "fcos-resnet18-fpn", settings or {}, workers="2", shape="4x3x64x64", memory="1T"
    )
    judge = Judge(step_of, Costs(), Steady(0.0, seconds_per_byte), pieces=2, cores=2.0)
    asked = {"machines": (2, 1)} | asked

    def no_measure(candidate):
        raise AssertionError(candidate)

    return find_plans(replace(request, **asked), judge, no_measure)[1]


def test_a_slow_cable_pays():
    result = found_with(0.004)
    rows = {row["settings"]["pipeline.wire"]: row for row in result["wires"]}
    assert list(rows) == ["bf16", "int8"]
    assert rows["bf16"]["step_seconds"] == pytest.approx(4.5 + 4)
    assert rows["bf16"]["times_as_fast"] == pytest.approx(12 / 8.5)
    assert rows["int8"]["communication_bytes"] == 2 * 520
    assert [row["settings"] for row in result["plans"]] == [{}], "no plan has other numbers unasked"
    text = format_plans(result)
    assert "plan.wire under dp=2: bf16 8.500 s, 0.0 MB, 1.41 times as fast; int8 " in text
    assert "it pays here, with other numbers" in text


def test_a_fast_one_does_not():
    result = found_with(0.00001)
    assert all(row["times_as_fast"] < 1 for row in result["wires"])
    assert "it does not pay here" in format_plans(result)


def test_within_a_machine_there_is_nothing_to_save():
    result = found_with(0.004, machines=(1, 2))
    assert result["wires"] == []
    assert "plan.wire: nothing to save, as gradients go through the memory of one machine" in format_plans(
        result
    )


@pytest.mark.parametrize("how", [{"settings": {"plan.wire": "bf16"}}, {"purpose": "predict"}])
def test_nothing_is_said_where_nobody_would_ask(how):
    assert "wires" not in found_with(0.004, **how)
