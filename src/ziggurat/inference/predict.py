"""Running a model on the user's images: results as JSON, and a picture for each image."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ziggurat.config import DataConfig
from ziggurat.data.readers.image_files import ImageFiles, expand_paths, inspect_images, picture_names
from ziggurat.data.readers.sample_range import read_range
from ziggurat.errors import UserError
from ziggurat.inference.predictor import Predictor
from ziggurat.inference.tiles import ProgressCallback
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.tasks.base import Place

RESULTS = "predictions.json"
JPEG_QUALITY = 90


def predict_files(
    predictor: Predictor,
    category_ids: Sequence[int],
    paths: Sequence[str],
    out: Path,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Predict what is on images, and write it.

    Args:
        predictor: All of its workers call this.
        category_ids: The COCO category id of each label.
        paths: Files, folders (their images, not those of folders in them) and globs.
        out: Folder of ``predictions.json``, of the pictures, and of what files the task writes. The results are a list, as
            the task's `rows` has them: of a detector COCO results; of a classifier the best classes of each image; of a
            segmenter each image's mask (a file in ``masks``, whose values are labels) and its pixels by class.
        progress: Called after each batch of this worker.

    Returns:
        The fields of the command's JSON object: ``images``, ``seconds``, ``images_per_second``,
        ``predictions`` (the file), ``pictures`` (the folder), what the task adds (a detector ``detections``); on every
        worker.

    Raises:
        UserError: On every worker: nothing is found under a path, images cannot be decoded (each is listed), or
            `out` cannot be written or would overwrite an image.
    """
    begin = time.perf_counter()
    task, classes, workers = predictor.task, predictor.classes, predictor.mesh.workers
    images, pictures = _agreed_input(paths, predictor.config.data, out, workers)
    mine = {}
    for index, prediction in predictor.predict(images, progress).items():
        place = Place(images.record(index), out, pictures[index].stem, classes, category_ids)
        mine[index] = task.rows(prediction, place)
        save_picture(task.draw(images.image(index), prediction, classes), pictures[index])
    by_image = {index: rows for part in workers.gather(mine) for index, rows in part.items()}
    results = [row for index in sorted(by_image) for row in by_image[index]]
    if workers.is_first:
        (out / RESULTS).write_text(json.dumps(results), encoding="utf-8")
    seconds = time.perf_counter() - begin
    return {
        "images": len(images),
        "seconds": seconds,
        "images_per_second": len(images) / seconds,
        **task.summary(results),
        "predictions": str(out / RESULTS),
        "pictures": str(out),
    }


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture; the file's suffix says the format."""
    picture.save(path, quality=JPEG_QUALITY, compress_level=1)  # JPEG's and PNG's: each ignores the other's


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
