"""COCO's metrics against pycocotools, and by hand."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ziggurat.data.detections import Detections
from ziggurat.metrics.coco import GroundTruth, coco_metrics

CLASSES = ("cat", "dog", "bird")


def truth(*rows):
    """Each row: x1, y1, x2, y2, label, area, crowd."""
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 7)
    return GroundTruth(values[:, :4], values[:, 4].long(), values[:, 5], values[:, 6].bool())


def found(*rows):
    """Each row: x1, y1, x2, y2, score, label."""
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].long())


def random_scenes(generator, num_images, num_objects):
    """Objects of three sizes, a few of them crowds, and detections: some near an object, some anywhere."""
    expected, results = [], []
    for _ in range(num_images):
        count = int(generator.integers(0, num_objects + 1))
        corner = generator.uniform(0, 400, (count, 2))
        extent = 8 * 2 ** generator.uniform(0, 5, (count, 2))
        boxes = torch.tensor(np.hstack([corner, corner + extent]), dtype=torch.float32)
        labels = torch.tensor(generator.integers(0, 3, count))
        areas = torch.tensor(extent.prod(axis=1) * generator.uniform(0.5, 1, count), dtype=torch.float32)
        expected.append(GroundTruth(boxes, labels, areas, torch.tensor(generator.random(count) < 0.1)))
        near = boxes + torch.tensor(generator.normal(0, 4, (count, 4)), dtype=torch.float32)
        anywhere = torch.tensor(generator.uniform(0, 200, (count // 2, 4)), dtype=torch.float32)
        anywhere[:, 2:] += anywhere[:, :2]
        every = torch.cat([near, anywhere])
        order = torch.tensor(generator.permutation(len(every)), dtype=torch.int64)
        # Scores in steps of 0.05: ties within and across images.
        scores = torch.tensor(generator.integers(1, 20, len(every)) / 20, dtype=torch.float32)
        scores, falling = scores.sort(descending=True, stable=True)
        classes = torch.cat([labels, torch.tensor(generator.integers(0, 3, len(anywhere)))])
        results.append(Detections(every[order][falling], scores, classes[order][falling]))
    return expected, results


def by_pycocotools(expected, results, max_detections):
    """Return precision and recall as pycocotools has them."""
    annotations = [
        {
            "image_id": image, "category_id": int(label), "area": float(area), "iscrowd": int(crowd),
            "bbox": [float(box[0]), float(box[1]), float(box[2]) - float(box[0]), float(box[3]) - float(box[1])],
        }
        for image, one in enumerate(expected)
        for box, label, area, crowd in zip(one.boxes_xyxy, one.labels, one.areas, one.crowd, strict=True)
    ]  # fmt: skip
    rows = [
        {
            "image_id": image, "category_id": int(label), "score": float(score),
            "bbox": [float(box[0]), float(box[1]), float(box[2]) - float(box[0]), float(box[3]) - float(box[1])],
        }
        for image, one in enumerate(results)
        for box, score, label in zip(one.boxes_xyxy, one.scores, one.labels, strict=True)
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = {
            "images": [{"id": image} for image in range(len(expected))],
            "categories": [{"id": label, "name": name} for label, name in enumerate(CLASSES)],
            "annotations": [{"id": n, **a} for n, a in enumerate(annotations, start=1)],
        }
        gt.createIndex()
        evaluation = COCOeval(gt, gt.loadRes(copy.deepcopy(rows)), "bbox")
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def mean(values):
    return float(values[values > -1].mean()) if (values > -1).any() else None


@pytest.mark.parametrize("max_detections", [5, 100, 500])
@pytest.mark.parametrize("seed", [0, 1])
def test_as_pycocotools(seed, max_detections):
    num_objects = {5: 12, 100: 40, 500: 400}[max_detections]
    expected, results = random_scenes(np.random.default_rng(seed), 8, num_objects)
    precision, recall = by_pycocotools(expected, results, max_detections)
    metrics = coco_metrics(expected, results, CLASSES, max_detections)
    reference = {
        "map": mean(precision[:, :, :, 0]),
        "map50": mean(precision[0, :, :, 0]),
        "map75": mean(precision[5, :, :, 0]),
        "map_small": mean(precision[:, :, :, 1]),
        "map_medium": mean(precision[:, :, :, 2]),
        "map_large": mean(precision[:, :, :, 3]),
        "recall": mean(recall[:, :, 0]),
        "recall_small": mean(recall[:, :, 1]),
        "recall_medium": mean(recall[:, :, 2]),
        "recall_large": mean(recall[:, :, 3]),
    }
    assert {name: metrics[name] for name in reference} == pytest.approx(reference, abs=1e-9)
    for label, name in enumerate(CLASSES):
        assert metrics["map_per_class"][name] == pytest.approx(mean(precision[:, :, label, 0]), abs=1e-9)
        assert metrics["map50_per_class"][name] == pytest.approx(mean(precision[0, :, label, 0]), abs=1e-9)
    assert 0.1 < metrics["map50"] < 0.99  # the scenes are neither hopeless nor trivial


def test_by_hand():
    # Two cats. One is found exactly, the other with IoU 0.6: right at thresholds 0.50, 0.55 and 0.60.
    expected = [truth((0, 0, 10, 10, 0, 100, 0)), truth((0, 0, 10, 10, 0, 100, 0))]
    results = [found((0, 0, 10, 10, 0.9, 0)), found((0, 0, 10, 6, 0.8, 0))]
    metrics = coco_metrics(expected, results, CLASSES, 100)
    assert metrics["map50"] == 1.0
    # At the other 7 thresholds precision is 1 up to recall 0.5: 51 of COCO's 101 points.
    assert metrics["map75"] == pytest.approx(51 / 101)
    assert metrics["map"] == pytest.approx((3 + 7 * 51 / 101) / 10)
    assert metrics["recall"] == pytest.approx((3 + 7 * 0.5) / 10)
    assert metrics["map_small"] == metrics["map"]
    assert metrics["map_large"] is None


def test_nothing_is_cut_at_a_hundred_detections():
    boxes = [(10 * n, 10 * m, 10 * n + 8, 10 * m + 8) for n in range(20) for m in range(15)]
    expected = [truth(*((*box, 1, 64, 0) for box in boxes))]
    results = [found(*((*box, 0.5, 1) for box in boxes))]
    assert coco_metrics(expected, results, CLASSES, 300)["map"] == pytest.approx(1)
    assert coco_metrics(expected, results, CLASSES, 100)["recall"] == pytest.approx(1 / 3)


def test_what_is_found_in_a_crowd_is_neither_right_nor_wrong():
    expected = [truth((0, 0, 10, 10, 0, 100, 0), (50, 50, 90, 90, 0, 1600, 1))]
    results = [found((60, 60, 70, 70, 0.9, 0), (70, 70, 80, 80, 0.8, 0), (0, 0, 10, 10, 0.5, 0))]
    assert coco_metrics(expected, results, CLASSES, 100)["map"] == 1.0


def test_nothing_found_is_zero():
    metrics = coco_metrics([truth((0, 0, 10, 10, 0, 100, 0)), truth()], [found(), found()], CLASSES, 100)
    assert metrics["map"] == metrics["map50"] == metrics["recall"] == 0.0


def test_a_class_without_objects_is_none_and_not_in_the_mean():
    expected = [truth((0, 0, 10, 10, 0, 100, 0)), truth()]
    results = [found((0, 0, 10, 10, 0.9, 0)), found((0, 0, 10, 10, 0.9, 2))]
    metrics = coco_metrics(expected, results, CLASSES, 100)
    assert metrics["map_per_class"] == {"cat": 1.0, "dog": None, "bird": None}
    assert metrics["map50_per_class"] == {"cat": 1.0, "dog": None, "bird": None}
    assert metrics["map"] == 1.0


@pytest.mark.parametrize("images", [0, 2])
def test_without_any_object_there_is_nothing_to_measure(images):
    metrics = coco_metrics([truth()] * images, [found((0, 0, 9, 9, 0.9, 0))] * images, CLASSES, 100)
    assert metrics["map"] is None
    assert metrics["map_per_class"] == dict.fromkeys(CLASSES)


def test_images_without_objects_count_against_precision():
    expected = [truth((0, 0, 10, 10, 0, 100, 0)), truth()]
    results = [found((0, 0, 10, 10, 0.5, 0)), found((0, 0, 10, 10, 0.9, 0))]
    assert coco_metrics(expected, results, CLASSES, 100)["map"] == pytest.approx(0.5)


def test_quiet_and_fit_for_json(capfd):
    expected, results = random_scenes(np.random.default_rng(3), 2, 5)
    json.dumps(coco_metrics(expected, results, CLASSES, 100), allow_nan=False)
    assert capfd.readouterr() == ("", "")


def test_images_must_correspond():
    with pytest.raises(ValueError, match="got 1 and 2"):
        coco_metrics([truth()], [found(), found()], CLASSES, 100)
