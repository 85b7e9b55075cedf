"""Running a model on the user's images: results as JSON and CSV, and a picture for each image."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ziggurat.data.dataset import Dataset, Spelling
from ziggurat.errors import UserError
from ziggurat.inference.asked import Asked, ask_for_dataset, ask_for_files, with_remedy, without
from ziggurat.inference.limits import cut_off, joined, truncation, truncation_notes
from ziggurat.inference.outputs.base import Target
from ziggurat.inference.outputs.registry import TABLES as DEFAULT_FORMATS
from ziggurat.inference.outputs.writing import Outputs
from ziggurat.inference.predictor import Predictor
from ziggurat.inference.result_files import RESULTS, SKIPPED, TABLE, write_skipped, write_table
from ziggurat.inference.tiles import ProgressCallback
from ziggurat.runs.progress import Meter
from ziggurat.system.writing import Pictures, files_of, write_text
from ziggurat.tasks.base import CutOff, Place

JPEG_QUALITY = 90


def predict_files(
    predictor: Predictor,
    category_ids: Sequence[int],
    paths: Sequence[str | os.PathLike[str]],
    out: Path,
    progress: ProgressCallback | None = None,
    *,
    overwrite: bool = False,
    formats: Sequence[str] = DEFAULT_FORMATS,
) -> dict[str, Any]:
    """Predict what is on images, and write it; see `predict_asked`.

    Args:
        predictor: All of its workers call this.
        category_ids: The COCO category id of each label.
        paths: Files, folders (with the folders in them) and globs.
        out: Folder of all that is written.
        progress: Called after each batch of this worker.
        overwrite: Whether results of before, which lie in `out`, are replaced.
        formats: What results are written as (`inference.outputs`): the list in ``predictions.json`` always, the table if ``csv`` is among them.

    Communication: one broadcast of the paths and sizes.
    """
    config = predictor.config.data
    asked = predictor.mesh.workers.decide_on_first(lambda: ask_for_files(paths, category_ids, config))
    return predict_asked(predictor, asked, out, progress, overwrite=overwrite, formats=formats)


def predict_dataset(
    predictor: Predictor,
    dataset: Dataset,
    out: Path,
    progress: ProgressCallback | None = None,
    *,
    overwrite: bool = False,
    formats: Sequence[str] = DEFAULT_FORMATS,
) -> dict[str, Any]:
    """Predict what is on the images of a data set, with its ids of images and categories, and write it; see `predict_asked`.

    Args:
        predictor: All of its workers call this.
        dataset: With the labels of the model.
        out: Folder of all that is written.
        progress: Called after each batch of this worker.
        overwrite: Whether results of before, which lie in `out`, are replaced.
        formats: What results are written as (`inference.outputs`): the list in ``predictions.json`` always, the table if ``csv`` is among them.
    """
    asked = ask_for_dataset(dataset, predictor.config.data)
    return predict_asked(predictor, asked, out, progress, overwrite=overwrite, formats=formats)


def predict_asked(
    predictor: Predictor,
    asked: Asked,
    out: Path,
    progress: ProgressCallback | None = None,
    *,
    overwrite: bool = False,
    formats: Sequence[str] = DEFAULT_FORMATS,
) -> dict[str, Any]:
    """Predict what is on images, and write it.

    Args:
        predictor: All of its workers call this.
        asked: The same on every worker.
        out: Folder of ``predictions.json``, ``predictions.csv``, of the pictures, and of what files the task writes. The results
            are a list, as the task's `rows` has them: of a detector COCO results; of a classifier the best classes of each
            image; of a segmenter each image's mask (a file in ``masks``, whose values are labels) and its pixels by class.
            The table has a line for each of them, as the task's `table` has it. With ``data.on_error=skip``, images that were left
            out are listed in ``skipped.jsonl``.
        progress: Called after each batch of this worker.
        overwrite: Whether results of before, which lie in `out`, are replaced.
        formats: What results are written as (`inference.outputs`): the list in ``predictions.json`` always, the table if ``csv`` is among them.

    Returns:
        The fields of the command's JSON object: ``images``, ``skipped``, ``seconds``, ``images_per_second``,
        ``truncated`` (detections that a limit has cut off), ``predictions`` and ``table`` (the files; None where it is not written),
        ``files`` (those of the other formats), ``pictures`` (the folder), ``notes``, what the task adds (a detector
        ``detections``); on every worker.

    Raises:
        UserError: On every worker: images cannot be decoded (each is listed), or all of them where they are skipped, or
            `out` cannot be written, holds results already or would have an image overwritten.

    Communication: that of `run_images`, and one gather of the results.
    """
    begin = time.perf_counter()
    task, classes, workers = predictor.task, predictor.classes, predictor.mesh.workers
    outputs = Outputs(formats, Target(out, classes, asked.category_ids, task.lies_on))
    workers.decide_on_first(lambda: outputs.check(asked.images))
    workers.decide_on_first(lambda: _prepare(out, asked, overwrite))
    spoiled: dict[int, str] | None = {} if predictor.config.data.on_error == "skip" else None
    try:
        found = predictor.predict(asked.images, progress, spoiled)
    except UserError as error:
        raise UserError(with_remedy(error.faults)) from None
    numbers = [index for index in range(len(asked.images)) if index not in (spoiled or {})]
    left = without(asked, spoiled) if spoiled else asked
    if not numbers:
        raise UserError(["none of the images can be decoded", *left.spoiled.values()])
    mine, drawn, cut = {}, Pictures(), dict[int, CutOff]()
    meter = Meter("results and pictures", "images", workers.is_first)
    for number, index in enumerate(numbers):
        meter(number, len(numbers))
        if index in found:
            picture = out / left.pictures[number]
            place = Place(left.images.record(number), out, picture.stem, classes, asked.category_ids)
            cut |= cut_off(task, {number: found[index]})
            with files_of(out):
                mine[number] = task.rows(found[index], place)
                outputs.image(left.images, number, picture.stem, mine[number])
            with drawn.write(picture):
                save_picture(task.draw(left.images.image(number), found[index], classes), picture)
    meter.end()
    if drawn.faults:
        print(f"ziggurat: {drawn}", file=sys.stderr)
    parts = workers.gather((mine, cut))
    by_image = {number: rows for part, _ in parts for number, rows in part.items()}
    cut = joined(part for _, part in parts)
    notes = truncation_notes(task, cut, lambda number: left.images.record(number).name)
    results = [row for number in sorted(by_image) for row in by_image[number]]

    def write() -> list[str]:
        written = [_respelled(row, asked.spelled) for row in results]
        with files_of(out):
            write_text(out / RESULTS, json.dumps(written))
            write_skipped(out / SKIPPED, left.spoiled)
            if "csv" in formats:
                write_table(out / TABLE, task.table(results))
            stems = [Path(picture).stem for picture in left.pictures]
            of_formats = outputs.write(left.images, stems, map(by_image.__getitem__, sorted(by_image)))
        return [str(file) for file in of_formats]

    files = workers.decide_on_first(write)
    seconds = time.perf_counter() - begin
    return {
        "images": len(numbers),
        "skipped": len(left.spoiled),
        "seconds": seconds,
        "images_per_second": len(numbers) / seconds,
        **task.summary(results),
        "truncated": truncation(cut),
        "predictions": str(out / RESULTS),
        "table": str(out / TABLE) if "csv" in formats else None,
        "files": files,
        "pictures": str(out),
        "faults": left.spoiled,
        "notes": [*asked.notes, *notes],
    }


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture; the file's suffix says the format."""
    picture.save(path, quality=JPEG_QUALITY, compress_level=1)  # JPEG's and PNG's: each ignores the other's


