"""A run that asks the planner by itself: when it does, what it takes, and that it does not hunt; the planner is a fake, steps are numbers."""

from __future__ import annotations

import dataclasses
import itertools
import pickle

import pytest

from ziggurat.config import RunConfig, definition_sha256, override
from ziggurat.errors import UserError
from ziggurat.parallel.runtime.crew import Line
from ziggurat.strategies.effects import check_effects
from ziggurat.strategies.plan import parse_plan
from ziggurat.training.plan_requests import BETTER, Requests
from ziggurat.training.plan_search import Searches, better_than
from ziggurat.training.replanning import HOLDS, MARGIN, MOST_MARGIN, WINDOW, Replanning, replan_fault

EVERY = 50
CONFIG = override(
    RunConfig(),
    {
        "plan": "dp=4", "threads": 1, "device": "cpu", "train.batch_size": 8, "train.microbatches": 4, "data.crop": 64,
        "pipeline.replan": "changes", "pipeline.replan_every": EVERY,
    },
)  # fmt: skip


class Planner:
    """A planner whose forecasts are a table, and whose answer takes some steps; each of its searches is noted."""

    def __init__(self, seconds, takes=3):
        self.seconds, self.takes, self.searches = seconds, takes, []

    def __call__(self, folder, num_workers, shape):
        self.searches.append((num_workers, shape))
        return Answer(self, num_workers)

    def rows(self, num_workers):
        found = [
            {"plan": plan, "settings": {}, "step_seconds": seconds}
            for plan, seconds in self.seconds.items()
            if parse_plan(plan).num_workers == num_workers
        ]
        return sorted(found, key=lambda row: row["step_seconds"])


class Answer:
    def __init__(self, planner, num_workers):
        self.planner, self.num_workers, self.left = planner, num_workers, planner.takes

    def found(self):
        self.left -= 1
        return None if self.left > 0 else {"plans": self.planner.rows(self.num_workers), "left": []}

    def close(self):
        pass


class Run:
    """A run that does nothing but ask: as `Session` does it, with its plan and the steps after which that has changed."""

    def __init__(self, folder, planner, config=CONFIG):
        self.folder, self.planner = folder, planner
        self.cores, self.crop, self.done = 4, (64, 64), 0
        self.changes, self.said = [], []
        self.begin(config, Replanning.of(config))

    def begin(self, config, replanning):
        self.config = config
        self.requests = Requests(
            self.folder, config, replanning, lambda step: self.crop, Line(None), start_search=self.planner,
            cores=lambda: self.cores,
        )  # fmt: skip

    def steps(self, count, cores=None, crop=None):
        """Take steps with so many cores, with images of a size."""
        self.cores, self.crop = cores or self.cores, crop or self.crop
        for _ in range(count):
            if self.requests.look(self.done):
                found = self.requests.found
                self.said += self.requests.news
                self.requests.news.clear()
                assert self.requests.take_away() == ""
                if isinstance(found, str):
                    self.said.append(found)
                else:
                    self.changes.append((self.done, found.plan))
                    # as a change of plan hands it over, also to another process
                    handed_over = pickle.dumps(self.requests.replanning)
                    self.begin(found, pickle.loads(handed_over))  # noqa: S301 - written by the line before
            self.done += 1


# seconds of a step with two cores: four workers on them are slow
TWO_CORES = {"dp=4": 4.0, "dp=2": 2.0, "sp=2": 3.0}


def test_other_cores_that_stay_are_answered_by_the_better_plan(tmp_path):
    run = Run(tmp_path, Planner(TWO_CORES))
    run.steps(200)
    assert (run.changes, run.planner.searches) == ([], [])
    run.steps(100, cores=2)
    ((step, plan),) = run.changes
    assert plan == "dp=2"
    assert 200 + HOLDS <= step <= 200 + HOLDS + 2 * run.planner.takes + 1
    assert run.planner.searches == [(2, ""), (4, "")], (
        "as many as there are cores, and as many as the run has"
    )
    assert any(
        "a step under dp=2 is forecast to take 2 s, and under dp=4 4 s: better by 50%" in said
        for said in run.said
    )
    assert not run.requests.path.exists()
    run.steps(1000)
    assert len(run.changes) == 1
    assert len(run.planner.searches) == 2, "what is there has not changed since"


def test_cores_that_come_back_at_once_are_not_asked_about(tmp_path):
    run = Run(tmp_path, Planner(TWO_CORES))
    run.steps(200)
    for _ in range(50):
        run.steps(HOLDS - 1, cores=2)
        run.steps(20, cores=4)
    assert (run.changes, run.planner.searches, run.said) == ([], [], [])


