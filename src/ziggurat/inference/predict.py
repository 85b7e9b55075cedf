"""Running a model on the user's images: results as JSON and CSV, and a picture for each image.

1. The tiles of all images are computed, and what is found in each batch is written into the journal as it comes.
2. Each image is joined by one worker from what the journal has of its tiles; its mask and picture are written, its rows go into
   the journal.
3. The first worker makes the files of results from the rows, and removes the journal.

So memory does not grow with an image's tiles, nor with the number of images, and a prediction that was killed goes on: the
batches and images that the journal has are not computed again (`resuming`).
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from ziggurat.data.dataset import Dataset
from ziggurat.data.extents import volume
from ziggurat.data.readers.images import blanks_of
from ziggurat.data.views import share_of
from ziggurat.errors import UserError, nearest
from ziggurat.inference.asked import Asked, Chosen, ask_for_dataset, ask_for_files, with_remedy, without
from ziggurat.inference.found_tiles import TILES, FoundTiles, encode
from ziggurat.inference.journal import Journal, Records, read_journal
from ziggurat.inference.limits import truncation, truncation_notes
from ziggurat.inference.outputs.base import Target
from ziggurat.inference.outputs.polygons import PolygonRules
from ziggurat.inference.outputs.registry import TABLES as DEFAULT_FORMATS
from ziggurat.inference.outputs.writing import Outputs
from ziggurat.inference.pictures import Pictures, picture_extent, read_picture
from ziggurat.inference.predictor import Predictor
from ziggurat.inference.result_files import RESULTS, SKIPPED, TABLE, write_rows, write_skipped, write_table
from ziggurat.inference.resuming import Begun, begin, request_of
from ziggurat.inference.rows import IMAGE, Rows, encode_rows
from ziggurat.inference.run import views_of
from ziggurat.inference.tiles import ProgressCallback, Work, run_tiles
from ziggurat.runs.folder import weights_sha256
from ziggurat.runs.progress import Meter
from ziggurat.system import writing
from ziggurat.system.writing import files_of
from ziggurat.tasks.base import Place

JPEG_QUALITY = 90


@dataclass(frozen=True)
class Options:
    """What is written of a prediction, and where it begins.

    Attributes:
        overwrite: Whether results of before, which lie in the folder, are replaced.
        resume: Whether a prediction that has not ended there goes on; where there is none, it begins.
        only: Of what is found only these classes count; all if none is named.
        formats: What results are written as (`inference.outputs`): the list in ``predictions.json`` always, the table if ``csv`` is
            among them.
        pictures: How large pictures are; ``auto`` draws images of more than 16 megapixels as an overview, others in full.
        polygons: What is done to the areas of masks where ``formats`` writes them as polygons.
        weights: Digest of the weights, as the journal knows them; by default that of the model as this worker has it.
    """

    overwrite: bool = False
    resume: bool = False
    only: Sequence[str] = ()
    formats: Sequence[str] = DEFAULT_FORMATS
    pictures: Pictures = "auto"
    polygons: PolygonRules = field(default_factory=PolygonRules)
    weights: str = ""


def predict_files(
    predictor: Predictor,
    category_ids: Sequence[int],
    paths: Sequence[str | os.PathLike[str]],
    out: Path,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Predict what is on images, and write it; see `predict_asked`.

    Args:
        predictor: All of its workers call this.
        category_ids: The COCO category id of each label.
        paths: Files, folders (with the folders in them) and globs.
        out: Folder of all that is written.
        progress: Called after each batch of this worker.
        options: Those of `Options`.

    Communication: one broadcast of the paths and sizes.
    """
    config = predictor.config.data
    asked = predictor.mesh.workers.decide_on_first(lambda: ask_for_files(paths, category_ids, config))
    return predict_asked(predictor, asked, out, progress, Options(**options))


