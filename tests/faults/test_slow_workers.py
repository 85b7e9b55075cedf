"""Runs whose shares follow a worker that sleeps: the bits of even shares, through kills at each instant of a change."""

from __future__ import annotations

import json
import re

import pytest

from faults.runs import fault_plan
from ziggurat.commands.train import train as start_training
from ziggurat.errors import UserError
from ziggurat.parallel.runtime.launch import WorkerLost
from ziggurat.training.unequal_workers import WARM_UP, WINDOW

CHANGE = WARM_UP + WINDOW  # steps that are done when shares may change for the first time
SETTINGS = {
    "task": "classify", "model.name": "pnn", "model.pnn.channels": 4, "device": "cpu", "threads": 1, "dtype": "fp32",
    "data.crop": 32, "data.resize": 32, "data.workers": 0, "digits.size": 32, "digits.height_min": 8,
    "digits.height_max": 24, "digits.train_scenes": 20, "digits.val_scenes": 4, "train.batch_size": 8,
    "train.microbatches": 8, "train.steps": CHANGE + 4, "train.checkpoint_every": 4, "train.report": "numbers",
}  # fmt: skip
SLOW = "slow@forward rank=0 ms=20; slow@forward rank={slow} ms={ms}"


def run(folder, plan, faults="", **settings):
    given = SETTINGS | {"plan": plan} | {name.replace("__", "."): value for name, value in settings.items()}
    with fault_plan(faults):
        return start_training("digits", given, str(folder))


def changes(folder):
    """Return the shares that were taken, in order, as the log says."""
    return re.findall(r"on shares of [0-9]+ microbatches are ([0-9,]+)", (folder / "log.txt").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """One worker; its last batch of an epoch has fewer microbatches."""
    result = run(tmp_path_factory.mktemp("undisturbed") / "run", "dp=1")
    assert result["balance"] is None, "nobody is compared with nobody"
    return result["weights_sha256"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("plan", ["dp=2", "dp=3"])
def test_shares_follow_a_slow_worker_and_the_bits_stay(tmp_path, undisturbed, plan):
    result = run(tmp_path / "run", plan, SLOW.format(slow=1, ms=160), pipeline__shares="measured")
    assert result["weights_sha256"] == undisturbed
    taken = changes(tmp_path / "run")
    assert len(taken) == 1
    counts = [int(count) for count in taken[0].split(",")]
    assert counts[1] == min(counts) < 8 // len(counts)
    balance = result["balance"]
    assert (balance["shares"], balance["changes"]) == (taken[0], 1)
    assert [(one["worker"], one["phase"]) for one in balance["stragglers"]] == [(1, "compute")]
    each = [one["microbatch_seconds"] for one in balance["workers"]]
    assert each[1] == max(each) > 0.16
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if row["kind"] == "balance"]
    assert (row["slowest"], row["phase"]) == (1, "compute")
    assert row["without_slowest_seconds"] < row["step_seconds"]
    assert "| 1 |" in (tmp_path / "run" / "report" / "workers.md").read_text()


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "kill",
    [
        f"kill@balance rank=1 step={CHANGE - 1} attempt=0",  # before the others know
        f"kill@data rank=0 step={CHANGE} attempt=0",  # between the change and the first step with other shares
        f"kill@exchange rank=1 step={CHANGE} attempt=0",  # in it
    ],
)
def test_a_kill_in_the_middle_of_a_change_loses_nothing(tmp_path, undisturbed, kill, capfd):
    faults = f"{SLOW.format(slow=1, ms=160)}; {kill}"
    result = run(tmp_path / "run", "dp=2", faults, pipeline__shares="measured")
    assert result["weights_sha256"] == undisturbed
    assert re.search(r"; attempt \d+, with 2 workers", capfd.readouterr().err)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, CHANGE + 5))


@pytest.mark.sampled(0)
@pytest.mark.parametrize(("plan", "slow"), [("dp=2,pp=2", 2), ("dp=2,sp=2", 3)])
def test_products_follow_the_slowest_worker_of_a_place(tmp_path, plan, slow):
    """A slow stage, or a slow band, makes its whole pipeline or image late."""
    fewer = {"train__batch_size": 4, "train__microbatches": 4}
    expected = run(tmp_path / "even", plan, **fewer)["weights_sha256"]
    result = run(tmp_path / "run", plan, SLOW.format(slow=slow, ms=500), pipeline__shares="measured", **fewer)
    assert result["weights_sha256"] == expected
    (taken,) = changes(tmp_path / "run")
    first, second = (int(count) for count in taken.split(","))
    assert first > second
    named = {(one["worker"], one["phase"]) for one in result["balance"]["stragglers"]}
    assert (slow, "compute") in named, "not who waits for it in the same image or pipeline"


def test_a_run_goes_on_with_fewer_workers_than_it_has_counts_for(tmp_path, undisturbed):
    """The second worker is lost for good: one goes on, and takes all microbatches."""
    result = run(tmp_path / "run", "dp=2", "kill@forward rank=1 step=3", pipeline__shares="7,1")
    assert (result["weights_sha256"], result["world_size"]) == (undisturbed, 1)
    text = (tmp_path / "run" / "log.txt").read_text()
    assert "shares of 8 microbatches: 7,1" in text
    assert "plan.shares=7,1 is for 2 workers that take other samples: those of 1 are even" in text


@pytest.mark.sampled(0)
def test_a_run_is_resumed_with_other_counts(tmp_path, undisturbed):
    with pytest.raises(WorkerLost):
        run(
            tmp_path / "run",
            "dp=2",
            "kill@forward rank=1 step=6",
            pipeline__shares="7,1",
            launch__max_restarts=0,
        )
    with fault_plan(""):
        with pytest.raises(UserError, match=r"each of the 3 workers .* got 2 that make 8"):
            start_training(
                None, {"plan": "dp=3", "pipeline.shares": "7,1"}, str(tmp_path / "run"), resume=True
            )
        settings = {"plan": "dp=3", "pipeline.shares": "1,1,6"}
        result = start_training(None, settings, str(tmp_path / "run"), resume=True)
    assert result["weights_sha256"] == undisturbed