def test_cores_that_come_and_go_change_the_plan_once_in_so_many_steps(tmp_path):
    """Each time the planner finds another plan much better: the run may follow, and not more often than it is allowed to."""
    planner = Planner(TWO_CORES)
    run = Run(tmp_path, planner)
    run.steps(200)
    for turn in range(40):
        cores = 4 if turn % 2 else 2
        planner.seconds = TWO_CORES if cores == 2 else {"dp=4": 1.0, "dp=2": 2.0}
        run.steps(17, cores=cores)
    steps = [step for step, _ in run.changes]
    assert len(steps) > 1
    assert all(after - before >= EVERY for before, after in itertools.pairwise(steps))
    assert all(one != other for (_, one), (_, other) in itertools.pairwise(run.changes))


@pytest.mark.parametrize(
    ("gain", "times_taken"),
    [
        (MARGIN - 0.01, 0),  # never enough
        (MARGIN + 0.01, 1),  # once there: to come back asks for twice as much
        (MOST_MARGIN + 0.01, 6),  # much better is taken each time
    ],
)
def test_what_is_a_little_better_now_and_then_is_not_followed_for_long(tmp_path, gain, times_taken):
    planner = Planner({})
    run = Run(tmp_path, planner)
    run.steps(EVERY)
    for turn in range(6):
        few = turn % 2 == 0
        planner.seconds = {"dp=4": 1.0 if few else 1.0 - gain, "dp=3": 1.0 - gain if few else 1.0}
        run.steps(3 * EVERY, cores=3 if few else 4)
    assert len(run.changes) == times_taken
    said = [line for line in run.said if "are asked for" in line]
    assert (times_taken == 6) == (not said)


def test_a_question_about_what_is_gone_is_dropped_and_asked_again(tmp_path):
    run = Run(tmp_path, Planner(TWO_CORES, takes=10))
    run.steps(200)
    run.steps(HOLDS + 3, cores=2)  # it looks
    assert len(run.planner.searches) == 1
    run.steps(EVERY // 2, cores=3)
    assert "something else meanwhile" in run.said[-1]
    assert run.changes == []
    assert not run.requests.path.exists()
    run.steps(2 * EVERY, cores=2)
    assert [plan for _, plan in run.changes] == ["dp=2"]


def test_who_calls_it_off_is_not_asked_again_for_the_same(tmp_path):
    run = Run(tmp_path, Planner(TWO_CORES, takes=10))
    run.steps(200)
    run.steps(HOLDS + 3, cores=2)
    assert run.requests.path.read_text() == f"{BETTER}\n"
    run.requests.path.unlink()
    run.steps(500)
    assert (run.changes, len(run.planner.searches)) == ([], 1)


def test_a_plan_that_somebody_names_stays_until_something_changes(tmp_path):
    run = Run(tmp_path, Planner(TWO_CORES))
    run.steps(200)
    run.requests.path.write_text("sp=2")
    run.steps(500)
    assert run.changes == [(200, "sp=2")]
    assert run.planner.searches == []
    run.steps(500, cores=2)
    assert [plan for _, plan in run.changes] == ["sp=2", "dp=2"]


def test_other_images_are_a_change_and_the_planner_is_told_of_them(tmp_path):
    """Sizes that are drawn anew for each step are one size on average."""
    planner = Planner({"dp=4": 4.0, "sp=4": 1.0})
    run = Run(tmp_path, planner)
    for turn in range(200):
        run.steps(1, crop=(32, 96) if turn % 2 else (96, 32))
    assert planner.searches == []
    run.steps(3 * WINDOW, crop=(128, 160))
    assert [plan for _, plan in run.changes] == ["sp=4"]
    ((count, shape),) = planner.searches
    assert count == 4
    images, bands, rows, columns = (int(side) for side in shape.split("x"))
    assert (images, bands) == (8, 3)
    assert (rows, columns) == (128, 160)
    run.steps(1000)
    assert len(run.changes) == 1


def test_who_is_killed_leaves_the_question_to_who_goes_on(tmp_path):
    run = Run(tmp_path, Planner(TWO_CORES, takes=10))
    run.steps(200)
    run.steps(HOLDS + 3, cores=2)
    again = Run(tmp_path, Planner(TWO_CORES))
    again.steps(10, cores=2)
    assert [plan for _, plan in again.changes] == ["dp=2"]


def test_after_the_last_step_only_questions_of_others_are_told(tmp_path):
    run = Run(tmp_path, Planner(TWO_CORES, takes=1000))
    run.steps(200)
    run.steps(HOLDS + 3, cores=2)
    assert run.requests.path.exists()
    assert not run.requests.look_late()
    assert not run.requests.path.exists()
    run.requests.path.write_text("dp=2")
    assert run.requests.look_late()
    assert run.requests.path.exists()


def test_a_folder_that_takes_no_file_is_told_and_tried_again(tmp_path):
    run = Run(tmp_path / "gone", Planner(TWO_CORES))
    run.steps(200)
    run.steps(EVERY, cores=2)
    assert len([said for said in run.requests.news if "cannot be written" in said]) == 1
    (tmp_path / "gone").mkdir()
    run.steps(2 * EVERY)
    assert [plan for _, plan in run.changes] == ["dp=2"]


def test_never_is_the_default_and_looks_at_nothing(tmp_path):
    def cores():
        raise AssertionError

    config = override(CONFIG, {"pipeline.replan": "never", "pipeline.replan_every": 100})
    assert RunConfig().pipeline.replan == "never"
    run = Run(tmp_path, Planner(TWO_CORES), config)
    run.requests.cores = cores
    run.steps(300)
    assert (run.changes, run.planner.searches) == ([], [])
    assert definition_sha256(config) == definition_sha256(CONFIG), "a run may begin to ask, or stop it"


OWN = {"plan": "dp=4", "settings": {}}


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"plans": [OWN | {"step_seconds": 1.0}], "left": []}, "it is dp=4, that of the run"),
        ({"plans": [], "left": []}, "no plan that was found goes with the settings"),
        (
            {"plans": [{"plan": "dp=2", "settings": {}, "step_seconds": 1.0}], "left": []},
            "cannot say what a step under dp=4 takes",
        ),
        (
            {"plans": [{"plan": "dp=2", "settings": {}, "step_seconds": 1.0}], "left": [OWN | {"least_seconds": 1.1}]},
            "better by 9%, where 15% are asked for",
        ),
    ],
)  # fmt: skip
def test_why_a_plan_is_not_taken(found, says):
    with pytest.raises(UserError, match=says):
        better_than(found, CONFIG, Replanning.of(CONFIG).margin)


