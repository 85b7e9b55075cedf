"""Running a model on the user's images: results as JSON, and a picture for each image."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ziggurat.config import DataConfig, RunConfig, Task
from ziggurat.data.readers.image_files import ImageFiles, expand_paths, inspect_images, picture_names
from ziggurat.data.readers.sample_range import read_range
from ziggurat.errors import UserError
from ziggurat.inference.classify import classify_images
from ziggurat.inference.detect import detect_as_configured
from ziggurat.inference.segment import segment_images
from ziggurat.inference.tiles import ProgressCallback, compute_as_configured, spread_as_configured
from ziggurat.models.vision import VisionModel, place_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import Mesh, make_mesh
from ziggurat.tasks.detection.detections import Detections
from ziggurat.tasks.registry import make_task
from ziggurat.visualize.boxes import draw_caption, draw_detections
from ziggurat.visualize.labels import draw_labels, label_image

RESULTS = "predictions.json"
MASKS = "masks"
TOP = 5  # classes of an image that are written

JPEG_QUALITY = 90


@dataclass(frozen=True)
class _Job:
    """What is predicted, and where it goes.

    Attributes:
        model: On the worker's device.
        task: Of the model.
        images: The same on every worker.
        pictures: The file of each image's picture.
        classes: The name of each label.
        category_ids: The COCO category id of each label.
        config: Of the run.
        mesh: All of its workers have the same job.
        out: The folder of all files.
        progress: Called after each batch of this worker.
    """

    model: VisionModel
    task: Any
    images: ImageFiles
    pictures: list[Path]
    classes: Sequence[str]
    category_ids: Sequence[int]
    config: RunConfig
    mesh: Mesh
    out: Path
    progress: ProgressCallback | None

    @property
    def workers(self) -> Workers:
        """All workers."""
        return self.mesh.workers

    def facts(self, index: int) -> dict[str, Any]:
        """Return what is written of an image, whatever the task."""
        record = self.images.record(index)
        return {"image_id": record.image_id, "file_name": record.name}


Results = tuple[list[dict[str, Any]], dict[str, Any]]


def predict_files(
    model: VisionModel,
    task: Any,
    classes: Sequence[str],
    category_ids: Sequence[int],
    paths: Sequence[str],
    config: RunConfig,
    workers: Workers,
    out: Path,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Predict what is on images, and write it.

    Args:
        model: Is moved to the worker's device.
        task: The task of the model; None makes the one of the config.
        classes: The name of each label.
        category_ids: The COCO category id of each label.
        paths: Files, folders (their images, not those of folders in them) and globs.
        config: Of the run.
        workers: All of them call this.
        out: Folder of ``predictions.json`` and of the pictures. The results are a list: of a detector COCO results; of
            a classifier the best classes of each image; of a segmenter each image's mask (a file in ``masks``, whose
            values are labels) and its pixels by class.
        progress: Called after each batch of this worker.

    Returns:
        The fields of the command's JSON object: ``images``, ``seconds``, ``images_per_second``,
        ``predictions`` (the file), ``pictures`` (the folder), of a detector ``detections``; on every worker.

    Raises:
        UserError: On every worker: nothing is found under a path, images cannot be decoded (each is listed), or
            `out` cannot be written or would overwrite an image.
    """
    begin = time.perf_counter()
    images, pictures = _agreed_input(paths, config.data, out, workers)
    task = task or make_task(model, config)
    mesh = make_mesh(workers, config.plan)
    model = place_model(model, mesh.home, config.train.channels_last)
    spread_as_configured(model, config, mesh)
    job = _Job(model, task, images, pictures, classes, category_ids, config, mesh, out, progress)
    results, fields = _PREDICT[model.task](job)
    if workers.is_first:
        (out / RESULTS).write_text(json.dumps(results), encoding="utf-8")
    workers.barrier()
    seconds = time.perf_counter() - begin
    return {
        "images": len(images),
        "seconds": seconds,
        "images_per_second": len(images) / seconds,
        **fields,
        "predictions": str(out / RESULTS),
        "pictures": str(out),
    }


def _detect(job: _Job) -> Results:
    found = detect_as_configured(job.model, job.task, job.images, job.config, job.mesh, job.progress)
    for index in range(job.workers.rank, len(job.images), job.workers.size):
        picture = draw_detections(job.images.image(index), found[index], job.classes)
        save_picture(picture, job.pictures[index])
    results = coco_results(job.images, found, job.classes, job.category_ids)
    return results, {"detections": sum(len(detections) for detections in found)}


