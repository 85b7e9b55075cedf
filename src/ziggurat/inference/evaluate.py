"""Measuring a model: every worker runs a part of the images, and each metric is that of all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ziggurat.config import RunConfig, run_task
from ziggurat.data.dataset import CanLeaveOut, Dataset, left_out_of, notes_of
from ziggurat.data.decoding import SpoiledImages
from ziggurat.data.faults import count_left_out
from ziggurat.data.formats.table import Split
from ziggurat.errors import UserError
from ziggurat.inference.limits import cut_off, joined, truncation, truncation_notes
from ziggurat.inference.predictor import Predictor
from ziggurat.inference.run import run_images
from ziggurat.inference.tiles import ProgressCallback
from ziggurat.metrics.base import Metric
from ziggurat.metrics.frequency import by_frequency
from ziggurat.models.vision import VisionModel
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.runs.folder import Run
from ziggurat.strategies.executor import Executor
from ziggurat.strategies.mesh import make_mesh
from ziggurat.tasks.base import CutOff, Task
from ziggurat.tasks.opening import open_dataset


class Evaluation(NamedTuple):
    """What an evaluation has found.

    Attributes:
        metrics: By name; the same on every worker.
        metric: What it was measured by, with the predictions of all workers; None if there was nothing to evaluate on.
        dataset: What it was measured on: without what ``data.on_error`` has left out.
        truncated: What a limit has cut off from the predictions.
        notes: Says so, if there was anything.
    """

    metrics: dict[str, Any]
    metric: Metric[Any] | None
    dataset: Dataset | None = None
    truncated: int = 0
    notes: tuple[str, ...] = ()


def evaluate_model(
    executor: Executor[VisionModel],
    task: Task[Any, Any],
    dataset: Dataset,
    config: RunConfig,
    progress: ProgressCallback | None = None,
    frequency: Sequence[int] = (),
) -> Evaluation:
    """Measure a model that is placed already, as one in training is; see `evaluate`.

    Args:
        executor: The model on its workers, all of which call this; its mode (training or evaluation) is restored.
        task: The task of the model.
        dataset: With the labels of the model.
        config: Of the run: ``data`` says how images are seen, ``decode`` how many detections count.
        progress: Called after each batch of this worker.
        frequency: As for `evaluate`.
    """
    return evaluate(Predictor(executor, task, config), dataset, progress, frequency)


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    progress: ProgressCallback | None = None,
    frequency: Sequence[int] = (),
) -> Evaluation:
    """Measure a model on a data set: the same digits on any number of workers.

    With ``data.on_error=skip`` images that cannot be decoded, or whose annotations cannot, are left out.

    Args:
        predictor: All of its workers call this.
        dataset: With the labels of the model.
        progress: Called after each batch of this worker.
        frequency: How many training images have each class, by which metrics are told, too; empty where that is not known.

    Raises:
        SpoiledImages: On every worker, with each image and each annotation that cannot be decoded.
        UserError: On every worker, if all images are left out.

    Communication:
        That of `run_images`; one gather of what the metric is made of, one broadcast of the metrics. All of it again where
        images are left out.
    """
    while True:
        try:
            return _evaluate_all(predictor, dataset, progress, frequency)
        except SpoiledImages as spoiled:
            if predictor.config.data.on_error == "stop" or not isinstance(dataset, CanLeaveOut):
                raise
            dataset = dataset.without(spoiled.by_index)
            if not len(dataset):
                raise UserError([*spoiled.faults[:1], "no image is left to evaluate on"]) from None


def _evaluate_all(
    predictor: Predictor, dataset: Dataset, progress: ProgressCallback | None, frequency: Sequence[int]
) -> Evaluation:
    metric, faults, cut = predictor.task.metric(dataset), dict[int, str](), dict[int, CutOff]()

    def take(index: int, prediction: Any) -> None:
        cut.update(cut_off(predictor.task, {index: prediction}))
        try:
            metric.update(index, prediction)
        except UserError as error:
            faults[index] = str(error)

    run_images(predictor.task, dataset, predictor.compute(progress), take)
    workers = predictor.mesh.workers
    gathered = workers.gather((metric.state(), faults, cut))
    messages = {index: text for _, by_image, _ in gathered for index, text in by_image.items()}
    if messages:
        raise SpoiledImages(messages)
    metric.merge([state for state, _, _ in gathered])
    every = joined(part for _, _, part in gathered)
    notes = truncation_notes(predictor.task, every, lambda index: dataset.record(index).name)

    def compute() -> dict[str, Any]:
        metrics = metric.compute()
        return metrics | by_frequency(metrics, metric.by_class, dataset.classes, frequency)

    metrics = workers.decide_on_first(compute)
    return Evaluation(metrics, metric, dataset, truncation(every), notes)


def evaluate_run(
    run: Run,
    config: RunConfig,
    workers: Workers,
    split: Split = "val",
    progress: ProgressCallback | None = None,
    others: Sequence[Run] = (),
) -> dict[str, Any]:
    """Measure a finished run, or the average of several, on a split of ``data.path``.

    Args:
        run: Its model is moved to the worker's device.
        config: Of this evaluation: it may differ from the run's own in the data and in where it is computed.
        workers: All of them call this.
        split: Which one.
        progress: Called after each batch of this worker.
        others: Further runs, each with the config of its own evaluation, whose predictions are averaged with the first one's.

    Returns:
        The fields of the command's JSON object: ``split``, ``metrics``, ``images``, ``seconds``, ``images_per_second``,
        ``truncated`` (detections that a limit has cut off), ``skipped`` (what ``data.on_error`` has left out), ``notes``.

    Raises:
        UserError: If the data set has no such split, no images, classes that the run does not know, or images that
            cannot be decoded.
    """
    classes = run.classes or None
    dataset = open_dataset(config.data.path, split, run_task(config), config.data, config.digits, classes)
    if dataset is None or not len(dataset):
        raise UserError(
            f"{config.data.path} has no images to evaluate on: name a data set with a {split} split, or an annotation file"
        )
    if len(dataset.classes) != run.model.num_classes:
        raise UserError(
            f"the data must have the classes of the weights: {config.data.path} has {len(dataset.classes)}, the weights "
            f"{run.model.num_classes}"
        )
    mesh = make_mesh(workers, config.plan)
    predictor = Predictor.of_runs([run._replace(config=config), *others], mesh)
    begin = time.perf_counter()
    evaluation = evaluate(predictor, dataset, progress, run.frequency)
    seconds = time.perf_counter() - begin
    mesh.close()
    dataset = evaluation.dataset or dataset
    skipped = left_out_of(dataset)
    return {
        "split": split,
        "metrics": evaluation.metrics,
        "images": len(dataset),
        "seconds": seconds,
        "images_per_second": len(dataset) / seconds,
        "skipped": {**count_left_out(skipped), "faults": [fault.facts() for fault in skipped]},
        "truncated": evaluation.truncated,
        "notes": [*notes_of(dataset), *evaluation.notes],
    }