def _respelled(row: dict[str, Any], spelled: Spelling) -> dict[str, Any]:
    """Return a row of results with ids as the data set's files write them."""
    if not spelled.images and not spelled.categories:
        return row
    changed = {**row, "image_id": spelled.images.get(row["image_id"], row["image_id"])}
    if "category_id" in row:
        changed["category_id"] = spelled.categories.get(row["category_id"], row["category_id"])
    if "top" in row:
        changed["top"] = [_respelled_class(one, spelled) for one in row["top"]]
    return changed


def _respelled_class(one: dict[str, Any], spelled: Spelling) -> dict[str, Any]:
    return one | {"category_id": spelled.categories.get(one["category_id"], one["category_id"])}


def _prepare(out: Path, asked: Asked, overwrite: bool) -> None:
    """Make the folder; neither results nor images may be overwritten."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the folder {out}: {error.strerror}; choose another --out") from None
    if not os.access(out, os.W_OK):
        raise UserError(f"cannot write the folder {out}: permission denied; choose another --out")
    if (out / RESULTS).exists() and not overwrite:
        raise UserError(
            f"{out} holds predictions already: choose another --out, or replace them (--overwrite)"
        )
    inputs = {Path(asked.images.record(index).name).resolve() for index in range(len(asked.images))}
    if any((out / picture).resolve() in inputs for picture in asked.pictures):
        raise UserError(f"pictures in {out} would overwrite the images: choose another --out")
