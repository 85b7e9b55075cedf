"""Another plan between two steps, in the processes that a run has, asked for by a file in its folder: see docs/elastic.md."""

from __future__ import annotations

import itertools
import json
import re

import pytest

from faults.runs import SETTINGS, fault_plan
from ziggurat.commands.train import train as start_training
from ziggurat.config import load_config
from ziggurat.errors import UserError
from ziggurat.training.plan_change import REQUEST

MOVES = {2: "sp=2", 4: "dp=2", 6: "pp=2"}  # after so many steps
CUT = {"pipeline.cut": "neck", "train.steps": 8, "train.evaluate_every": 0, "train.checkpoint_every": 0}


def asking(folder, plans):
    """Return what asks for plans after some steps, as a user would."""

    def on_step(row):
        if row["step"] in plans:
            (folder / REQUEST).write_text(plans[row["step"]] + "\n")

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
    1: ("dp=3", "it has 3 workers, and the run has 2: end it"),
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