def predict_dataset(
    predictor: Predictor,
    dataset: Dataset,
    out: Path,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Predict what is on the images of a data set, with its ids of images and categories, and write it; see `predict_asked`.

    Args:
        predictor: All of its workers call this.
        dataset: With the labels of the model.
        out: Folder of all that is written.
        progress: Called after each batch of this worker.
        options: Those of `Options`.
    """
    asked = ask_for_dataset(dataset, predictor.config.data)
    return predict_asked(predictor, asked, out, progress, Options(**options))


def predict_asked(
    predictor: Predictor,
    asked: Asked,
    out: Path,
    progress: ProgressCallback | None = None,
    options: Options = Options(),
) -> dict[str, Any]:
    """Predict what is on images, and write it.

    Args:
        predictor: All of its workers call this.
        asked: The same on every worker.
        out: Folder of ``predictions.json``, ``predictions.csv``, of the pictures, and of what files the task writes; all workers
            see it. The results are a list, as the task's `rows` has them: of a detector COCO results; of a classifier the best
            classes of each image; of a segmenter each image's mask (a file in ``masks``, whose values are labels) and its pixels by
            class. The table has a line for each of them, as the task's `table` has it. With ``data.on_error=skip``, images that
            were left out are listed in ``skipped.jsonl``.
        progress: Called after each batch of this worker.
        options: What is written, and where it begins.

    Returns:
        The fields of the command's JSON object: ``images``, ``skipped``, ``seconds``, ``images_per_second``,
        ``megapixels_per_second`` (of what this call has computed), ``truncated`` (detections that a limit has cut off), ``exact``
        (whether each image is seen whole), ``passes``, ``resumed`` (whether it has gone on), ``predictions`` and ``table`` (the files; None where it is not written), ``files`` (those of the
        other formats), ``pictures`` (the folder), ``notes``, what the task adds (a detector ``detections``); on every worker.

    Raises:
        UserError: On every worker: images cannot be decoded (each is listed), or all of them where they are skipped, or
            `out` cannot be written, holds results already or would have an image overwritten, or it is another prediction that is
            to go on there.

    Communication: that of `run_tiles`, and barriers: what is found passes through the journal.
    """
    start = time.perf_counter()
    running = _Running(predictor, asked, out, options)
    work = running.compute_tiles(progress)
    running.finish_images(work)
    return predictor.mesh.workers.decide_on_first(lambda: running.write_results(work, start))


class _Running:
    """A prediction under way.

    Args:
        predictor: Of the model.
        asked: The images.
        out: Where it is written.
        options: What is written, and where it begins.
    """

    def __init__(self, predictor: Predictor, asked: Asked, out: Path, options: Options) -> None:
        self.predictor, self.asked, self.out, self.options = predictor, asked, out, options
        self.workers, self.task = predictor.mesh.workers, predictor.task
        self.compute = predictor.compute()
        if options.only:
            self.task.choose(_labels(options.only, predictor.classes))
        target = Target(
            out,
            predictor.classes,
            asked.category_ids,
            self.task.lies_on,
            options.polygons,
            predictor.composite,
            len(self.compute.members),
        )
        self.outputs = Outputs(options.formats, target)
        if self.outputs.want_probabilities:
            self.task = self.task.with_probabilities()
        self.workers.decide_on_first(lambda: self.outputs.check(asked.images))
        self.begun: Begun = self.workers.decide_on_first(self._begin)
        self.spoiled = self.begun.spoiled()
        self.numbers: list[int] = []  # of the images that can be decoded
        self.megapixels = 0.0  # of images that this call computes

    def _begin(self) -> Begun:
        """Make the folder; neither results nor images may be overwritten."""
        out, asked, options = self.out, self.asked, self.options
        _prepare(out, asked)

        def request() -> dict[str, Any]:
            weights = options.weights or weights_sha256(self.predictor.model)
            more = {
                "pictures": options.pictures, "formats": sorted(options.formats), "--classes": sorted(options.only), "batch": self.compute.batch, "device": self.workers.device.type,
                "--polygons": asdict(options.polygons), "classes": list(self.predictor.classes), "category_ids": list(asked.category_ids),
            }  # fmt: skip
            return request_of(self.predictor.config, asked, weights, more)

        return begin(out, request, options.resume, options.overwrite)

    def journal(self) -> Journal:
        """Return this worker's journal."""
        return Journal(self.begun.folder, f"{self.begun.attempt:04d}-{self.workers.rank:04d}")

    def compute_tiles(self, progress: ProgressCallback | None) -> Work:
        """Compute the tiles that the journal does not have, and write what is found in them."""
        predictor, images = self.predictor, self.asked.images
        work = Work.of(images, views_of(self.task, images), self.compute, self.begun.numbers(TILES))
        shares = _megapixels(self.asked, work)
        self.megapixels = sum(shares)
        if isinstance(progress, Meter):
            progress.amount = (self.megapixels, "megapixels")
        spoiled = self.spoiled if predictor.config.data.on_error == "skip" else None
        is_writer = predictor.mesh.turn[0] == 0  # of those that compute the same tiles
        with self.journal() as journal:
            known = set(self.spoiled)

            def take(number: int, found: Sequence[Any], faults: Mapping[int, str]) -> None:
                for index in faults.keys() - known:
                    journal.add("fault", index, faults[index].encode())
                known.update(faults)
                if is_writer:
                    journal.add(TILES, number, encode(self.task, found))

            try:
                run_tiles(images, work, self.task, predictor.compute(progress), take, spoiled)
            except UserError as error:
                raise UserError(with_remedy(error.faults)) from None
            journal.sync()
        self.spoiled = {index: self.spoiled[index] for index in sorted(self.spoiled)}
        self.numbers = [index for index in range(len(images)) if index not in self.spoiled]
        if not self.numbers:
            left = without(self.asked, self.spoiled)
            raise UserError(["none of the images can be decoded", *left.spoiled.values()])
        self.workers.barrier()
        return work

    def finish_images(self, work: Work) -> None:
        """Join, draw and write the images that the journal does not have, each by one worker."""
        records = read_journal(self.begun.folder)
        found = FoundTiles(self.task, work, records)
        done = self.begun.numbers(IMAGE)  # the same on every worker: others may be writing already
        todo = [index for index in self.numbers if index not in done]
        pixels = [volume(self.asked.images.record(index).extent) for index in todo]
        mine = todo[share_of(self.workers.rank, self.workers.size, pixels)]
        drawn, meter = writing.Pictures(), Meter("results and pictures", "images", self.workers.is_first)
        with self.journal() as journal:
            for number, index in enumerate(mine):
                meter(number, len(mine))
                self._finish_image(index, work, found, journal, drawn)
            journal.sync()
        meter.end()
        if drawn.faults:
            print(f"ziggurat: {drawn}", file=sys.stderr)
        self.workers.barrier()

    def _finish_image(
        self, index: int, work: Work, found: FoundTiles[Any], journal: Journal, drawn: writing.Pictures
    ) -> None:
        asked, predictor, task = self.asked, self.predictor, self.task
        record, picture = asked.images.record(index), self.out / asked.pictures[index]
        extent = picture_extent(record.extent, self.options.pictures)
        with files_of(self.out):
            with self.outputs.pixels(asked.images, index, picture.stem) as sink:
                place = Place(
                    record,
                    self.out,
                    picture.stem,
                    predictor.classes,
                    asked.category_ids,
                    sink,
                    partial(blanks_of, asked.images, index),
                )
                written = task.write(found.of_image(index), work.views[index], record, place, extent)
            self.outputs.image(asked.images, index, picture.stem, written.rows)
        line, num, shown = encode_rows(written.rows, written.cut), len(written.rows), written.shown
        del written  # rows of hundreds of thousands of boxes are large
        if extent is not None:
            pixels = read_picture(asked.images, index, extent, predictor.composite)
            with drawn.write(picture):
                save_picture(task.draw(pixels, shown, predictor.classes), picture)
        journal.add(IMAGE, index, line, num)

    def write_results(self, work: Work, start: float) -> dict[str, Any]:
        """Write the files of results, and return the fields of the command's JSON object; on the first worker."""
        out, asked, task = self.out, self.asked, self.task
        rows = Rows(self._records(), self.numbers)
        spoiled = asked.spoiled | {
            asked.images.record(index).name: why for index, why in self.spoiled.items()
        }
        with files_of(out):
            if "csv" in self.options.formats:
                write_table(out / TABLE, task.table(rows))
            left = Chosen(asked.images, tuple(self.numbers))
            stems = [Path(asked.pictures[index]).stem for index in self.numbers]
            files = [str(file) for file in self.outputs.write(left, stems, rows.by_image())]
            write_skipped(out / SKIPPED, spoiled)
            write_rows(out / RESULTS, rows.texts(asked.spelled))
        cut = {index: one for index, one in zip(self.numbers, rows.cuts(), strict=True) if one.number}
        summary = task.summary(rows)
        with files_of(out):
            shutil.rmtree(self.begun.folder)
        seconds = time.perf_counter() - start
        notes = truncation_notes(task, cut, lambda index: asked.images.record(index).name)
        return {
            "images": len(self.numbers),
            "skipped": len(spoiled),
            "seconds": seconds,
            "images_per_second": len(self.numbers) / seconds,
            "megapixels_per_second": self.megapixels / seconds,
            **summary,
            "truncated": truncation(cut),
            "exact": all(len(view.tiles) == 1 for view in work.views),
            "passes": 1,
            "resumed": self.begun.attempt > 1,
            "predictions": str(out / RESULTS),
            "table": str(out / TABLE) if "csv" in self.options.formats else None,
            "files": files,
            "pictures": str(out),
            "faults": spoiled,
            "notes": [*asked.notes, *self._picture_notes(), *notes],
        }

    def _records(self) -> Records:
        records = read_journal(self.begun.folder)
        if any((IMAGE, index) not in records for index in self.numbers):
            raise UserError(
                "what other workers have written is not there: --out must lie on a disk that all machines share"
            )
        return records

    def _picture_notes(self) -> list[str]:
        """Say how many pictures are overviews where nobody has asked for them, and what they show of other bands."""
        notes = [f"pictures show {shown}"] if (shown := self.predictor.composite.described) else []
        extents = [self.asked.images.record(index).extent for index in self.numbers]
        smaller = sum(picture_extent(one, "auto") != one for one in extents)
        if self.options.pictures != "auto" or not smaller:
            return notes if self.options.pictures != "none" else []
        return [
            *notes,
            f"pictures of images of more than 16 megapixels are overviews ({smaller}): --pictures full draws them in full",
        ]


def _labels(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the labels of classes.

    Raises:
        UserError: Listing each name that is no class.
    """
    faults = [
        f"--classes names classes of the run: {name} is none; {nearest(name, classes)}"
        for name in names
        if name not in classes
    ]
    if faults:
        raise UserError(faults)
    return [label for label, name in enumerate(classes) if name in names]


def _megapixels(asked: Asked, work: Work) -> list[float]:
    """Return of each image how much of it is computed, by the pixels of its tiles, in megapixels of the image."""
    left: dict[int, int] = {}
    for number in work.todo:
        for piece in work.batches[number]:
            left[piece.image] = left.get(piece.image, 0) + piece.tile.volume
    every = {index: sum(tile.volume for tile in work.views[index].tiles) for index in left}
    return [volume(asked.images.record(index).extent) * left[index] / every[index] / 1e6 for index in left]


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture; the file's suffix says the format."""
    picture.save(path, quality=JPEG_QUALITY, compress_level=1)  # JPEG's and PNG's: each ignores the other's


def _prepare(out: Path, asked: Asked) -> None:
    """Make the folder; no image may be overwritten."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the folder {out}: {error.strerror}; choose another --out") from None
    if not os.access(out, os.W_OK):
        raise UserError(f"cannot write the folder {out}: permission denied; choose another --out")
    inputs = {Path(asked.images.record(index).name).resolve() for index in range(len(asked.images))}
    if any((out / picture).resolve() in inputs for picture in asked.pictures):
        raise UserError(f"pictures in {out} would overwrite the images: choose another --out")
