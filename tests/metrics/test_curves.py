"""Precision and recall against pycocotools and scikit-learn."""

import contextlib
import io

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import average_precision_score, precision_recall_curve

from support.scenes import found, random_scenes, truth
from ziggurat.metrics.coco import coco_metrics
from ziggurat.metrics.curves import (
    classification_curves,
    count_objects,
    detection_curves,
    envelope,
    precision_recall,
)

CLASSES = ("a", "b", "c", "never")


def xywh(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def pycocotools_precision(all_truth, all_found):
    """Return COCO's precision at IoU 0.5, shape (101, classes), -1 for a class without objects."""
    annotations, results = [], []
    for image, (objects, detections) in enumerate(zip(all_truth, all_found, strict=True), start=1):
        rows = zip(objects.boxes_xyxy.tolist(), objects.labels.tolist(), objects.crowd.tolist(), strict=True)
        for box, label, crowd in rows:
            row = {"image_id": image, "category_id": label + 1, "bbox": xywh(box), "iscrowd": int(crowd)}
            annotations.append(row | {"id": len(annotations) + 1, "area": xywh(box)[2] * xywh(box)[3]})
        columns = (detections.boxes_xyxy, detections.scores, detections.labels)
        for box, score, label in zip(*(column.tolist() for column in columns), strict=True):
            results.append({"image_id": image, "category_id": label + 1, "bbox": xywh(box), "score": score})
    expected = COCO()
    expected.dataset = {
        "images": [{"id": image} for image in range(1, len(all_truth) + 1)],
        "annotations": annotations,
        "categories": [{"id": label + 1} for label in range(len(CLASSES))],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        expected.createIndex()
        evaluation = COCOeval(expected, expected.loadRes(results), "bbox")
        evaluation.params.iouThrs, evaluation.params.maxDets = np.array([0.5]), [1000]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][0, :, :, 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_detection_is_cocos_precision(seed):
    scenes = random_scenes(seed)
    expected = pycocotools_precision(*scenes)
    curves = detection_curves(*scenes, len(CLASSES))
    assert [curve.label for curve in curves] == [0, 1, 2]
    assert (expected[:, 3] == -1).all()
    for curve in curves:
        assert 0 < curve.average_precision < 1
        np.testing.assert_allclose(curve.precision, expected[:, curve.label], atol=1e-12)


def test_average_precision_is_that_of_the_metrics():
    scenes = random_scenes(7)
    by_class = coco_metrics(*scenes, CLASSES, 1000)["map50_per_class"]
    for curve in detection_curves(*scenes, len(CLASSES)):
        assert curve.average_precision == pytest.approx(by_class[CLASSES[curve.label]], abs=1e-12)


def test_objects_that_nothing_finds_and_detections_of_nothing():
    (curve,) = detection_curves([truth((0, 0, 9, 9, 1))], [found()], 2)
    assert (curve.label, curve.average_precision, curve.precision.tolist()) == (1, 0, [0] * 101)
    assert detection_curves([truth()], [found((0, 0, 9, 9, 0.9, 0))], 2) == []
    assert detection_curves([], [], 2) == []


def test_crowds_are_no_objects():
    assert count_objects([truth((0, 0, 9, 9, 1), (0, 0, 9, 9, 0, True)), truth()], 3).tolist() == [0, 1, 0]


@pytest.mark.parametrize("levels", [5, 10**6])
def test_precision_and_recall_are_scikit_learns(levels):
    generator = np.random.default_rng(levels)
    positive = generator.random(300) < 0.3
    scores = np.round(levels * (generator.random(300) + 0.4 * positive)) / levels
    recall, precision = precision_recall(scores, positive)
    theirs, recalls, _ = precision_recall_curve(positive, scores)
    np.testing.assert_allclose(precision, theirs[-2::-1], atol=1e-12)  # without their last point, recall 0
    np.testing.assert_allclose(recall, recalls[-2::-1], atol=1e-12)


def test_classification_curves_are_scikit_learns():
    generator = torch.Generator().manual_seed(3)
    probabilities = torch.rand((200, 4), generator=generator).softmax(dim=1)
    labels = torch.randint(0, 3, (200,), generator=generator)
    curves = classification_curves(probabilities, labels)
    assert [curve.label for curve in curves] == [0, 1, 2]
    for curve in curves:
        positive, scores = (labels == curve.label).numpy(), probabilities[:, curve.label].numpy()
        assert curve.average_precision == pytest.approx(average_precision_score(positive, scores), abs=1e-12)
        precision, recall, _ = precision_recall_curve(positive, scores)
        best = [precision[recall >= place - 1e-12].max() for place in np.linspace(0, 1, 101)]
        assert (
            np.abs(curve.precision - best) > 1e-9
        ).mean() < 0.02  # recalls that hit a place but for rounding


def test_the_envelope_by_hand():
    curve = envelope(np.array([0.25, 0.5]), np.array([0.6, 0.8]))
    assert curve.tolist() == [0.8] * 51 + [0.0] * 50