def _classify(job: _Job) -> Results:
    compute = compute_as_configured(job.config, job.mesh, job.progress)
    probabilities = classify_images(job.model, job.images, job.config.data, compute)
    best = probabilities.topk(min(TOP, len(job.classes)), dim=1)
    results = []
    for index, (scores, labels) in enumerate(zip(*(part.tolist() for part in best), strict=True)):
        top = [
            {"category_id": job.category_ids[label], "category": job.classes[label], "score": score}
            for label, score in zip(labels, scores, strict=True)
        ]
        results.append(job.facts(index) | top[0] | {"top": top})
    for index in range(job.workers.rank, len(job.images), job.workers.size):
        row = results[index]
        text = f"{row['category']} {row['score']:.2f}"
        save_picture(
            draw_caption(job.images.image(index), text, int(best.indices[index, 0])), job.pictures[index]
        )
    return results, {}


def _segment(job: _Job) -> Results:
    compute = compute_as_configured(job.config, job.mesh, job.progress)
    labels = segment_images(job.model, job.images, job.config.data, compute)
    masks = job.out / MASKS
    masks.mkdir(exist_ok=True)
    mine = {}
    for index, labels_HW in labels.items():
        mask = masks / f"{job.pictures[index].stem}.png"
        label_image(labels_HW).save(mask)
        save_picture(draw_labels(job.images.image(index), labels_HW, job.classes), job.pictures[index])
        counts = torch.bincount(labels_HW.flatten(), minlength=len(job.classes)).tolist()
        pixels = {name: count for name, count in zip(job.classes, counts, strict=True) if count}
        mine[index] = job.facts(index) | {"mask": str(mask), "pixels": pixels}
    rows = {index: row for part in job.workers.gather(mine) for index, row in part.items()}
    return [rows[index] for index in sorted(rows)], {}


_PREDICT: dict[Task, Callable[[_Job], Results]] = {
    "detect": _detect,
    "classify": _classify,
    "segment": _segment,
}


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture; the file's suffix says the format."""
    picture.save(path, quality=JPEG_QUALITY, compress_level=1)  # JPEG's and PNG's: each ignores the other's


def coco_results(
    images: ImageFiles, found: Sequence[Detections], classes: Sequence[str], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Return every detection as COCO's results have it, with the names of its image and class.

    Boxes are left, top, width and height in pixels; numbers are the shortest that read back as the same float32.
    """
    results = []
    for index, detections in enumerate(found):
        record = images.record(index)
        boxes = detections.boxes_xyxy.clone()
        boxes[:, 2:] -= boxes[:, :2]
        columns = (boxes.numpy(), detections.scores.numpy(), detections.labels.tolist())
        for box, score, label in zip(*columns, strict=True):
            results.append(
                {
                    "image_id": record.image_id,
                    "file_name": record.name,
                    "category_id": category_ids[label],
                    "category": classes[label],
                    "bbox": [float(str(value)) for value in box],
                    "score": float(str(score)),
                }
            )
    return results


def _agreed_input(
    paths: Sequence[str], config: DataConfig, out: Path, workers: Workers
) -> tuple[ImageFiles, list[Path]]:
    """Return the images, and the picture of each, as the first worker finds them; all fail together.

    Communication: one broadcast of the paths and sizes.
    """

    def inspected() -> tuple[ImageFiles, list[Path]]:
        images = inspect_images(expand_paths(paths), config.max_pixels, read_range(config.range))
        return images, _prepare(out, images)

    return workers.decide_on_first(inspected)


def _prepare(out: Path, images: ImageFiles) -> list[Path]:
    """Make the folder and return the file of each picture; no image may be overwritten."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the folder {out}: {error.strerror}; choose another --out") from None
    if not os.access(out, os.W_OK):
        raise UserError(f"cannot write the folder {out}: permission denied; choose another --out")
    pictures = [out / name for name in picture_names(images.paths, images.sizes)]
    inputs = {path.resolve() for path in images.paths}
    if any(picture.resolve() in inputs for picture in pictures):
        raise UserError(f"pictures in {out} would overwrite the images: choose another --out")
    return pictures
