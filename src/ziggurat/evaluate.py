"""Measuring a detector: every worker runs a part of the images, the first computes the metrics."""

from __future__ import annotations

import time
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ziggurat.config import RunConfig
from ziggurat.data.batch import Objects
from ziggurat.data.dataset import DetectionDataset
from ziggurat.data.formats import open_dataset
from ziggurat.errors import UserError
from ziggurat.inference import ProgressCallback, detect_as_configured
from ziggurat.models.detector import Detector, place_model
from ziggurat.parallel.workers import Workers
from ziggurat.run import Run
from ziggurat.tasks.coco_metric import GroundTruth, coco_metrics
from ziggurat.tasks.detection import DetectionTask, make_task


def evaluate_model(
    model: Detector,
    task: DetectionTask,
    dataset: DetectionDataset,
    config: RunConfig,
    workers: Workers,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Return COCO's metrics of a model on a data set: the same digits on any number of workers.

    Args:
        model: On the worker's device; its mode (training or evaluation) is restored.
        task: Decodes the model's outputs.
        dataset: With the labels of the model.
        config: Of the run: ``data`` says how images are cut, ``decode`` how many detections count.
        workers: All of them call this.
        progress: Called after each batch of this worker.

    Returns:
        As `ziggurat.tasks.coco_metric.coco_metrics`, on every worker.

    Raises:
        UserError: On every worker, listing each image that cannot be decoded.

    Communication:
        One gather of all detections, one broadcast of the metrics.
    """
    found = detect_as_configured(model, task, dataset, config, workers, progress)
    metrics: dict[str, Any] = {}
    if workers.is_first:
        truth = [ground_truth(dataset, index) for index in range(len(dataset))]
        metrics = coco_metrics(truth, found, dataset.classes, config.decode.max_detections)
    return workers.share_of_first(metrics)


def evaluate_run(
    run: Run, config: RunConfig, workers: Workers, progress: ProgressCallback | None = None
) -> dict[str, Any]:
    """Measure a finished run on the validation split of ``data.path``.

    Args:
        run: Its model is moved to the worker's device.
        config: Of this evaluation: it may differ from the run's own in the data and in where it is computed.
        workers: All of them call this.
        progress: Called after each batch of this worker.

    Returns:
        The fields of the command's JSON object: ``metrics``, ``images``, ``seconds``, ``images_per_second``.

    Raises:
        UserError: If the data set has no such split, no images, classes that the run does not know, or images that
            cannot be decoded.
    """
    dataset = open_dataset(config.data.path, "val", config.digits, config.data.max_pixels, run.classes)
    if dataset is None or not len(dataset):
        raise UserError(
            f"{config.data.path} has no images to evaluate on: name a data set with a val split, or an annotation file"
        )
    model = place_model(run.model, workers.device, config.train.channels_last)
    begin = time.perf_counter()
    metrics = evaluate_model(model, make_task(model, config), dataset, config, workers, progress)
    seconds = time.perf_counter() - begin
    return {
        "metrics": metrics,
        "images": len(dataset),
        "seconds": seconds,
        "images_per_second": len(dataset) / seconds,
    }


@runtime_checkable
class _WithCrowds(Protocol):
    """A data set that knows more of its annotations than training needs."""

    def all_objects(self, index: int) -> Objects: ...

    def crowd(self, index: int) -> Tensor: ...

    def areas(self, index: int) -> Tensor: ...


def ground_truth(dataset: DetectionDataset, index: int) -> GroundTruth:
    """Return the annotations of an image; the area of an object is its box's where the data set has no other."""
    if isinstance(dataset, _WithCrowds):
        objects = dataset.all_objects(index)
        areas, crowd = dataset.areas(index), dataset.crowd(index)
    else:
        objects = dataset.objects(index)
        areas = (objects.boxes_xyxy[:, 2:] - objects.boxes_xyxy[:, :2]).prod(dim=1)
        crowd = torch.zeros(len(objects), dtype=torch.bool)
    return GroundTruth(objects.boxes_xyxy, objects.labels, areas, crowd)
