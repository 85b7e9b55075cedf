"""The whole report of runs of each task, and of runs with nothing to report."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from support.faked import (
    CONFIG,
    FAKES,
    Board,
    Remembered,
    Remembering,
    evaluated,
    fake_detection,
    write_history,
)
from ziggurat.config import override
from ziggurat.data.batch import Objects
from ziggurat.data.detections import Detections
from ziggurat.inference.evaluate import Evaluation
from ziggurat.report import write_report

PICTURES = {
    "detect": {"precision_recall", "scores", "counts"},
    "classify": {"precision_recall", "scores"},
    "segment": set(),
}
"""What else is drawn of each task."""


def report(folder, dataset, evaluation, model, task, board=None, config=CONFIG):
    console = Console(file=io.StringIO(), width=100)
    board = board or Board()
    folder.mkdir(exist_ok=True)
    write_history(folder, num_steps=30)
    files = write_report(
        folder, evaluation, model, task, dataset, config, torch.device("cpu"), board, console
    )
    return files, board, console.file.getvalue()


def pixels(file):
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("task", FAKES)
def test_everything_is_written_shown_and_printed(tmp_path, task):
    files, board, printed = report(tmp_path, *FAKES[task](12))
    names = {"best", "worst", "confusion", "loss"} | PICTURES[task]
    tables = {"metrics": "metrics.json"} | ({"counts_table": "counts.csv"} if task == "detect" else {})
    assert set(files) == names | set(tables)
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert written == {*tables.values(), *(f"{name}.png" for name in names)}
    for name in names:
        shown = board.shown[f"report/{name}"]
        assert (shown.step, shown.format) == (30, "HWC")
        assert np.array_equal(pixels(files[name]), shown.pixels)
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert set("0123456789") <= set(metrics["classes"])
    assert len(metrics["best"]) == len(metrics["worst"]) == 6
    best, worst = ([row["quality"] for row in metrics[kind]] for kind in ("best", "worst"))
    assert best == sorted(best, reverse=True)
    assert worst == sorted(worst)
    assert min(best) >= max(worst)
    assert "the worst first" in printed


def test_numbers_alone(tmp_path):
    config = override(CONFIG, {"train.report": "numbers"})
    whole, _, expected = report(tmp_path / "pictures", *FAKES["detect"](12))
    files, board, printed = report(tmp_path / "numbers", *FAKES["detect"](12), config=config)
    assert files.keys() == {"metrics", "counts_table"}
    assert not board.shown
    assert printed == expected
    assert Path(files["metrics"]).read_text() == Path(whole["metrics"]).read_text()


def test_the_same_bytes_each_time(tmp_path):
    written = []
    for name in ("one", "two"):
        report(tmp_path / name, *fake_detection(5))
        written.append({path.name: path.read_bytes() for path in (tmp_path / name / "report").iterdir()})
    assert written[0] == written[1]


def test_tensorboard_has_the_pictures(tmp_path):
    board = SummaryWriter(str(tmp_path / "events"))
    report(tmp_path, *FAKES["classify"](3), board)
    board.close()
    events = EventAccumulator(str(tmp_path / "events"), size_guidance={"images": 0})
    events.Reload()
    expected = {
        f"report/{name}" for name in ("best", "worst", "confusion", "precision_recall", "scores", "loss")
    }
    assert set(events.Tags()["images"]) == expected
    (event,) = events.Images("report/confusion")
    stored = pixels(io.BytesIO(event.encoded_image_string))
    assert np.array_equal(stored, pixels(tmp_path / "report" / "confusion.png"))


@pytest.mark.parametrize("task", FAKES)
def test_a_single_image(tmp_path, task):
    files, _, _ = report(tmp_path, *FAKES[task](1))
    assert pixels(files["best"]).shape == pixels(files["worst"]).shape


def nothing():
    return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


def test_nothing_is_found(tmp_path):
    dataset, *_ = fake_detection(3)
    report(tmp_path, dataset, *_blind(dataset, [nothing()] * 3))


def test_nothing_is_there(tmp_path):
    dataset, evaluation, *_ = fake_detection(3)
    dataset.objects = lambda index: Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    _, _, printed = report(tmp_path, dataset, *_blind(dataset, evaluation.metric.found))
    assert "map  " in printed
    report(tmp_path, dataset, *_blind(dataset, [nothing()] * 3))


def test_one_class(tmp_path):
    dataset, evaluation, *_ = fake_detection(3)
    inner = dataset.objects
    dataset.classes = ("digit",)
    dataset.objects = lambda index: Objects(inner(index).boxes_xyxy, inner(index).labels * 0)
    found = [Detections(one.boxes_xyxy, one.scores, one.labels * 0) for one in evaluation.metric.found]
    report(tmp_path, dataset, *_blind(dataset, found))


def _blind(dataset, found):
    """Return the evaluation, the model and the task of given detections."""
    model = Remembering(dataset, found, len(dataset.classes))
    task = Remembered(model, CONFIG)
    return evaluated(task, dataset, found), model, task


def test_without_validation_only_the_loss(tmp_path):
    _, _, model, task = fake_detection(1)
    files, board, printed = report(tmp_path, None, Evaluation({}, None), model, task)
    assert (set(files), set(board.shown), printed) == ({"loss"}, {"report/loss"}, "")


def test_the_models_mode_is_kept(tmp_path):
    dataset, evaluation, model, task = fake_detection(2)
    report(tmp_path, dataset, evaluation, model.train(), task)
    assert model.training
