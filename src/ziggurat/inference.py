"""Running a detector over images of any size on all workers: what evaluation and prediction share.

1. An image that is larger than the crop, after the resizing that training does, is cut into overlapping tiles.
2. The tiles of all images form *batches* of one shape, in an order that depends on the images only. A batch is the
   unit of computation, as a microbatch is in training: hence the same bits on any number of workers.
3. Each worker takes a run of consecutive batches with about as many pixels as any other's. So a worker decodes few
   images, and one large image is spread over all workers.
4. What is found is gathered, and joined image by image (`ziggurat.tasks.merging`).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from ziggurat.config import DataConfig, DecodeConfig, RunConfig
from ziggurat.data.batch import pad_and_stack
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.views import Piece, View, batch_pixels, make_batches, make_view, share_of
from ziggurat.errors import UserError
from ziggurat.models.detector import Detector
from ziggurat.models.images import normalize_images
from ziggurat.parallel.workers import Workers
from ziggurat.tasks.detection import DetectionTask
from ziggurat.tasks.detections import Detections
from ziggurat.tasks.merging import concatenate, merge_tiles

# Called after each batch with this worker's tiles: done, and in all.
ProgressCallback = Callable[[int, int], None]

# Pixels of a batch: enough to fill the device, and no more, so that the work divides evenly.
BATCH_PIXELS = {"cpu": 1 << 18, "cuda": 1 << 22}
# Pixels of images that are decoded ahead (one image at least).
AHEAD_PIXELS = 1 << 22


class Images(Protocol):
    """Images with known sizes; every data set is one."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def record(self, index: int) -> ImageRecord:
        """Return what is known of an image, without decoding it."""
        ...

    def image(self, index: int) -> Tensor:
        """Return an image, RGB, uint8, shape ``(3, H, W)``."""
        ...


