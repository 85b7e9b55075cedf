"""Who asks a living run for another plan: what is looked for, chosen, said, and left behind; the planner itself has tests of its own."""

from __future__ import annotations

import dataclasses
import os
import signal
import time

import psutil
import pytest

from faults.runs import SETTINGS
from support.cores import on_two_cores
from ziggurat.commands.train import train as start_training
from ziggurat.config import RunConfig, override
from ziggurat.errors import UserError
from ziggurat.parallel.runtime.crew import Line
from ziggurat.training.plan_requests import AUTO, BETTER, REQUEST, Requests, asked_by_signal
from ziggurat.training.plan_search import PlanSearch
from ziggurat.training.replanning import Replanning

CONFIG = override(
    RunConfig(),
    {"plan": "dp=2", "threads": 1, "device": "cpu", "train.batch_size": 8, "train.microbatches": 4},
)


def row(plan, seconds, **settings):
    return {
        "plan": plan,
        "settings": {f"pipeline.{name}": value for name, value in settings.items()},
        "step_seconds": seconds,
    }


# the run has 1f1b, and keeps it
ROWS = [row("pp=2", 1.0, schedule="gpipe"), row("sp=2", 2.0), row("dp=2", 3.0)]


class Looking:
    """A search that has an answer at its third question."""

    def __init__(self, answer):
        self.answer, self.asked, self.closed = answer, 0, 0

    def __call__(self, folder, num_workers, shape):
        self.folder, self.num_workers, self.shape = folder, num_workers, shape
        return self

    def found(self):
        self.asked += 1
        if self.asked < 3:
            return None
        if isinstance(self.answer, str):
            raise UserError(self.answer)
        return {"plans": self.answer, "left": []}

    def close(self):
        self.closed += 1


@pytest.fixture
def two_cores():
    """This process may use two cores, or the test has nothing to say."""
    with on_two_cores("dp=1 is the only plan") as cores:
        yield cores


def asked(folder, search, config=CONFIG, line=None, **more):
    return Requests(
        folder, config, Replanning.of(config), lambda step: (64, 64), line, start_search=search, **more
    )


def requests(folder, search, config=CONFIG, line=True):
    ask = asked(folder, search, config, Line(None) if line else None)
    ask.path.write_text(f"{AUTO}\n")
    return ask


@pytest.mark.parametrize("line", [True, False])
def test_the_best_plan_that_goes_with_the_settings_of_the_run_is_taken(tmp_path, two_cores, line):
    search = Looking(ROWS)
    ask = requests(tmp_path, search, line=line)
    assert [ask.look(0) for _ in range(4)] == [False, False, True, True]
    assert ask.found == dataclasses.replace(CONFIG, plan="sp=2")
    assert (search.folder, search.num_workers) == (tmp_path, 2)
    assert [said for said in ask.news if "best plan of 2 workers is looked for" in said] == ask.news[:1]
    assert ask.take_away() == ""
    assert search.closed == 1
    assert not ask.path.exists()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (ROWS[2:], "of 2 workers it is dp=2, that of the run"),
        (ROWS[:1], "no plan that was found goes with the settings of the run"),
        ([], "no plan that was found"),
        ("a kernel has no price", "a kernel has no price"),
        ([row("dp=8", 1.0)], "each worker of the dp axis needs a microbatch"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path, two_cores, answer, why):
    ask = requests(tmp_path, Looking(answer))
    assert [ask.look(0) for _ in range(3)] == [False, False, True]
    assert ask.found.startswith(f"{tmp_path / REQUEST} asks for the best plan: ")
    assert why in ask.found
    assert ask.found.endswith("; the run goes on under dp=2")
    assert "\n" not in ask.found


