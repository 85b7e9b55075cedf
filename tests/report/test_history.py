"""The numbers of a run, and a smooth curve through them."""

import json

import numpy as np

from support.faked import write_history
from ziggurat.report.history import read_history, smooth
from ziggurat.report.loss_plot import draw_history


def pixels(folder):
    return np.asarray(draw_history(read_history(folder / "metrics.jsonl")))


def is_color(picture, hexadecimal):
    color = [int(hexadecimal[place : place + 2], 16) for place in (1, 3, 5)]
    return (picture == color).all(axis=2)


def test_steps_and_evaluations_are_kept_apart(tmp_path):
    rows = [
        {"kind": "train", "step": 1, "loss": 2.5, "loss_boxes": 1},
        {"kind": "val", "step": 1, "map": 0.25, "map_small": None, "map_per_class": {"a": 1}},
        {"kind": "train", "step": 2, "loss": 1.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    history = read_history(tmp_path / "metrics.jsonl")
    assert history.last_step == 2
    assert history.train["loss"].tolist() == [2.5, 1.5]
    assert np.array_equal(history.train["loss_boxes"], [1, np.nan], equal_nan=True)
    assert {name: values.tolist() for name, values in history.val.items()} == {"step": [1], "map": [0.25]}


def test_a_run_without_a_history(tmp_path):
    history = read_history(tmp_path / "metrics.jsonl")
    assert (history.train, history.val, history.last_step) == ({}, {}, 0)
    assert pixels(tmp_path).std() > 0


def test_smoothing_is_the_mean_of_the_neighbours():
    values = np.random.default_rng(0).random(200)
    expected = [values[max(place - 4, 0) : place + 5].mean() for place in range(200)]
    np.testing.assert_allclose(smooth(values), expected)
    assert smooth(np.array([3.0])).tolist() == [3.0]


def test_every_term_is_drawn_and_metrics_if_there_are_several(tmp_path):
    write_history(tmp_path, evaluations=1)
    one = pixels(tmp_path)
    for color in ("#000000", "#0072B2", "#D55E00"):
        assert is_color(one, color).sum() > 300
    write_history(tmp_path, evaluations=4)
    assert pixels(tmp_path).shape[0] > one.shape[0]


def test_a_single_step_and_very_many(tmp_path):
    for num_steps in (1, 30_000):
        write_history(tmp_path, num_steps, evaluations=1)
        assert is_color(pixels(tmp_path), "#0072B2").sum() > 10


def test_a_loss_that_falls_far_and_one_below_zero(tmp_path):
    for losses in ([1000.0, 1.0, 0.5] * 40, [-1.0, -2.0, float("nan")], [0.0, 0.0]):
        rows = [{"kind": "train", "step": k + 1, "loss": loss, "lr": 0.1} for k, loss in enumerate(losses)]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert is_color(pixels(tmp_path), "#0072B2").sum() > 10
