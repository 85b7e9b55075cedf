"""The metric of detection: COCO's, over the detections of all images."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from ziggurat.data.dataset import Dataset, DetectionDataset, all_annotations, spelling_of
from ziggurat.data.detections import PICTURE_SCORE, Detections
from ziggurat.metrics.base import Metric, overall
from ziggurat.metrics.coco import GroundTruth, coco_metrics
from ziggurat.metrics.confusions import detection_confusion
from ziggurat.metrics.counts import count_by_image
from ziggurat.metrics.curves import count_objects, detection_curves
from ziggurat.metrics.findings import BACKGROUND, ClassRow, Findings
from ziggurat.metrics.mistakes import CELL, Mistakes, detection_mistakes, is_large
from ziggurat.metrics.quality import detection_quality
from ziggurat.metrics.scores import detection_scores, detection_scores_by_class
from ziggurat.tasks.detection.packing import Packed, pack, unpack


class DetectionMetric(Metric[Detections]):
    """Compares detections with annotations.

    Args:
        dataset: Of the annotations.
        max_detections: Most detections of a tile.
    """

    by_class = MappingProxyType({"map": "map_per_class", "map50": "map50_per_class"})

    def __init__(self, dataset: DetectionDataset, max_detections: int) -> None:
        self._dataset = dataset
        self._max_detections = max_detections
        self._found: dict[int, Detections] = {}

    @property
    def found(self) -> list[Detections]:
        """The detections of each image."""
        return [self._found[index] for index in range(len(self._dataset))]

    def update(self, index: int, prediction: Detections) -> None:
        """Take the detections of an image."""
        self._found[index] = prediction

    def state(self) -> tuple[list[int], Packed]:
        """Return the detections of this worker's images."""
        return list(self._found), pack(list(self._found.values()))

    def merge(self, states: Sequence[tuple[list[int], Packed]]) -> None:
        """Take the detections of all images."""
        for indices, packed in states:
            self._found |= dict(zip(indices, unpack(packed), strict=True))

    def compute(self) -> dict[str, Any]:
        """Return what `coco_metrics` says, of all that was found: an image of several tiles may have more than one may."""
        truth, found = self._truth(), self.found
        most = max([self._max_detections, *map(len, found)])
        order = order_of_ids(self._dataset)
        return coco_metrics(
            [truth[index] for index in order],
            [found[index] for index in order],
            self._dataset.classes,
            most,
        )

    def findings(self, metrics: dict[str, Any]) -> Findings:
        """Return average precisions, curves, counts and what is taken for what; an image's quality is its F1."""
        truth, found, classes = self._truth(), self.found, self._dataset.classes
        curves = detection_curves(truth, found, len(classes))
        average = {curve.label: curve.average_precision for curve in curves}
        counts = count_objects(truth, len(classes)).tolist()
        map_by_class = metrics.get("map_per_class", {})
        best_by_class = detection_scores_by_class(truth, found, len(classes))
        rows = [
            ClassRow(
                name,
                counts[label],
                {"AP at IoU 0.5": average.get(label), "AP": map_by_class.get(name)},
                best_by_class[label],
            )
            for label, name in enumerate(classes)
        ]
        scores = detection_scores(truth, found)
        best = None if scores is None else scores.numbers()
        least = PICTURE_SCORE if best is None else best["score"]
        confusion = detection_confusion(truth, found, len(classes))
        return Findings(
            "objects", overall(metrics), rows, confusion, (*classes, BACKGROUND), curves, "Precision and recall at IoU 0.5",
            detection_quality(truth, found), "F1", lambda index: len(truth[index].labels),
            scores, count_by_image(truth, found, len(classes), least), self._mistakes(truth),
        )  # fmt: skip

    def _mistakes(self, truth: Sequence[GroundTruth]) -> list[Mistakes]:
        """Return where large images have objects that were not found, and detections of nothing."""
        extents = [self._dataset.record(index).extent for index in range(len(truth))]
        return [
            Mistakes(index, extent, detection_mistakes(self._found[index], truth[index], extent, CELL))
            for index, extent in enumerate(extents)
            if is_large(extent)
        ]

    def _truth(self) -> list[GroundTruth]:
        return [ground_truth(self._dataset, index) for index in range(len(self._dataset))]


def order_of_ids(dataset: Dataset) -> list[int]:
    """Return the images in the order of their ids, as COCO's own evaluation takes them: it decides between equal scores."""
    ids = [dataset.record(index).image_id for index in range(len(dataset))]
    written = spelling_of(dataset).images
    keys: list[Any] = [written.get(id, id) for id in ids]
    if any(isinstance(key, str) for key in keys):  # words have the order of words
        keys = [str(key) for key in keys]
    return sorted(range(len(ids)), key=keys.__getitem__)


def ground_truth(dataset: DetectionDataset, index: int) -> GroundTruth:
    """Return the annotations of an image; the area of an object is its box's where the data set has no other."""
    every = all_annotations(dataset, index)
    return GroundTruth(every.objects.boxes_xyxy, every.objects.labels, every.areas, every.crowd)
