"""From a request to plans with their costs, by fakes whose seconds anybody can add up."""

import json
from dataclasses import dataclass, field, replace

import pytest

from support.simulated import Steady, kernel
from ziggurat.errors import UserError
from ziggurat.planning.finding import find_plans
from ziggurat.planning.judging import Judge
from ziggurat.planning.program import Mark, Program, Start, Wait
from ziggurat.planning.request import read_plan_request
from ziggurat.planning.search import Candidate
from ziggurat.planning.table import format_plans
from ziggurat.strategies.plan import Plan


@dataclass
class Found:
    programs: list
    refused: str | None = None


@dataclass
class FakeCosts:
    """A table in which a kernel takes as many seconds as its name says, once one was measured."""

    measured: set = field(default_factory=set)

    def known(self, one):
        return one in self.measured

    def measure(self, kernels):
        self.measured |= set(kernels)

    def seconds(self, one):
        assert self.measured
        return float(one.name)

    def begin(self, start):
        return 0.0


def record(candidate):
    """One worker takes 8 s. Of two, dp sums gradients of 100 bytes; sp has halos; pp waits; the others do not go with the network."""
    plan, group = candidate.plan, (0, 1)
    if plan.num_workers == 1:
        held = {"weights": 100, "moments": 200}
        return Found([Program(0, (Mark("forward 0"), kernel(8)), 1000, held)])
    if str(plan) in ("tp=2", "lp=2", "fsdp=2"):
        return Found([], f"{plan} is nothing for this network")
    if str(plan) == "dp=2":
        peak = 700 if ("pipeline.shard_optimizer", True) in candidate.settings else 900
        exchange = (Start("all-reduce", group, num_bytes=100), Wait(0))
        return Found([Program(rank, (Mark("forward 0"), kernel(4), *exchange), peak) for rank in group])
    if "pp" in plan.degrees:
        seconds = 7 if ("pipeline.schedule", "gpipe") in candidate.settings else 6
        return Found([Program(rank, (kernel(seconds),), 2 * 600 // seconds) for rank in group])
    return Found([Program(rank, (kernel(4.5),), 500) for rank in group])


@pytest.fixture
def request_of_two():
    return read_plan_request("fcos-resnet18-fpn", {}, workers="2", shape="4x3x64x64", memory="1T")


def judge():
    return Judge(record, FakeCosts(), Steady(0.125, 0.001), pieces=2, cores=2.0)


def no_measure(candidate):
    raise AssertionError(f"{candidate} was measured")


def test_plans_come_with_what_they_cost(request_of_two):
    said = []
    found, result = find_plans(request_of_two, judge(), no_measure, said.append)
    rows = {" ".join([row["plan"], *row["settings"].values()]): row for row in result["plans"]}
    assert list(rows)[:3] == ["dp=2", "sp=2", "sp=1x2"]
    best = rows["dp=2"]
    assert best["step_seconds"] == pytest.approx(4 + 0.125 + 0.1)
    assert best["images_per_second"] == pytest.approx(4 / 4.225)
    assert best["peak_bytes"] == 900
    assert best["idle"] == pytest.approx(0.225 / 4.225)
    assert best["communication_bytes"] == 200
    assert best["measured_seconds"] is None
    assert rows["pp=2 gpipe"]["step_seconds"] == 7
    assert {row["plan"]: row["reason"] for row in result["refused"]} == {
        plan: f"{plan} is nothing for this network" for plan in ("tp=2", "lp=2", "fsdp=2")
    }
    assert result["certain"]
    assert result["left"] == []
    assert json.loads(json.dumps(result)) == result
    assert said[0] == "the step of one worker"
    assert "pp=2 plan.schedule=gpipe" in said
    assert [str(one.candidate.plan) for one in found.best][:2] == ["dp=2", "sp=2"]


def test_kernels_of_plans_that_are_far_from_the_best_are_not_measured(request_of_two):
    judging = judge()
    _, result = find_plans(request_of_two, judging, no_measure)
    measured = {one.name for one in judging.costs.measured}
    assert measured == {"8", "4", "4.5", "6"}  # 7 s are more than 1.5 times 4.225
    assert max(row["step_seconds"] for row in result["plans"]) == 7
    guessed = {
        row["settings"].get("pipeline.schedule", row["plan"]): row["guessed"] for row in result["plans"]
    }
    assert guessed.pop("gpipe") == 1.0
    assert set(guessed.values()) == {0.0}
    assert "guessed: the share" in format_plans(result)
    beside = {"call_seconds": 6e-6, "message_seconds": 1e-4, "step_seconds": 0.0, "measured": False}
    assert "6.0 us a call, 0.10 ms a message, 0.0 ms a step (assumed)" in format_plans(
        result | {"beside_kernels": beside}
    )


def test_the_share_that_was_guessed_is_one_of_seconds():
    judging = judge()
    judging.costs.measured = {kernel(3)}
    programs = [Program(0, (kernel(3), kernel(1), kernel(3), Mark("forward 0"), kernel(3)))]
    assert judging._step(Candidate(Plan()), programs).guessed == pytest.approx(0.1)
    assert replace(judging, is_formula=True)._step(Candidate(Plan()), programs).guessed == 1.0


def test_what_has_no_room_is_refused(request_of_two):
    _, result = find_plans(replace(request_of_two, memory=800), judge(), no_measure)
    assert result["plans"][0]["plan"] == "dp=2"
    assert result["plans"][0]["settings"] == {"pipeline.shard_optimizer": True}
    assert ("dp=2", {}, "a worker needs 0.00 GB, and has 0.00 GB") in [
        (row["plan"], row["settings"], row["reason"]) for row in result["refused"]
    ]


def test_the_best_are_measured_where_that_is_asked(request_of_two):
    measured = []

    def measure(candidate):
        measured.append(str(candidate))
        return 4.5

    _, result = find_plans(replace(request_of_two, num_measured=2), judge(), measure)
    assert measured == ["dp=2", "sp=2"]
    assert [row["measured_seconds"] for row in result["plans"][:3]] == [4.5, 4.5, None]


def test_a_prediction_has_no_variants_of_backward(request_of_two):
    _, result = find_plans(replace(request_of_two, purpose="predict"), judge(), no_measure)
    assert [(row["plan"], row["settings"]) for row in result["plans"] if row["plan"] == "pp=2"] == [
        ("pp=2", {})
    ]


def test_a_network_that_one_worker_cannot_run_is_the_users(request_of_two):
    with pytest.raises(UserError, match="on one worker either: too small"):
        find_plans(
            request_of_two, replace(judge(), record=lambda candidate: Found([], "too small")), no_measure
        )


def test_a_plan_whose_recording_fails_does_not_end_the_search(request_of_two):
    def fails(candidate):
        if str(candidate.plan) == "dp=2":
            raise RuntimeError("worker 0 failed: Traceback ...\nValueError: x")
        return record(candidate)

    _, result = find_plans(request_of_two, replace(judge(), record=fails), no_measure)
    assert result["plans"][0]["plan"] == "sp=2"
    reasons = {row["plan"]: row["reason"] for row in result["refused"]}
    assert reasons["dp=2"] == "its step could not be recorded, so it is not known: ValueError: x"


def test_the_timeline_of_the_best_is_written(request_of_two, tmp_path):
    path = tmp_path / "step.json"
    _, result = find_plans(replace(request_of_two, timeline=path), judge(), no_measure)
    assert result["timeline"] == [str(path), str(tmp_path / "step.png")]
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["name"] for event in events if event["ph"] == "X"} == {
        "forward forward 0",
        "sum all-reduce",
    }
    assert (tmp_path / "step.png").stat().st_size > 1000


def test_the_table_has_plans_reasons_and_how_sure_it_is(request_of_two):
    _, result = find_plans(request_of_two, judge(), no_measure)
    text = format_plans(result)
    lines = text.splitlines()
    assert lines[0] == "fcos-resnet18-fpn, 4x3x64x64, 2 microbatches, 2 workers: a step of training"
    row = next(line for line in lines if line.startswith("dp=2 "))
    assert row.split()[1:3] == ["4.225", "0.95"]
    assert "  tp=2 is nothing for this network" in lines
    assert "all plans were looked at" in text
    result |= {"left": [{"plan": "dp=2", "settings": {}, "least_seconds": 1.5}], "certain": False}
    assert "the time was spent" in format_plans(result)
    assert "dp=2, which takes 1.500 s at least" in format_plans(result)
