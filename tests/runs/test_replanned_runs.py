"""Runs that ask the planner by themselves (``plan.replan=changes``), with cores that are taken away and given back; the planner's answer is a script's."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from faults.runs import SETTINGS, fault_plan
from support.cores import on_two_cores
from ziggurat.commands.train import train as start_training
from ziggurat.config import load_config
from ziggurat.errors import UserError
from ziggurat.training.plan_requests import REQUEST

ASKING = {"pipeline.replan": "changes", "pipeline.replan_every": 4}
LONG = {"train.steps": 36, "train.evaluate_every": 0, "train.checkpoint_every": 0}
PLANNER = """#!/bin/sh
# answers as `ziggurat plan RUN --workers N --json` does: who has one core left is faster alone
row() { printf '{"plan": "%s", "settings": {}, "step_seconds": %s}' "$1" "$2"; }
cores=$(nproc)
echo "$*" >> "$0.asked"
case "$*" in
  *"--workers 1 "*) printf '{"plans": [%s], "left": []}\\n' "$(row dp=1 2.0)" ;;
  *"--workers 2 "*) if [ "$cores" = 1 ]; then seconds=3.0; else seconds=1.0; fi
    printf '{"plans": [%s], "left": []}\\n' "$(row dp=2 $seconds)" ;;
  *) exit 1 ;;
esac
"""


@pytest.fixture
def planner(tmp_path, monkeypatch):
    """A planner whose answer is known; it is a process, as the real one is."""
    script = tmp_path / "planner"
    script.write_text(PLANNER)
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return str(script)


@pytest.fixture
def two_cores():
    """This process may use two cores, or the test has nothing to say; some of its runs take one away."""
    with on_two_cores("none can be taken away") as cores:
        yield cores


def changing(cores, planner):
    """Return what lets a run have other cores after some steps, and lets its steps wait for the planner.

    Args:
        cores: From a step to those that there are after it.
        planner: The program.
    """
    launcher = os.getpid()

    def on_step(row):
        if row["step"] in cores:
            os.sched_setaffinity(0, cores[row["step"]])
            os.sched_setaffinity(launcher, cores[row["step"]])  # who comes anew has them from it
        for child in psutil.Process().children():
            with suppress(psutil.ZombieProcess):  # it has ended
                if planner in child.cmdline():
                    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # the run itself takes note of it

    return on_step


def said(folder):
    return (folder / "log.txt").read_text()


def rows(folder, kind):
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in read if row["kind"] == kind]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The SHA-256 of a run on one worker, of which nobody takes anything."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return start_training("digits", SETTINGS | LONG | {"plan": "dp=1"}, str(folder))["weights_sha256"]


def test_cores_that_come_and_go_change_the_plan_and_no_bit(tmp_path, two_cores, planner, undisturbed):
    """A second core comes, and goes again; the plan follows both times, by itself."""
    folder, cores = tmp_path / "run", {3: two_cores, 20: two_cores[:1]}
    os.sched_setaffinity(0, two_cores[:1])
    given = SETTINGS | LONG | ASKING | {"plan": "dp=1"}
    result = start_training("digits", given, str(folder), on_step=changing(cores, planner))
    assert (result["weights_sha256"], result["plan"]) == (undisturbed, "dp=1")
    more, fewer = rows(folder, "plan")
    assert (more["plan_before"], more["plan"]) == ("dp=1", "dp=2")
    assert (fewer["plan_before"], fewer["plan"]) == ("dp=2", "dp=1")
    assert 3 < more["step"] < 20 < fewer["step"]
    assert more["why"] == "a step under dp=2 is forecast to take 1 s, and under dp=1 2 s: better by 50%"
    assert [row["step"] for row in rows(folder, "train")] == list(range(1, LONG["train.steps"] + 1))
    assert re.search(
        r"the cores that it may use are 2 \(before: 1\): a better plan than dp=1 is asked for", said(folder)
    )
    assert load_config(folder / "config.yaml").plan == "dp=1"
    assert not (folder / REQUEST).exists()


@pytest.mark.sampled(0)
def test_who_is_started_again_goes_on_asking(tmp_path, two_cores, planner, undisturbed):
    """A worker is killed when the planner has been asked, and has not answered."""
    folder, cores = tmp_path / "run", {3: two_cores[:1]}
    given = SETTINGS | LONG | ASKING | {"plan": "dp=2"}
    with fault_plan("kill@forward rank=1 step=11 attempt=0"):
        result = start_training("digits", given, str(folder), on_step=changing(cores, planner))
    assert (result["weights_sha256"], result["plan"]) == (undisturbed, "dp=1")
    (change,) = rows(folder, "plan")
    assert (change["plan_before"], change["plan"]) == ("dp=2", "dp=1")
    assert said(folder).count("is looked for, by a process beside the steps") == 2, (
        "before and after the kill"
    )
    assert not (folder / REQUEST).exists()


@pytest.mark.sampled(0)
def test_a_run_that_does_not_ask_keeps_its_plan(tmp_path, two_cores, planner, undisturbed):
    folder = tmp_path / "run"
    given = SETTINGS | LONG | {"plan": "dp=2"}
    result = start_training("digits", given, str(folder), on_step=changing({3: two_cores[:1]}, planner))
    assert (result["weights_sha256"], result["plan"]) == (undisturbed, "dp=2")
    assert rows(folder, "plan") == []


@pytest.mark.sampled(0)
def test_other_images_change_the_plan_and_no_bit(tmp_path, two_cores, planner):
    """The crops of the steps are four times those that the plan is taken to be chosen for, which is seen after 64 of them."""
    given = SETTINGS | LONG | {"plan": "dp=1", "data.crops": "64", "train.steps": 80}
    expected = start_training("digits", given, str(tmp_path / "undisturbed"))["weights_sha256"]
    folder = tmp_path / "run"
    result = start_training("digits", given | ASKING, str(folder), on_step=changing({}, planner))
    assert (result["weights_sha256"], result["plan"]) == (expected, "dp=2")
    (change,) = rows(folder, "plan")
    assert 64 <= change["step"] < 80
    assert "images are 64x64 pixels on average (before: 32x32)" in said(folder)
    asked = Path(f"{planner}.asked").read_text().splitlines()
    assert [re.search(r"--workers (\d)", one)[1] for one in asked] == ["2", "1"]
    assert all(one.endswith("--input 8x3x64x64") for one in asked)


def test_under_torchrun_it_is_refused_before_anything_starts(tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(UserError, match=r"plan\.replan=changes .* under torchrun it cannot"):
        start_training("digits", SETTINGS | ASKING | {"plan": "dp=1"}, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
