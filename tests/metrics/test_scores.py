"""Precision, recall and F1 over the least score, and counts of each image, against plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ziggurat.data.detections import Detections
from ziggurat.metrics.coco import GroundTruth
from ziggurat.metrics.counts import count_by_image
from ziggurat.metrics.scores import classification_scores, detection_scores, score_curve


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans()), max_size=30), st.integers(1, 40))
def test_each_least_score_is_counted_as_a_loop_does(predictions, num_objects):
    scores = np.array([score / 1000 for score, _ in predictions])
    right = np.array([correct for _, correct in predictions], dtype=bool)
    curve = score_curve(scores, right, num_objects)
    for place in range(0, 1001, 97):
        least = curve.scores[place]
        counted = [correct for score, correct in zip(scores, right, strict=True) if score >= least]
        expected = sum(counted) / len(counted) if counted else float("nan")
        assert curve.precision[place] == pytest.approx(expected, nan_ok=True)
        assert curve.recall[place] == pytest.approx(sum(counted) / num_objects)
    best = curve.numbers()
    assert (best is None) == (not right.any())
    assert (
        best is None or best["f1"] == curve.f1.max() == curve.f1[np.searchsorted(curve.scores, best["score"])]
    )


def truth(*boxes, crowd=()):
    values = torch.tensor([box[:4] for box in boxes], dtype=torch.float32).view(-1, 4)
    labels = torch.tensor([box[4] for box in boxes], dtype=torch.int64)
    is_crowd = torch.tensor([number in crowd for number in range(len(boxes))], dtype=torch.bool)
    return GroundTruth(values, labels, (values[:, 2:] - values[:, :2]).prod(dim=1), is_crowd)


def detections(*rows):
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].long())


SCENE = truth((0, 0, 10, 10, 0), (20, 0, 30, 10, 1), (50, 50, 90, 90, 0), crowd={2})
FOUND = detections(
    (0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.5, 0), (55, 55, 60, 60, 0.95, 0), (20, 0, 30, 10, 0.4, 1)
)


def test_detections_by_hand():
    curve = detection_scores([SCENE], [FOUND])
    at = {least: round(least * 1000) for least in (0.3, 0.45, 0.6)}
    assert [curve.precision[at[least]] for least in at] == pytest.approx(
        [2 / 3, 1 / 2, 1]
    )  # the crowd's is neither
    assert [curve.recall[at[least]] for least in at] == pytest.approx([1, 1 / 2, 1 / 2])
    assert curve.numbers()["f1"] == pytest.approx(0.8)
    assert curve.numbers()["score"] <= 0.4
    assert detection_scores([truth()], [FOUND]) is None


def test_classes_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    curve = classification_scores(probabilities, torch.tensor([0, 0, 1]))
    best = curve.numbers()
    assert 0.6 < best.pop("score") <= 0.7  # above it the one that is wrong does not count
    assert best == pytest.approx({"precision": 1, "recall": 2 / 3, "f1": 0.8})
    assert classification_scores(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)) is None


def test_objects_are_counted_by_image_and_class():
    counts = count_by_image([SCENE, truth()], [FOUND, detections()], 2, 0.45)
    assert counts.annotated.tolist() == [[1, 1], [0, 0]]
    assert counts.found.tolist() == [[3, 0], [0, 0]]
    assert counts.numbers() == {"least_score": 0.45, "annotated": 2, "found": 3, "mean_difference": 0.5}
