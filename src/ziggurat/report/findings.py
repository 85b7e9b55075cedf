"""What an evaluation says, in a form that is drawn and printed alike for all tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ziggurat.data.dataset import ClassificationDataset, Dataset, DetectionDataset, SegmentationDataset
from ziggurat.inference.evaluate import Evaluation, PixelCounts, ground_truth
from ziggurat.report.confusions import classification_confusion, detection_confusion
from ziggurat.report.curves import Curve, classification_curves, count_objects, detection_curves
from ziggurat.report.quality import classification_quality, detection_quality
from ziggurat.tasks.detection.detections import Detections

BACKGROUND = "(background)"  # in brackets: a class may have this name
MAX_CONFUSED = 50  # pairs of classes that are listed: a matrix of a thousand classes would hide them


@dataclass(frozen=True)
class ClassRow:
    """The numbers of one class.

    Attributes:
        name: Of the class.
        count: Its objects, images or pixels.
        values: In [0, 1], by name, or None where there is nothing to count; the first is what it is validated by.
    """

    name: str
    count: int
    values: dict[str, float | None]


@dataclass(frozen=True)
class Findings:
    """What an evaluation says.

    Attributes:
        unit: What is counted: ``objects``, ``images`` or ``pixels``.
        metrics: Of all classes together, by name.
        rows: Of each class.
        confusion: Rows are the truth, columns the prediction; int64, shape ``(len(labels), len(labels))``.
        labels: Names of the rows of `confusion`.
        curves: Precision over recall of each class that occurs; None where the task has none.
        curve_title: What `curves` are.
        quality: Of each image, in [0, 1], float64, shape ``(images,)``.
        quality_name: What `quality` is.
        richness: How much there is on an image.
    """

    unit: str
    metrics: dict[str, float | None]
    rows: list[ClassRow]
    confusion: np.ndarray
    labels: tuple[str, ...]
    curves: list[Curve] | None
    curve_title: str
    quality: Tensor
    quality_name: str
    richness: Callable[[int], int]


def study(evaluation: Evaluation, dataset: Dataset) -> Findings:
    """Return what an evaluation, on a data set of one image or more, says."""
    metrics = {name: value for name, value in evaluation.metrics.items() if not isinstance(value, dict)}
    predictions = evaluation.predictions
    if isinstance(predictions, PixelCounts):
        assert isinstance(dataset, SegmentationDataset)
        return _of_segmentation(predictions, dataset, metrics)
    if isinstance(predictions, Tensor):
        assert isinstance(dataset, ClassificationDataset)
        return _of_classification(predictions, dataset, metrics)
    assert predictions is not None
    assert isinstance(dataset, DetectionDataset)
    by_class = evaluation.metrics.get("map_per_class", {})
    return _of_detection(predictions, dataset, metrics, by_class)


def _of_detection(
    found: list[Detections],
    dataset: DetectionDataset,
    metrics: dict[str, float | None],
    map_by_class: dict[str, float | None],
) -> Findings:
    classes = dataset.classes
    truth = [ground_truth(dataset, index) for index in range(len(dataset))]
    curves = detection_curves(truth, found, len(classes))
    average = {curve.label: curve.average_precision for curve in curves}
    counts = count_objects(truth, len(classes)).tolist()
    rows = [
        ClassRow(name, counts[label], {"AP at IoU 0.5": average.get(label), "AP": map_by_class.get(name)})
        for label, name in enumerate(classes)
    ]
    confusion = detection_confusion(truth, found, len(classes))
    return Findings(
        "objects", metrics, rows, confusion, (*classes, BACKGROUND), curves, "Precision and recall at IoU 0.5",
        detection_quality(truth, found), "F1", lambda index: len(truth[index].labels),
    )  # fmt: skip


def _of_classification(
    probabilities: Tensor, dataset: ClassificationDataset, metrics: dict[str, float | None]
) -> Findings:
    labels = torch.tensor([dataset.label(index) for index in range(len(dataset))], dtype=torch.int64)
    curves = classification_curves(probabilities, labels)
    average = {curve.label: curve.average_precision for curve in curves}
    confusion = classification_confusion(probabilities, labels)
    rows = [
        ClassRow(name, count, {"recall": recall, "precision": precision, "AP": average.get(label)})
        for label, (name, count, recall, precision, _) in enumerate(_shares(dataset.classes, confusion))
    ]
    return Findings(
        "images", metrics, rows, confusion, dataset.classes, curves, "Precision and recall, each class against the rest",
        classification_quality(probabilities, labels), "probability of the true class", lambda index: 1,
    )  # fmt: skip


def _of_segmentation(
    pixels: PixelCounts, dataset: SegmentationDataset, metrics: dict[str, float | None]
) -> Findings:
    confusion = pixels.confusion.numpy()
    rows = [
        ClassRow(name, count, {"IoU": iou, "recall": recall, "precision": precision})
        for name, count, recall, precision, iou in _shares(dataset.classes, confusion)
    ]
    return Findings(
        "pixels", metrics, rows, confusion, dataset.classes, None, "",
        pixels.quality, "mean IoU", lambda index: len(dataset.mask(index).unique()),
    )  # fmt: skip


def _shares(
    classes: tuple[str, ...], confusion: np.ndarray
) -> list[tuple[str, int, float | None, float | None, float | None]]:
    """Return each class's name, count, recall, precision and IoU."""
    right, true, found = (
        confusion.diagonal().tolist(),
        confusion.sum(axis=1).tolist(),
        confusion.sum(axis=0).tolist(),
    )
    return [
        (name, t, _share(r, t), _share(r, f), _share(r, t + f - r))
        for name, r, t, f in zip(classes, right, true, found, strict=True)
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def numbers(findings: Findings) -> dict[str, Any]:
    """Return the numbers of all classes, and what is confused most, as JSON has them."""
    classes = {row.name: {findings.unit: row.count, **row.values} for row in findings.rows}
    return {"metrics": findings.metrics, "classes": classes, "confused": _most_confused(findings)}


def _most_confused(findings: Findings) -> list[dict[str, Any]]:
    """Return the largest counts beside the diagonal of the confusion matrix, the largest first."""
    wrong = findings.confusion * ~np.eye(len(findings.labels), dtype=bool)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSED].tolist()
    pairs = [divmod(place, len(findings.labels)) for place in largest]
    return [
        {
            "true": findings.labels[true],
            "predicted": findings.labels[predicted],
            findings.unit: int(wrong[true, predicted]),
        }
        for true, predicted in pairs
        if wrong[true, predicted]
    ]
