"""Another plan between two steps of a living run, of as many workers or another number, asked for by a file in its folder: see docs/elastic.md."""

from __future__ import annotations

import itertools
import json
import os
import re
import time

import psutil
import pytest

from faults.runs import SETTINGS, fault_plan
from ziggurat.commands.train import train as start_training
from ziggurat.config import load_config
from ziggurat.errors import Preempted, UserError
from ziggurat.training.plan_requests import REQUEST

MOVES = {2: "sp=2", 4: "dp=2", 6: "pp=2"}  # after so many steps
CUT = {"pipeline.cut": "neck", "train.steps": 8, "train.evaluate_every": 0, "train.checkpoint_every": 0}


def asking(folder, plans):
    """Return what asks for plans after some steps, as a user would, and makes the steps longer while new workers come."""

    def on_step(row):
        if row["step"] in plans:
            (folder / REQUEST).write_text(plans[row["step"]] + "\n")
        elif (folder / REQUEST).exists():
            time.sleep(0.3)

    return on_step


def run(folder, plan, plans, faults="", **settings):
    given = SETTINGS | {"plan": plan} | settings
    with fault_plan(faults):
        return start_training("digits", given, str(folder), on_step=asking(folder, plans))


def said(folder):
    return (folder / "log.txt").read_text()


def steps(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if row["kind"] == "train"]


class EnoughError(Exception):
    pass