def test_a_plan_that_was_left_as_too_slow_has_a_least_time(tmp_path):
    rows = [{"plan": "dp=2", "settings": {}, "step_seconds": 1.0}]
    better = better_than(
        {"plans": rows, "left": [OWN | {"least_seconds": 2.0}]}, CONFIG, Replanning.of(CONFIG).margin
    )
    assert (better.plan, better.own_seconds, better.gain) == ("dp=2", 2.0, 0.5)


def test_each_number_of_workers_is_looked_for_once_one_after_the_other():
    planner = Planner({"dp=2": 2.0, "dp=3": 1.0, "sp=3": 3.0}, takes=2)
    searches = Searches(lambda count: planner(None, count, ""), [3, 2, 3])
    assert [searches.found() for _ in range(2)] == [None, None]
    assert planner.searches == [(3, ""), (2, "")]
    assert searches.found() is None
    assert [row["plan"] for row in searches.found()["plans"]] == ["dp=3", "dp=2", "sp=3"]


@pytest.mark.parametrize(
    ("settings", "world", "says"),
    [
        ({}, 2, "under torchrun"),
        ({"device": "cuda"}, None, "on GPUs"),
        ({"local_sgd.replicas": 4}, None, "replicas"),
    ],
)
def test_where_living_changes_are_refused_it_is_refused_by_name(settings, world, says):
    config = override(CONFIG, settings)
    fault = replan_fault(config, world)
    assert fault is not None
    assert "plan.replan=changes" in fault
    assert says in fault
    never = dataclasses.replace(config.pipeline, replan="never")
    assert replan_fault(dataclasses.replace(config, pipeline=never), world) is None
    assert replan_fault(CONFIG, None) is None


def test_how_often_it_asks_has_no_effect_without_asking():
    config = override(
        RunConfig(),
        {"task": "detect", "model.name": "fcos-resnet50-fpn", "plan": "dp=2", "pipeline.replan_every": 7},
    )
    with pytest.raises(UserError, match=r"replan_every has no effect without plan\.replan=changes"):
        check_effects(config, {"pipeline.replan_every": 7})
