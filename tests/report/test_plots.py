"""Confusion matrices and curves as pictures, by their pixels."""

import numpy as np
import pytest

from ziggurat.metrics.curves import RECALLS, Curve
from ziggurat.report.plots import COLORS, draw_confusion, draw_precision_recall, text


def curves(count):
    return [Curve(k, (1 - RECALLS) * (k + 1) / count, 0.5 * (k + 1) / count) for k in range(count)]


def names(count):
    return [f"class {k}" for k in range(count)]


def has_color(picture, hexadecimal):
    color = [int(hexadecimal[place : place + 2], 16) for place in (1, 3, 5)]
    return (np.asarray(picture) == color).all(axis=2).sum() > 50


@pytest.mark.parametrize("count", [1, 2, 8, 40, 41, 300])
def test_confusion_of_few_and_many_classes(count):
    counts = np.random.default_rng(0).poisson(0.3, (count, count)) + 9 * np.eye(count, dtype=int)
    picture = np.asarray(draw_confusion(counts, names(count), "images"))
    assert picture.dtype == np.uint8
    assert (
        (abs(picture.astype(int) - [8, 48, 107]) < 9).all(axis=2).any()
    )  # the dark end of the colour bar, at least
    assert 300 < min(picture.shape[:2]) <= max(picture.shape[:2]) < 1800


def test_the_diagonal_of_a_perfect_model_is_dark_and_an_empty_row_is_grey():
    dark = (np.asarray(draw_confusion(np.diag([5, 7]), names(2), "images")) == [8, 48, 107]).all(axis=2)
    light = (np.asarray(draw_confusion(np.array([[5, 5], [7, 7]]), names(2), "images")) == [8, 48, 107]).all(
        axis=2
    )
    assert dark.sum() > light.sum() + 10_000
    grey = (np.asarray(draw_confusion(np.array([[5, 0], [0, 0]]), names(2), "images")) == 0xEC).all(axis=2)
    assert grey.sum() > 10_000


def test_nothing_is_counted():
    draw_confusion(np.zeros((3, 3), dtype=int), names(3), "objects")


def test_every_curve_of_few_classes_has_a_color():
    picture = draw_precision_recall(curves(8), names(8), "title")
    assert all(has_color(picture, color) for color in COLORS)


def test_of_many_classes_the_best_and_the_worst_have_one():
    picture = draw_precision_recall(curves(50), names(50), "title")
    assert [has_color(picture, color) for color in COLORS] == [True] * 6 + [False, True]  # black: the mean


def test_no_class_and_a_single_one():
    assert not has_color(draw_precision_recall([], names(2), "title"), COLORS[0])
    assert has_color(draw_precision_recall(curves(1), names(1), "title"), COLORS[0])


def test_names_that_are_formulas_private_or_of_another_script():
    strange = ["_background_", "a$b$c", r"\frac{", "树", "line\nbreak", "x" * 300, "\udcff", "", "%s {0}"]
    draw_confusion(np.eye(9, dtype=int), strange, "images")
    draw_precision_recall(curves(9), strange, "title")
    assert text("树木 $1") == r"?? \$1"


def test_the_same_numbers_give_the_same_pixels():
    counts = np.arange(25).reshape(5, 5)
    pairs = [draw_confusion(counts, names(5), "images") for _ in range(2)]
    pairs += [draw_precision_recall(curves(12), names(12), "title") for _ in range(2)]
    assert pairs[0] == pairs[1]
    assert pairs[2] == pairs[3]
    assert not pairs[0].info