def ended_after(step):
    def on_step(row):
        if row["step"] == step:
            raise EnoughError

    return on_step


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The same moves, each by an end of the run and `--resume`, which other tests compare with one worker."""
    folder = tmp_path_factory.mktemp("resumed") / "run"
    with fault_plan(""):
        with pytest.raises(UserError, match="Enough"):
            start_training("digits", SETTINGS | CUT | {"plan": "pp=2"}, str(folder), on_step=ended_after(2))
        for begin, plan in MOVES.items():
            given, end = {"plan": plan}, begin + 2
            if end < 8:
                with pytest.raises(UserError, match="Enough"):
                    start_training(None, given, str(folder), resume=True, on_step=ended_after(end))
            else:
                return start_training(None, given, str(folder), resume=True)["weights_sha256"]


@pytest.mark.sampled(0)
def test_the_bits_are_those_of_a_run_that_is_resumed(tmp_path, resumed):
    result = run(tmp_path / "run", "pp=2", MOVES, **CUT)
    assert result["weights_sha256"] == resumed
    assert steps(tmp_path / "run") == list(range(1, 9))
    pauses = re.findall(r"the plan is (\S+) now; the run has paused for [0-9.]+ s", said(tmp_path / "run"))
    assert pauses == list(MOVES.values())
    assert load_config(tmp_path / "run" / "config.yaml").plan == "pp=2"
    assert not (tmp_path / "run" / REQUEST).exists()


EXACT = {
    2: "fsdp=2",
    4: "dp=2",
}  # plans of the same bits, so that it does not matter after which step they change


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("undisturbed") / "run", "dp=1", {})["weights_sha256"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("kill", "goes_on_under"),
    [
        ("kill@handover rank=0 attempt=0", "dp=2"),  # before the state is kept
        ("kill@handover rank=1 step=4 attempt=0", "fsdp=2"),  # and of the second change, on the other worker
        ("kill@forward rank=1 step=3 attempt=0", "fsdp=2"),  # after the first change
    ],
)
def test_a_kill_after_a_change_or_in_the_middle_of_one(tmp_path, undisturbed, capfd, kill, goes_on_under):
    result = run(tmp_path / "run", "dp=2", EXACT, kill, **{"train.checkpoint_every": 1})
    assert (result["weights_sha256"], result["plan"]) == (undisturbed, "dp=2")
    assert steps(tmp_path / "run") == list(range(1, SETTINGS["train.steps"] + 1))
    assert re.search(r"; attempt \d+, with 2 workers", capfd.readouterr().err)
    plans = re.findall(r"microbatches, plan (\S+), fp32", said(tmp_path / "run"))
    assert (goes_on_under, goes_on_under) in itertools.pairwise(plans)


REFUSED = {
    1: ("dp=5", "each worker of the dp axis needs a microbatch: the plan dp=5 has 5"),
    2: ("spp=2", "did you mean"),
    3: ("dp=2", "it is the plan of the run"),
    4: ("tp=2", "the plan tp=2 cannot be"),  # no layer is wide enough, which is found out when it is spread
}


def test_what_cannot_be_is_said_and_changes_nothing(tmp_path, capfd):
    results = []
    for name, plans in (("plain", {}), ("asked", {step: plan for step, (plan, _) in REFUSED.items()})):
        results.append(run(tmp_path / name, "dp=2", plans))
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
    text = said(tmp_path / "asked") + capfd.readouterr().err
    for _, words in REFUSED.values():
        assert words in text, words
    assert load_config(tmp_path / "asked" / "config.yaml").plan == "dp=2"
    assert steps(tmp_path / "asked") == list(range(1, SETTINGS["train.steps"] + 1))


LONGER = {"train.steps": 14, "train.evaluate_every": 0, "train.checkpoint_every": 0}


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    return run(tmp_path_factory.mktemp("longer") / "run", "dp=1", {}, **LONGER)


def plans_of(folder):
    """Return the plans that a run has gone on under, in the order of their coming."""
    return re.findall(r"microbatches, plan (\S+), fp32", said(folder))


def attempts(capfd):
    return len(re.findall(r"^ziggurat: .*; attempt \d+, with", capfd.readouterr().err, re.MULTILINE))


def children_of(pid):
    return {child.pid for child in psutil.Process(pid).children()}


def test_more_and_fewer_workers_end_in_the_same_bits(tmp_path, capfd, longer):
    """From the process that is alone to one of three, to more than there ever were, and back to one."""
    plans = {1: "dp=2", 3: "dp=4", 9: "dp=3", 11: "dp=1"}
    there, before = {}, children_of(os.getpid())
    ask = asking(tmp_path / "run", plans)

    def on_step(row):
        ask(row)
        plan, deadline = plans_of(tmp_path / "run")[-1], time.monotonic() + 30
        if plan not in ("dp=4", "dp=3"):
            return
        # who is too many ends by itself, while the others go on
        while (number := len(children_of(os.getppid()) - before)) > int(plan[3:]):
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        there[plan] = number
        (tmp_path / "there").write_text(json.dumps(there))

    given = SETTINGS | LONGER | {"plan": "dp=1"}
    result = start_training("digits", given, str(tmp_path / "run"), on_step=on_step)
    assert (result["weights_sha256"], result["plan"], result["world_size"]) == (
        longer["weights_sha256"],
        "dp=1",
        1,
    )
    assert plans_of(tmp_path / "run") == ["dp=1", "dp=2", "dp=4", "dp=3", "dp=1"]
    assert steps(tmp_path / "run") == list(range(1, 15))
    assert children_of(os.getpid()) == before
    counted = json.loads((tmp_path / "there").read_text())
    assert (counted["dp=4"], counted["dp=3"]) == (4, 3), "who is too many has ended"
    assert attempts(capfd) == 0
    assert not (tmp_path / "run" / REQUEST).exists()


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("faults", "goes_on_under"),
    [
        ("kill@process group rank=2 attempt=0", ["dp=2", "dp=2"]),  # it had come, and dies among the others
        ("kill@exchange rank=2 attempt=0", ["dp=2", "dp=3", "dp=3"]),  # as any other worker
    ],
)
def test_a_new_worker_that_is_killed(tmp_path, capfd, longer, faults, goes_on_under):
    result = run(tmp_path / "run", "dp=2", {1: "dp=3"}, faults, **LONGER)
    assert result["weights_sha256"] == longer["weights_sha256"]
    assert plans_of(tmp_path / "run") == goes_on_under
    assert steps(tmp_path / "run") == list(range(1, 15))
    assert attempts(capfd) == 1


def test_a_new_worker_that_cannot_come_is_said(tmp_path, capfd, longer):
    """It dies before it is one of the workers: they go on as they were, and nothing is started again."""
    faults = "kill@coming rank=2 attempt=0"
    result = run(tmp_path / "run", "dp=2", {1: "dp=3"}, faults, **LONGER)
    assert result["weights_sha256"] == longer["weights_sha256"]
    assert plans_of(tmp_path / "run") == ["dp=2"]
    assert "worker 2 ended before it had begun, with exit status -9" in said(tmp_path / "run")
    assert attempts(capfd) == 0


@pytest.mark.sampled(0)
def test_bands_take_other_numbers_of_workers(tmp_path, longer):
    """The numbers are those of one worker to what a sum of bands may differ by in float32."""
    plans = {1: "sp=2", 4: "dp=2,sp=2"}
    result = run(tmp_path / "run", "dp=1", plans, **LONGER)
    assert plans_of(tmp_path / "run") == ["dp=1", "sp=2", "dp=2,sp=2"]
    assert result["loss"] == pytest.approx(longer["loss"], rel=1e-4)


def test_a_signal_while_workers_change_is_answered_by_a_checkpoint(tmp_path, longer):
    """Ctrl-C comes between two worlds, where no step is under way that could take note of it."""
    with pytest.raises(Preempted, match=r"stopped by a signal after step 2; .* goes on after step 2"):
        run(tmp_path / "run", "dp=2", {2: "dp=1"}, "interrupt@regrouping rank=0", **LONGER)
    result = start_training(None, {}, str(tmp_path / "run"), resume=True)
    assert (result["weights_sha256"], result["plan"]) == (longer["weights_sha256"], "dp=1")
    assert steps(tmp_path / "run") == list(range(1, 15))