def detect_as_configured(
    model: Detector,
    task: DetectionTask,
    images: Images,
    config: RunConfig,
    workers: Workers,
    progress: ProgressCallback | None = None,
) -> list[Detections]:
    """Call `detect_images` with the settings of a run."""
    batch = max(1, BATCH_PIXELS[workers.device.type] // config.data.crop**2)
    return detect_images(
        model, task, images, config.data, config.decode, workers,
        dtype=config.dtype, channels_last=config.train.channels_last, batch=batch, progress=progress,
    )  # fmt: skip


def detect_images(
    model: Detector,
    task: DetectionTask,
    images: Images,
    config: DataConfig,
    decode: DecodeConfig,
    workers: Workers,
    *,
    dtype: Literal["auto", "bf16", "fp32"],
    channels_last: bool,
    batch: int,
    progress: ProgressCallback | None = None,
) -> list[Detections]:
    """Find the objects of all images, together with the other workers.

    Args:
        model: On the worker's device; its mode (training or evaluation) is restored.
        task: Decodes the model's outputs.
        images: The same on every worker.
        config: Resizing, crop and overlap of tiles.
        decode: How the tiles of an image are joined.
        workers: All of them call this.
        dtype: As in training.
        channels_last: As in training.
        batch: Most tiles that are computed at once.
        progress: Called after each batch.

    Returns:
        The detections of each image in its own pixels, on the CPU, by falling score.

    Raises:
        UserError: On every worker, listing each image that cannot be decoded.

    Placement:
        Every worker has the model and can read every image; afterwards every worker has all detections.

    Communication:
        One gather of the tiles' detections (28 bytes for each), after the computation.
    """
    views = [make_view(images.record(index), config) for index in range(len(images))]
    batches = make_batches(views, model.size_multiple, batch)
    mine = batches[share_of(workers.rank, workers.size, [batch_pixels(pieces) for pieces in batches])]
    forward = _Forward(model, task, workers.device, dtype, channels_last)
    found, faults = _detect_batches(forward, images, views, mine, progress)
    gathered = workers.gather((_pack(found), faults))
    messages = {image: message for _, by_image in gathered for image, message in by_image.items()}
    if messages:
        raise UserError([messages[image] for image in sorted(messages)])
    # Runs of batches follow each other in the order of the workers.
    in_order = itertools.chain.from_iterable(_unpack(packed) for packed, _ in gathered)
    of_image: dict[int, list[Detections]] = {index: [] for index in range(len(images))}
    for piece, detections in zip(itertools.chain.from_iterable(batches), in_order, strict=True):
        of_image[piece.image].append(detections)
    margin = config.tile_overlap * config.crop / 8
    return [
        _to_own_pixels(merge_tiles(views[i].tiles, of_image[i], margin, decode), views[i], images.record(i))
        for i in range(len(images))
    ]


@dataclass(frozen=True)
class _Forward:
    """Runs the model on a batch."""

    model: Detector
    task: DetectionTask
    device: torch.device
    dtype: Literal["auto", "bf16", "fp32"]
    channels_last: bool

    def __call__(self, tiles: list[Tensor]) -> list[Detections]:
        """Return the detections of each tile (uint8, shape ``(3, H, W)``), in its pixels, on the CPU."""
        sizes = [(tile.shape[1], tile.shape[2]) for tile in tiles]
        stacked = pad_and_stack(tiles, self.model.size_multiple).to(self.device)
        if self.channels_last:
            stacked = stacked.contiguous(memory_format=torch.channels_last)
        inputs = normalize_images(stacked, sizes, self.model.mean, self.model.std)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bf16"):
            outputs = self.model(inputs)
        return [
            Detections(one.boxes_xyxy.cpu(), one.scores.cpu(), one.labels.cpu())
            for one in self.task.detections(outputs, sizes)
        ]


def _detect_batches(
    forward: _Forward,
    images: Images,
    views: Sequence[View],
    batches: Sequence[Sequence[Piece]],
    progress: ProgressCallback | None,
) -> tuple[list[Detections], dict[int, str]]:
    """Return the detections of each tile, and the fault of each image that cannot be decoded, by its index.

    After a fault nothing more is computed, but all images are decoded still, so that every fault is told at once.
    """
    found: list[Detections] = []
    faults: dict[int, str] = {}
    pieces = list(itertools.chain.from_iterable(batches))
    was_training = forward.model.training
    forward.model.eval()
    try:
        with torch.inference_mode(), closing(_read_tiles(images, views, pieces)) as tiles:
            for batch in batches:
                pixels = [next(tiles) for _ in batch]
                faults |= {
                    p.image: str(e) for p, e in zip(batch, pixels, strict=True) if isinstance(e, UserError)
                }
                if not faults:
                    found += forward([tile for tile in pixels if isinstance(tile, Tensor)])
                if progress is not None:
                    progress(len(found), len(pieces))
    finally:
        forward.model.train(was_training)
    return found, faults


def _read_tiles(
    images: Images, views: Sequence[View], pieces: Sequence[Piece]
) -> Generator[Tensor | UserError, None, None]:
    """Yield the pixels of each piece, uint8, shape ``(3, H, W)``, or why its image cannot be decoded."""
    indices = [index for index, _ in itertools.groupby(piece.image for piece in pieces)]
    with closing(_read_ahead(images, views, indices)) as read:
        for _, of_image in itertools.groupby(pieces, key=lambda piece: piece.image):
            image = next(read)
            for piece in of_image:
                if isinstance(image, UserError):
                    yield image
                else:
                    tile = piece.tile
                    yield image[:, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]


def _read_ahead(
    images: Images, views: Sequence[View], indices: Sequence[int]
) -> Generator[Tensor | UserError, None, None]:
    """Yield each image as the network sees it, decoding the next ones in a thread meanwhile."""
    waiting: deque[tuple[int, Future[Tensor | UserError]]] = deque()
    upcoming = iter(indices)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as thread:

        def look_ahead() -> None:
            while not waiting or sum(pixels for pixels, _ in waiting) < AHEAD_PIXELS:
                index = next(upcoming, None)
                if index is None:
                    return
                view = views[index]
                waiting.append((view.height * view.width, thread.submit(_read, images, view, index)))

        try:
            look_ahead()
            while waiting:
                _, future = waiting.popleft()
                look_ahead()  # the next one is decoded while this one is used
                yield future.result()
        finally:
            thread.shutdown(wait=False, cancel_futures=True)


def _read(images: Images, view: View, index: int) -> Tensor | UserError:
    """Return an image as the network sees it, or why there is none."""
    record = images.record(index)
    try:
        image = images.image(index)
    except UserError as error:
        return error
    if image.shape[1:] != (record.height, record.width):
        return UserError(
            f"the image {record.name} has {image.shape[2]} x {image.shape[1]} pixels, not {record.width} x "
            f"{record.height} as its header or annotations say: replace the image or correct its size"
        )
    if (view.height, view.width) == (record.height, record.width):
        return image
    # As in training; antialias acts only where the image gets smaller.
    resized: Tensor = functional.resize(image, [view.height, view.width], antialias=True)
    return resized


def _pack(found: Sequence[Detections]) -> tuple[list[int], Detections | None]:
    """Join many small tensors into three, which travel faster."""
    return [len(detections) for detections in found], concatenate(found) if found else None


def _unpack(packed: tuple[list[int], Detections | None]) -> Iterator[Detections]:
    counts, joined = packed
    if joined is not None:
        columns = (joined.boxes_xyxy, joined.scores, joined.labels)
        for boxes, scores, labels in zip(*(column.split(counts) for column in columns), strict=True):
            yield Detections(boxes, scores, labels)


def _to_own_pixels(detections: Detections, view: View, record: ImageRecord) -> Detections:
    """Undo the resizing of an image."""
    if (view.height, view.width) == (record.height, record.width):
        return detections
    x, y = record.width / view.width, record.height / view.height
    factors = detections.boxes_xyxy.new_tensor([x, y, x, y])
    return replace(detections, boxes_xyxy=detections.boxes_xyxy * factors)