def test_who_takes_the_question_back_gets_no_answer(tmp_path, two_cores):
    search = Looking(ROWS)
    ask = requests(tmp_path, search)
    assert not ask.look(0)
    ask.path.unlink()
    assert not ask.look(0)
    assert (search.closed, ask.search) == (1, None)
    ask.path.write_text(AUTO)
    assert not ask.look(0)
    ask.path.write_text("sp=2")  # or asks another one
    assert ask.look(0)
    assert ask.found.plan == "sp=2"
    assert search.closed == 2


def test_an_empty_file_asks_for_nothing_yet(tmp_path, two_cores):
    """A shell makes the file before `echo` writes into it, and a run may look in between."""
    ask = asked(tmp_path, Looking(ROWS), line=Line(None))
    ask.path.write_text("")
    assert not ask.look(0)
    assert ask.path.exists()
    assert ask.news == []
    ask.path.write_text("sp=2\n")
    assert ask.look(1)
    assert ask.found.plan == "sp=2"


def test_under_torchrun_plans_are_named(tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "1")
    ask = requests(tmp_path, Looking(ROWS), line=False)
    assert ask.look(0)
    assert "under torchrun name the plan" in ask.found


def answer(search):
    """Return what a search comes to: of another process, which takes some seconds."""
    deadline = time.monotonic() + 100
    while (found := search.found()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


@pytest.mark.sampled(0)
def test_a_search_says_what_is_wrong_and_leaves_no_process(tmp_path):
    """A process of the real command, which finds no run; and one that is ended before it says anything."""
    before = set(psutil.Process().children())
    cut_short = PlanSearch(tmp_path, 2)
    assert cut_short.found() is None
    cut_short.close()
    search = PlanSearch(tmp_path, 2)
    with pytest.raises(UserError, match="is not the folder of a run"):
        answer(search)
    search.close()
    assert set(psutil.Process().children()) == before


def test_a_signal_asks_once_and_leaves_others_alone(tmp_path):
    path = tmp_path / REQUEST
    with asked_by_signal(tmp_path):
        os.kill(os.getpid(), signal.SIGUSR2)
        assert path.read_text() == f"{AUTO}\n"
        path.write_text("sp=2")
        os.kill(os.getpid(), signal.SIGUSR2)  # somebody has asked already
        assert path.read_text() == "sp=2"
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
    heard = []
    signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        path.unlink()
        with asked_by_signal(tmp_path):
            os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    assert heard == [signal.SIGUSR2]
    assert not path.exists()


def test_a_signal_to_the_launcher_of_a_run_that_has_one_core_left(tmp_path):
    """The run is told of it between two steps, and goes on under dp=1."""

    def on_step(row):
        if row["step"] == 2:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
            os.kill(os.getppid(), signal.SIGUSR2)

    given = SETTINGS | {"plan": "dp=2", "train.steps": 12, "train.evaluate_every": 0}
    result = start_training("digits", given, str(tmp_path / "run"), on_step=on_step)
    assert (result["plan"], result["world_size"]) == ("dp=1", 1)
    assert not (tmp_path / "run" / REQUEST).exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("words", [AUTO, BETTER])
def test_the_planner_answers_while_the_run_goes_on(tmp_path, two_cores, words):
    """With the real planner, from the first step on: either another plan is taken, or that of the run is said to be good enough."""
    folder = tmp_path / "run"

    def on_step(row):
        if row["step"] == 1:
            (folder / REQUEST).write_text(words)
        elif row["step"] > 5 and not (folder / REQUEST).exists():
            raise EnoughError

    given = SETTINGS | {"plan": "dp=2", "train.steps": 100_000, "train.evaluate_every": 0}
    with pytest.raises(UserError, match="Enough"):
        start_training("digits", given, str(folder), on_step=on_step)
    text = (folder / "log.txt").read_text()
    assert "the best plan of 2 workers is looked for" in text
    answers = ["dp=2, that of the run", "the plan dp=2 becomes"] + (
        ["are asked for"] if words == BETTER else []
    )
    assert any(answer in text for answer in answers)


class EnoughError(Exception):
    pass
