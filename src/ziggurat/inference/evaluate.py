"""Measuring a model: every worker runs a part of the images, and each metric is that of all of them."""

from __future__ import annotations

import time
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ziggurat.config import RunConfig, Task
from ziggurat.data.batch import Objects
from ziggurat.data.dataset import ClassificationDataset, Dataset, DetectionDataset, SegmentationDataset
from ziggurat.data.formats import open_dataset
from ziggurat.errors import UserError
from ziggurat.inference.classify import classify_images
from ziggurat.inference.detect import detect_as_configured
from ziggurat.inference.segment import segment_images
from ziggurat.inference.tiles import ProgressCallback, compute_as_configured, spread_as_configured
from ziggurat.metrics.coco import GroundTruth, coco_metrics
from ziggurat.metrics.confusion import confusion_matrix, image_quality, segmentation_metrics
from ziggurat.models.vision import VisionModel, place_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.runs.folder import Run
from ziggurat.strategies.mesh import Mesh, make_mesh
from ziggurat.tasks.classification.task import classification_metrics
from ziggurat.tasks.detection.detections import Detections
from ziggurat.tasks.detection.task import DetectionTask
from ziggurat.tasks.registry import make_task

# The metric that a task is validated by.
MAIN_METRIC: dict[Task, str] = {"detect": "map50", "classify": "top1", "segment": "miou"}


class PixelCounts(NamedTuple):
    """What is known of a segmentation.

    Attributes:
        confusion: Pixels by true and by predicted class, int64, shape ``(K, K)``.
        quality: How good each image's labels are, in [0, 1], float64, shape ``(images,)``.
    """

    confusion: Tensor
    quality: Tensor


class Evaluation(NamedTuple):
    """What an evaluation has found.

    Attributes:
        metrics: By name; the same on every worker.
        predictions: The detections of each image; the probabilities of each image, shape ``(images, K)``; or the
            counts of pixels; None if there was nothing to evaluate on. On every worker.
    """

    metrics: dict[str, Any]
    predictions: list[Detections] | Tensor | PixelCounts | None


def evaluate_model(
    model: VisionModel,
    task: Any,
    dataset: Dataset,
    config: RunConfig,
    mesh: Mesh,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Measure a model on a data set: the same digits on any number of workers.

    Args:
        model: On the worker's device; its mode (training or evaluation) is restored.
        task: The task of the model.
        dataset: With the labels of the model.
        config: Of the run: ``data`` says how images are seen, ``decode`` how many detections count.
        mesh: All of its workers call this.
        progress: Called after each batch of this worker.

    Raises:
        UserError: On every worker, listing each image that cannot be decoded.

    Communication:
        One gather of all predictions (of a segmentation: of its counts), one broadcast of the metrics.
    """
    if model.task == "detect":
        assert isinstance(dataset, DetectionDataset)
        return _evaluate_detection(model, task, dataset, config, mesh, progress)
    if model.task == "classify":
        assert isinstance(dataset, ClassificationDataset)
        return _evaluate_classification(model, dataset, config, mesh, progress)
    assert isinstance(dataset, SegmentationDataset)
    return _evaluate_segmentation(model, dataset, config, mesh, progress)


def _evaluate_detection(
    model: VisionModel,
    task: DetectionTask,
    dataset: DetectionDataset,
    config: RunConfig,
    mesh: Mesh,
    progress: ProgressCallback | None,
) -> Evaluation:
    found = detect_as_configured(model, task, dataset, config, mesh, progress)
    metrics: dict[str, Any] = {}
    if mesh.workers.is_first:
        truth = [ground_truth(dataset, index) for index in range(len(dataset))]
        metrics = coco_metrics(truth, found, dataset.classes, config.decode.max_detections)
    return Evaluation(mesh.workers.broadcast_object(metrics), found)


def _evaluate_classification(
    model: VisionModel,
    dataset: ClassificationDataset,
    config: RunConfig,
    mesh: Mesh,
    progress: ProgressCallback | None,
) -> Evaluation:
    compute = compute_as_configured(config, mesh, progress)
    probabilities = classify_images(model, dataset, config.data, compute)
    labels = torch.tensor([dataset.label(index) for index in range(len(dataset))], dtype=torch.int64)
    return Evaluation(classification_metrics(probabilities, labels, dataset.classes), probabilities)


def _evaluate_segmentation(
    model: VisionModel,
    dataset: SegmentationDataset,
    config: RunConfig,
    mesh: Mesh,
    progress: ProgressCallback | None,
) -> Evaluation:
    num_classes = len(dataset.classes)
    total = torch.zeros((num_classes, num_classes), dtype=torch.int64)
    quality: dict[int, float] = {}
    faults: dict[int, str] = {}
    labels = segment_images(model, dataset, config.data, compute_as_configured(config, mesh, progress))
    for index, predicted in labels.items():
        try:
            confusion = confusion_matrix(predicted, dataset.mask(index), num_classes)
        except UserError as error:
            faults[index] = str(error)
            continue
        total += confusion
        quality[index] = image_quality(confusion)
    gathered = mesh.workers.gather((total, quality, faults))
    messages = {index: text for _, _, by_image in gathered for index, text in by_image.items()}
    if messages:
        raise UserError([messages[index] for index in sorted(messages)])
    total = torch.stack([one for one, _, _ in gathered]).sum(dim=0)  # whole numbers: exact in any order
    by_image = {index: value for _, part, _ in gathered for index, value in part.items()}
    values = torch.tensor([by_image[index] for index in range(len(dataset))], dtype=torch.float64)
    return Evaluation(segmentation_metrics(total, dataset.classes), PixelCounts(total, values))


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
    classes = run.classes or None
    dataset = open_dataset(config.data.path, "val", run.model.task, config.data, config.digits, classes)
    if dataset is None or not len(dataset):
        raise UserError(
            f"{config.data.path} has no images to evaluate on: name a data set with a val split, or an annotation file"
        )
    if len(dataset.classes) != run.model.num_classes:
        raise UserError(
            f"the data must have the classes of the weights: {config.data.path} has {len(dataset.classes)}, the weights "
            f"{run.model.num_classes}"
        )
    mesh = make_mesh(workers, config.plan)
    model = place_model(run.model, mesh.home, config.train.channels_last)
    spread_as_configured(model, config, mesh)
    begin = time.perf_counter()
    metrics = evaluate_model(model, make_task(model, config), dataset, config, mesh, progress).metrics
    seconds = time.perf_counter() - begin
    mesh.close()
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
