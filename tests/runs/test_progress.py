"""What is said while something takes long: one line that changes on a terminal, a line now and then in a log, nothing else."""

import io
import itertools
import threading

import pytest

from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.formats import find_faults, write_dataset
from ziggurat.runs.log import RunLog
from ziggurat.runs.progress import Meter, Stages, time_left
from ziggurat.tasks.opening import open_dataset


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


def said(stream, seconds_each, total=100):
    """Return what a meter says of so many things that take so long each."""
    clock = itertools.count(0, seconds_each)
    with Meter("evaluation", "images", stream=stream, clock=lambda: next(clock)) as meter:
        for done in range(1, total + 1):
            meter(done, total)
    return stream.getvalue()


def test_what_takes_two_seconds_says_nothing():
    assert said(io.StringIO(), 0.02) == ""
    assert said(Terminal(), 0.02) == ""


def test_a_log_gets_a_line_now_and_then():
    lines = said(io.StringIO(), 0.5).splitlines()
    assert lines == [
        "evaluation: 4/100 images  48 s left",
        "evaluation: 20/100 images  40 s left",
        "evaluation: 36/100 images  32 s left",
        "evaluation: 52/100 images  24 s left",
        "evaluation: 68/100 images  16 s left",
        "evaluation: 84/100 images  8 s left",
    ]


def test_a_terminal_gets_one_line_that_changes_and_goes():
    text = said(Terminal(), 0.5)
    assert "\n" not in text
    assert text.count("\r") > 50
    assert text.endswith("\r\x1b[K"), "what comes next begins at the left of an empty line"


def test_a_reader_that_has_left_ends_nothing():
    assert said(Gone(), 0.5) == ""


def ticked(stream, active=True):
    """Return what is said of two stages of 20 seconds each, with a look at the clock every second."""
    now = [0.0]
    stages = Stages("verify", active, stream, lambda: now[0])
    for second in range(40):
        now[0] = float(second)
        if second % 20 == 0:
            stages(f"stage {second // 20}")
        stages.tick()
    stages.end()
    return stream.getvalue()


def test_a_stage_is_said_with_its_time_also_where_it_is_one_call():
    assert ticked(io.StringIO()).splitlines() == [
        "verify: stage 0  2 s",
        "verify: stage 0  10 s",
        "verify: stage 0  18 s",
        "verify: stage 1  6 s",
        "verify: stage 1  14 s",
    ]
    text = ticked(Terminal())
    assert "\n" not in text
    assert "\rverify: stage 1  19 s\x1b[K" in text
    assert text.endswith("\r\x1b[K")
    assert ticked(io.StringIO(), active=False) == ""
    assert ticked(Gone()) == ""


class Heard(io.StringIO):
    """Lets somebody wait until something is written."""

    def __init__(self):
        super().__init__()
        self.event = threading.Event()

    def write(self, text):
        super().write(text)
        self.event.set()


def test_a_stage_that_computes_is_said_by_a_thread_that_ends_with_it():
    before, stream = threading.active_count(), Heard()
    ticks, is_named = (
        itertools.count(0, 5),
        threading.Event(),
    )  # time stands still until the stage has its name

    def clock():
        return next(ticks) if is_named.is_set() else 0

    with Stages("verify", stream=stream, clock=clock, every=0.001) as stages:
        stages("one long call")
        is_named.set()
        assert stream.event.wait(60)
    assert stream.getvalue().startswith("verify: one long call  ")
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="of the block"), Stages("verify", stream=stream):
        raise ValueError("of the block")
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("seconds", "done", "total", "text"),
    [
        (0, 0, 10, ""),
        (9, 10, 10, ""),
        (10, 1, 2, "  10 s left"),
        (89, 1, 2, "  89 s left"),
        (600, 1, 2, "  10 min left"),
        (7200, 1, 3, "  4.0 h left"),
    ],
)
def test_time_left(seconds, done, total, text):
    assert time_left(seconds, done, total) == text


ROW = {"loss": 1.0, "images_per_second": 8.0, "lr": 0.1}


def test_the_log_of_a_run(tmp_path, capfd):
    with RunLog(tmp_path, 3, 1, True) as log:
        log.evaluation(2, {})
        log.step({"step": 2, **ROW})
        log.step({"step": 3, **ROW})
        log.evaluation(3, {"map": None})
        log.evaluation(3, {"map": 0.5, "map_small": None})
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("no evaluation: the data set has no validation images")
    assert lines[1:] == [
        "step 3/3  8.00 images/s  loss 1.0000  lr 1.00e-01",
        "evaluation: no metric has a value for these images",
        "evaluation: map 0.5000",
    ]
    assert [line.split(" ", 2)[2] for line in (tmp_path / "log.txt").read_text().splitlines()] == lines


def test_other_workers_say_nothing(tmp_path, capfd):
    log = RunLog(tmp_path, 3, 1, False)
    log.watch("evaluation", "images")(1, 2)
    log.evaluation(1, {})
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_converting_and_checking_say_how_far_they_are(tmp_path):
    scenes = open_dataset(
        "digits", "val", "detect", DataConfig(), DigitsConfig(size=64, val_scenes=3, height_max=40)
    )
    steps = []
    write_dataset({"val": scenes}, tmp_path / "set", "coco", "boxes", lambda *step: steps.append(step))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    checked = []
    assert not find_faults(str(tmp_path / "set"), DataConfig(), lambda *step: checked.append(step))[0]
    assert checked == steps
