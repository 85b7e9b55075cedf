"""Precision, recall and F1 over the least score, and counts of each image, against plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.faked import fake_detection
from ziggurat.data.detections import Detections
from ziggurat.metrics.coco import GroundTruth
from ziggurat.metrics.counts import count_by_image
from ziggurat.metrics.matching import match
from ziggurat.metrics.scores import (
    classification_scores,
    classification_scores_by_class,
    detection_scores,
    detection_scores_by_class,
    score_curve,
)
from ziggurat.tasks.detection.metric import ground_truth


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


def best_of(predictions, num_objects):
    """Try every least score of three digits: of (score, right), and return the best F1."""
    best = 0.0
    for least in range(1001):
        counted = [right for score, right in predictions if score >= least / 1000]
        best = max(best, 2 * sum(counted) / (len(counted) + num_objects))
    return best


@pytest.mark.parametrize("seed", range(3))
def test_each_class_by_itself_as_a_loop_does(seed):
    dataset, evaluation, *_ = fake_detection(6, seed)
    found = evaluation.metric.found
    truths = [ground_truth(dataset, index) for index in range(6)]
    by_class = detection_scores_by_class(truths, found, 11)
    assert by_class[10] is None  # no object has it
    for label in range(10):
        predictions, objects = [], 0
        for one, there in zip(found, truths, strict=True):
            chosen = one.labels == label
            mine = Detections(one.boxes_xyxy[chosen], one.scores[chosen], one.labels[chosen])
            right = match(mine, there, same_class=True) >= 0
            predictions += zip(mine.scores.double().tolist(), right.tolist(), strict=True)
            objects += int((there.labels == label).sum())
        expected = best_of(predictions, objects) if objects else 0.0
        assert (by_class[label] is None) == (expected == 0)
        if by_class[label] is not None:
            assert by_class[label]["f1"] == pytest.approx(expected)
            assert set(by_class[label]) == {"score", "precision", "recall", "f1"}
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(40, 4, generator=generator).mul(2).softmax(1)
    labels = torch.randint(0, 3, (40,), generator=generator)
    named = probabilities.argmax(1)
    for label, best in enumerate(classification_scores_by_class(probabilities, labels)):
        mine = [
            (float(row.double().max()), bool(labels[index] == label))
            for index, row in enumerate(probabilities)
            if named[index] == label
        ]
        number = int((labels == label).sum())
        assert (best or {"f1": 0.0})["f1"] == pytest.approx(best_of(mine, number) if number else 0.0)
    assert classification_scores_by_class(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) == [None] * 3


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
