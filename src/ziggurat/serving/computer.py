"""From files of images to answers, by a predictor: the same steps, and so the same bits, as `ziggurat predict`.

1. Each header is read; what is no image, or has too many pixels, is refused before anything is decoded.
2. The tiles of all images are computed, in batches that keep the bits (`batches`).
3. Each image is joined, written and drawn by its task, as `inference.predict` does it, in a folder that lasts for the call.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ziggurat.config.serve_config import ServeConfig
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Extent, Region, volume
from ziggurat.data.readers.images import blanks_of, image_size, levels_of, window_of
from ziggurat.errors import UserError
from ziggurat.inference.given import GivenImages
from ziggurat.inference.pictures import picture_extent, read_picture
from ziggurat.inference.predict import JPEG_QUALITY
from ziggurat.inference.predictor import Predictor
from ziggurat.inference.run import views_of
from ziggurat.inference.tiles import run_tiles
from ziggurat.serving.batches import Batches
from ziggurat.serving.exchange import ARRAYS, MASK, PICTURE, Answer, Card, Refused
from ziggurat.tasks.base import Place

UNREADABLE, TOO_LARGE = 422, 413
_ANY = 1 << 62  # pixels: only the header is read


@dataclass(frozen=True)
class Item:
    """An image that lies where the workers can read it.

    Attributes:
        image: Its file, or its pixels.
        name: What the answer calls it.
        wants: What is asked of it.
    """

    image: Path | np.ndarray[Any, Any]
    name: str
    wants: frozenset[str]


@dataclass(frozen=True)
class _Uploads:
    """Images by the names that answers have; each is the first of its own request."""

    images: GivenImages
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)

    def record(self, index: int) -> ImageRecord:
        return replace(self.images.record(index), image_id=1, name=self.names[index])

    def image(self, index: int) -> Tensor:
        return self.images.image(index)

    def levels(self, index: int) -> tuple[Extent, ...]:
        return levels_of(self.images, index, self.record(index).extent)

    def window(self, index: int, region: Region, level: int = 0) -> Tensor | None:
        return window_of(self.images, index, region, level)

    def blank(self, index: int, region: Region) -> Tensor | None:
        return blanks_of(self.images.sources[index], 0, region)


class Computer:
    """Answers what is asked of images; all workers of the predictor call it with the same items.

    Args:
        predictor: Computes.
        category_ids: The COCO category id of each label.
        config: Limits.
    """

    def __init__(self, predictor: Predictor, category_ids: Sequence[int], config: ServeConfig) -> None:
        limit = min(predictor.config.data.max_pixels, config.max_pixels)
        self.predictor, self.category_ids, self.max_pixels = predictor, tuple(category_ids), limit
        self._data = replace(predictor.config.data, max_pixels=limit)
        self._batches = Batches(predictor.compute(), config.batch)

    def __call__(self, items: Sequence[Item], folder: Path) -> list[Answer | Refused] | None:
        """Answer what is asked of some images.

        Args:
            items: The images.
            folder: Takes the files that tasks write; all workers see it.

        Returns:
            For each an answer, or why there is none; on the first worker.
        """
        start = time.perf_counter()
        answers: dict[int, Answer | Refused] = {}
        sound: list[int] = []
        sources: list[Any] = []
        for index, item in enumerate(items):
            try:
                self._check_pixels(item)
                given = GivenImages.of([item.image], self._data)
                self.predictor.task.view(given.record(0))
            except UserError as error:
                answers[index] = _refused(error, item)
                continue
            sound.append(index)
            sources += given.sources
        uploads = _Uploads(GivenImages(sources), [items[index].name for index in sound])
        if sound:
            for place, answer in self._compute(uploads, [items[index] for index in sound], folder).items():
                answers[sound[place]] = answer
        if not self.predictor.mesh.workers.is_first:
            return None
        seconds = time.perf_counter() - start
        listed = [answers[index] for index in range(len(items))]
        return [
            replace(one, seconds=seconds, group=len(items)) if isinstance(one, Answer) else one
            for one in listed
        ]

    def card(self, name: str, weights_sha256: str) -> Card:
        """Return what is known of the model."""
        predictor = self.predictor
        arrays = tuple(
            (one, kind, tuple(shape))
            for one, (kind, shape) in predictor.task.array_specs(predictor.classes).items()
        )
        return Card(
            name, predictor.task.name, predictor.config.model.name, predictor.classes, predictor.task.lies_on,
            predictor.compute().bands, arrays, weights_sha256, predictor.config.plan or "dp=1",
        )  # fmt: skip

    def _check_pixels(self, item: Item) -> None:
        extent = image_size(item.image, _ANY) if isinstance(item.image, Path) else item.image.shape[:2]
        if volume(extent) > self.max_pixels:
            rows, columns = extent
            raise Refused(
                TOO_LARGE,
                f"an image may have {self.max_pixels} pixels: {item.name} has {volume(extent)} ({columns} x {rows}); make it "
                "smaller, or ask for it by a job (POST /jobs)",
            )

    def _compute(self, images: _Uploads, items: Sequence[Item], folder: Path) -> dict[int, Answer | Refused]:
        task, mesh = self.predictor.task, self.predictor.mesh
        views = views_of(task, images)
        work = self._batches.work_of(views)
        tiles: dict[int, Sequence[Any]] = {}

        def take(number: int, found: Sequence[Any], faults: Mapping[int, str], /) -> None:
            tiles[number] = found

        spoiled: dict[int, str] = {}
        run_tiles(images, work, task, self.predictor.compute(), take, spoiled)
        if mesh.workers.size > 1:
            own = {number: task.pack(found) for number, found in tiles.items()}
            every = mesh.workers.gather(own)
            tiles = {number: task.unpack(packed) for part in every for number, packed in part.items()}
        if not mesh.workers.is_first:
            return {}
        found_in: dict[int, list[tuple[Region, Any]]] = {}
        for number in sorted(tiles):
            for piece, one in zip(work.batches[number], tiles[number], strict=True):
                found_in.setdefault(piece.image, []).append((piece.tile, one))
        answers: dict[int, Answer | Refused] = {}
        for index, item in enumerate(items):
            try:
                if index in spoiled:
                    raise UserError(spoiled[index])
                with torch.inference_mode(False), torch.no_grad():
                    answers[index] = self._write(images, index, item, found_in[index], views[index], folder)
            except UserError as error:
                answers[index] = _refused(error, item)
        return answers

    def _write(
        self, images: _Uploads, index: int, item: Item, tiles: Sequence[Any], view: Any, folder: Path
    ) -> Answer:
        predictor, task, record = self.predictor, self.predictor.task, images.record(index)
        extent = picture_extent(record.extent, "auto") if PICTURE in item.wants else None
        if ARRAYS in item.wants:
            extent = record.extent
        own = folder / f"written-{index}"
        own.mkdir()
        place = Place(
            record, own, Path(item.name).stem or "image", predictor.classes, self.category_ids,
            None, partial(blanks_of, images, index),
        )  # fmt: skip
        written = task.write(tiles, view, record, place, extent)
        rows, mask = _without_folder(written.rows, own)
        picture = b""
        if PICTURE in item.wants and extent is not None:
            pixels = read_picture(images, index, extent, predictor.composite)
            stream = io.BytesIO()
            drawn = task.draw(pixels, written.shown, predictor.classes)
            kind = "PNG" if volume(extent) <= 1 << 20 else "JPEG"
            drawn.save(stream, kind, quality=JPEG_QUALITY, compress_level=1)  # as `predict` has them
            picture = stream.getvalue()
        arrays = (
            {name: one.numpy() for name, one in task.arrays(written.shown).items()}
            if ARRAYS in item.wants
            else {}
        )
        return Answer(
            rows, picture, mask.read_bytes() if mask is not None and MASK in item.wants else b"", arrays
        )


def _without_folder(rows: list[dict[str, Any]], folder: Path) -> tuple[list[dict[str, Any]], Path | None]:
    """Return rows in which files are named from their folder on, and the first of these files."""
    named, first = [], None
    start = f"{folder}/"
    for row in rows:
        files = {
            key: value for key, value in row.items() if isinstance(value, str) and value.startswith(start)
        }
        first = first or next((Path(value) for value in files.values()), None)
        named.append(row | {key: value.removeprefix(start) for key, value in files.items()})
    return named, first


def _refused(error: UserError, item: Item) -> Refused:
    """Return why an image is not answered, by the name that its sender knows."""
    if isinstance(error, Refused):
        return error
    message = str(error)
    if isinstance(item.image, Path):
        message = message.replace(str(item.image), item.name)
    else:
        message = message.replace("image 0", item.name)
    return Refused(UNREADABLE, message)
