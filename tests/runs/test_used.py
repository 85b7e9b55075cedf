"""The commands under every plan: train, then evaluate and predict as one worker does."""

import numpy as np
import pytest

from support.commands import metrics_under, noise_images, predictions_under, run, sets
from support.promises import uses, world_of
from support.small_runs import SCENES, SMALL, TASKS
from sweep.bits import numbers
from ziggurat.runs.folder import load_run


@pytest.mark.parametrize("use", [use.param() for use in uses()])
def test_the_commands(tmp_path, capfd, use):
    settings = (
        SMALL
        | TASKS[use.task]
        | dict(use.settings)
        | {"decode.score_threshold": 0.0, "train.report": "pictures"}
    )
    out = tmp_path / "run"
    words = ("--task", use.task, "--plan", use.plan, "--out", out, "--json")
    result = run(capfd, "train", "digits", *words, *sets(settings, SCENES, use.plan), *use.words)
    assert (result["plan"], result["world_size"], result["microbatches"]) == (use.plan, world_of(use.plan), 2)
    assert load_run(out).config.plan == use.plan
    assert {"best.png", "worst.png", "loss.png"} <= {path.name for path in (out / "report").iterdir()}
    if "tp" in use.plan:
        assert "split over tp: " in (out / "log.txt").read_text()

    expected, *others = metrics_under(capfd, out, ("dp=1", *use.evaluated))
    for metrics, tolerance in zip(others, use.evaluated.values(), strict=True):
        assert_metrics(metrics, expected, tolerance)

    images = noise_images(tmp_path, "tif", count=1) if use.is_large_image else noise_images(tmp_path)
    expected, *others = predictions_under(capfd, out, ("dp=1", *use.predicted), images, *use.predict_words)
    assert expected
    if use.is_large_image:
        assert len(expected) == 5
    for rows, tolerance in zip(others, use.predicted.values(), strict=True):
        assert_predictions(rows, expected, tolerance)


def assert_metrics(found, expected, tolerance):
    """Compare metrics; a bound of 0 means the same numbers, of every kind."""
    if not tolerance:
        assert found == expected
        return
    numbers = {name: value for name, value in expected.items() if isinstance(value, float)}
    assert numbers
    assert {name: found[name] for name in numbers} == pytest.approx(numbers, abs=tolerance)


def assert_predictions(found, expected, tolerance):
    """Compare predictions row by row; a bound of 0 means the same text."""
    if not tolerance:
        assert found == expected
        return
    ours, theirs = dict(numbers(found)), dict(numbers(expected))
    assert ours.keys() == theirs.keys()
    exact = {path for path, value in theirs.items() if not isinstance(value, float)}
    assert {path: ours[path] for path in exact} == {path: theirs[path] for path in exact}
    for path in theirs.keys() - exact:
        assert ours[path] == pytest.approx(theirs[path], abs=tolerance, rel=1e-5), path


def test_whole_large_images(trees, tmp_path, capfd):
    """A photograph of 2299 x 742 pixels as one piece: trained on, and found in it what one worker finds."""
    settings = {
        "model.levels": "p4-p6", "model.channels": 8, "model.head_depth": 0, "data.crop": 2304, "data.workers": 0,
        "data.scale_min": 1, "data.scale_max": 1, "decode.score_threshold": 0.0, "decode.max_detections": 50,
        "device": "cpu", "train.warmup": 0,
    }  # fmt: skip
    run_folder, image = tmp_path / "run", trees / "val" / "yellowstone_b.png"
    # one image: the other photograph, and nothing to evaluate on
    result = run(
        capfd, "train", trees / "val.json", "--plan", "sp=2", "--threads", 1, "--batch-size", 1, "--steps", 1,
        "--dtype", "fp32", "--model", "fcos-test_resnet-fpn", "--out", run_folder, "--json", *sets(settings),
    )  # fmt: skip
    assert np.isfinite(result["loss"])
    found = predictions_under(capfd, run_folder, ("dp=1", "sp=2"), [image])
    assert len(found[0]) == len(found[1]) == 50
    boxes = [np.array([row["bbox"] for row in rows]) for rows in found]
    scores = [np.array([row["score"] for row in rows]) for rows in found]
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)
    assert boxes[1] == pytest.approx(boxes[0], abs=1e-2)  # pixels, of 2299: float32
