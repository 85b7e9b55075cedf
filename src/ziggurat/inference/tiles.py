"""Running a model over images of any size on all workers: what evaluation and prediction share.

1. An image that is larger than the crop, after the resizing that training does, is cut into overlapping tiles.
2. The tiles of all images form *batches* of one shape, in an order that depends on the images only. A batch is the
   unit of computation, as a microbatch is in training: hence the same bits on any number of workers.
3. Each worker takes a run of consecutive batches with about as many pixels as any other's. So a worker decodes few
   images, and one large image is spread over all workers.
   Workers of one place of the data axis take the same batches; how they share a batch is their strategies' (`Executor`).
4. What comes out is joined image by image, as the task has it (`run` beside this file).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from ziggurat.config import RunConfig
from ziggurat.data.batch import Part, stack_padded
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.decoding import SpoiledImages
from ziggurat.data.extents import Extent, Region, clip, cut_out, volume
from ziggurat.data.readers.windows import ReadsWindows
from ziggurat.data.views import (
    Piece,
    View,
    Wanted,
    batch_extent,
    batch_pixels,
    make_batches,
    share_of,
    wanted_pixels,
)
from ziggurat.errors import UserError
from ziggurat.models.images import normalize_images
from ziggurat.models.vision import VisionModel
from ziggurat.strategies.base import Setting
from ziggurat.strategies.executor import Executor, place_for_inference
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.mode import EvaluationMode
from ziggurat.strategies.running import Microbatches
from ziggurat.strategies.setting import image_spec

T = TypeVar("T")

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


@dataclass(frozen=True)
class Compute:
    """How a model is run.

    Attributes:
        executor: The model on its workers; all of them call `run_tiles`.
        dtype: As in training.
        channels_last: As in training.
        batch: Most tiles that are computed at once.
        mode: The model's, which all threads that run it share.
        progress: Called after each batch.
    """

    executor: Executor[VisionModel]
    dtype: Literal["auto", "bf16", "fp32"]
    channels_last: bool
    batch: int
    mode: EvaluationMode
    progress: ProgressCallback | None = None

    @property
    def mesh(self) -> Mesh:
        """All workers."""
        return self.executor.mesh


def compute_as_configured(
    config: RunConfig, executor: Executor[VisionModel], progress: ProgressCallback | None = None
) -> Compute:
    """Return how a run's config has its model run."""
    batch, mode = batch_of(config, executor.mesh), EvaluationMode(executor.model)
    return Compute(executor, config.dtype, config.train.channels_last, batch, mode, progress)


def batch_of(config: RunConfig, mesh: Mesh) -> int:
    """Return the tiles of a batch."""
    return max(1, BATCH_PIXELS[mesh.workers.device.type] // config.data.crop**2)


def place_as_configured(model: VisionModel, config: RunConfig, mesh: Mesh) -> Executor[VisionModel]:
    """Place a model on the workers of a mesh for evaluation or prediction; all workers call this."""
    side, last = config.data.crop, config.train.channels_last
    spec = image_spec((batch_of(config, mesh), 3, side, side), last, mesh)
    compute = partial(_autocast, mesh.workers.device, config.dtype)
    return place_for_inference(model, mesh, Setting(spec, config, 1, compute))


def _autocast(device: torch.device, dtype: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16")


@dataclass(frozen=True)
class Tiled(Generic[T]):
    """What came out of all tiles.

    Attributes:
        pieces: Every tile of every image, in the order of computation.
        first: This worker's results are those of ``pieces[first]`` and the following.
        results: Of this worker's tiles.
    """

    pieces: list[Piece]
    first: int
    results: list[T]

    @property
    def mine(self) -> list[Piece]:
        """The tiles that this worker has computed."""
        return self.pieces[self.first : self.first + len(self.results)]


def run_tiles(
    images: Images,
    views: Sequence[View],
    finish: Callable[[Any, Sequence[Extent]], list[T]],
    compute: Compute,
    spoiled: dict[int, str] | None = None,
) -> Tiled[T]:
    """Run a model on the tiles of all images, together with the other workers.

    Args:
        images: The same on every worker.
        views: How the model sees each of them.
        finish: From the model's outputs and the rows and columns of each tile to a result for each tile.
        compute: How; the model's mode (training or evaluation) is restored.
        spoiled: Takes the index of each image that cannot be decoded, and why, on every worker; its tiles are computed as
            black ones. None makes such an image an error.

    Raises:
        SpoiledImages: On every worker, with each image that cannot be decoded, if `spoiled` is None.

    Placement:
        Every worker has its part of the model and can read every image; afterwards each has the results of its tiles (workers
        that share images have the same ones).

    Communication:
        One gather of the faults; along sp that of the model, and one of the faults for each batch.
    """
    batches = make_batches(views, compute.executor.model.size_multiple, compute.batch)
    workers = compute.mesh.data
    pixels = [batch_pixels(pieces) for pieces in batches]
    share = share_of(workers.rank, workers.size, pixels)
    forward = _Forward(finish, compute)
    most = max(len(batches[share_of(rank, workers.size, pixels)]) for rank in range(workers.size))
    with compute.mode:
        is_tolerant = spoiled is not None
        results, faults, num_runs = _run_batches(forward, images, views, batches[share], compute, is_tolerant)
        if most > num_runs:
            forward.keep_company(batches[0], most - num_runs)
    compute.executor.end()
    messages = {
        image: text for by_image in compute.mesh.workers.gather(faults) for image, text in by_image.items()
    }
    if spoiled is not None:
        spoiled |= {image: messages[image] for image in sorted(messages)}
    elif messages:
        raise SpoiledImages(messages)
    first = sum(len(pieces) for pieces in batches[: share.start])
    return Tiled(list(itertools.chain.from_iterable(batches)), first, results)


class Given(NamedTuple):
    """A batch before it is computed.

    Attributes:
        batch: The tiles.
        tiles: Their pixels.
        part: What this worker has of each; None for all.
    """

    batch: Sequence[Piece]
    tiles: list[Tensor]
    part: Part | None


@dataclass(frozen=True)
class _Forward(Generic[T]):
    """Runs the model on batches."""

    finish: Callable[[Any, Sequence[Extent]], list[T]]
    compute: Compute

    def __call__(self, group: Sequence[Given]) -> list[T]:
        """Return the result of each tile of several batches, on every worker that computes a part of them."""

        def images(index: int) -> Tensor:
            return self.images(*group[index])

        def finish(outputs: Any, index: int) -> list[T]:
            return self.finish(outputs, _sizes(group[index].batch))

        found = self.compute.executor.run(Microbatches(len(group), images, finish, self.autocast))
        return list(itertools.chain.from_iterable(found))

    def keep_company(self, batch: Sequence[Piece], runs: int) -> None:
        """Take part in the runs of other workers, on a black tile of a batch's size."""
        executor, mesh = self.compute.executor, self.compute.mesh
        extent = batch_extent(batch, executor.model.size_multiple)

        def black() -> Tensor:
            part = mesh.part(*extent)
            images = torch.zeros(
                (1, 3, *(extent if part is None else part.tile.size)), device=mesh.workers.device
            )
            return mesh.spread(self._in_format(images), part)

        executor.keep_company(runs, black, self.autocast)

    def autocast(self) -> torch.autocast:
        """Return a context in which the model computes."""
        return _autocast(self.compute.mesh.workers.device, self.compute.dtype)

    def _in_format(self, images: Tensor) -> Tensor:
        last = self.compute.channels_last
        return images.contiguous(memory_format=torch.channels_last) if last else images

    def images(self, batch: Sequence[Piece], tiles: list[Tensor], part: Part | None) -> Tensor:
        """Return a batch as the model sees it.

        Args:
            batch: The tiles.
            tiles: Their pixels, or of each those that lie in `part`: from 0 to 255, shape ``(3, H, W)``.
            part: What this worker has of each; None for all.
        """
        mesh, model, sizes = self.compute.mesh, self.compute.executor.model, _sizes(batch)
        if any(tile.is_floating_point() for tile in tiles):  # those of a resized image are
            tiles = [tile.float() for tile in tiles]
        extent = batch_extent(batch, model.size_multiple) if part is None else part.tile.size
        stacked = self._in_format(stack_padded(tiles, extent).to(mesh.workers.device))
        own_sizes = sizes if part is None else part.sizes(sizes)
        return mesh.spread(normalize_images(stacked, own_sizes, model.mean, model.std), part)


def _sizes(batch: Sequence[Piece]) -> list[Extent]:
    return [piece.tile.size for piece in batch]


def _run_batches(
    forward: _Forward[T],
    images: Images,
    views: Sequence[View],
    batches: Sequence[Sequence[Piece]],
    compute: Compute,
    is_tolerant: bool,
) -> tuple[list[T], dict[int, str], int]:
    """Return the result of each tile, the fault of each image that cannot be decoded, by its index, and the model's runs.

    After a fault nothing more is computed, but all images are decoded still, so that every fault is told at once; a tolerant
    run goes on, with black tiles in the place of those that cannot be decoded: batches are those of sound images.
    """
    results: list[T] = []
    faults: dict[int, str] = {}
    mesh, executor = compute.mesh, compute.executor
    parts = [mesh.part(*batch_extent(batch, executor.model.size_multiple)) for batch in batches]
    pieces = [_own_pixels(piece, part) for batch, part in zip(batches, parts, strict=True) for piece in batch]
    waiting: list[Given] = []  # until there are as many as keep all workers of the network busy
    num_runs = 0
    with (
        executor.context(),
        closing(_read_tiles(images, views, wanted_pixels(pieces))) as tiles,
    ):
        for number, (batch, part) in enumerate(zip(batches, parts, strict=True), start=1):
            pixels = [next(tiles) for _ in batch]
            faults |= {
                p.image: str(e) for p, e in zip(batch, pixels, strict=True) if isinstance(e, UserError)
            }
            if is_tolerant:
                shapes = [(3, *_own_pixels(piece, part).tile.size) for piece in batch]
                pixels = [
                    torch.zeros(shape, dtype=torch.uint8) if isinstance(tile, UserError) else tile
                    for shape, tile in zip(shapes, pixels, strict=True)
                ]
            waiting.append(Given(batch, [tile for tile in pixels if isinstance(tile, Tensor)], part))
            if len(waiting) == executor.at_once or number == len(batches):
                # workers that compute a batch together go on together, or not at all
                if is_tolerant or not any(mesh.together.sum([len(faults)])):
                    results += forward(waiting)
                    num_runs += len(waiting)
                waiting = []
            if compute.progress is not None:
                compute.progress(len(results), len(pieces))
    return results, faults, num_runs


def _own_pixels(piece: Piece, part: Part | None) -> Piece:
    """Return what this worker has of a tile."""
    return piece if part is None else Piece(piece.image, clip(piece.tile, part.tile))


def _read_tiles(
    images: Images, views: Sequence[View], wanted: Sequence[Wanted]
) -> Generator[Tensor | UserError, None, None]:
    """Yield the pixels of each tile, from 0 to 255, shape ``(3, H, W)``, or why its image cannot be decoded."""
    with closing(_read_ahead(images, views, wanted)) as read:
        for one in wanted:
            pixels = next(read)
            for tile in one.tiles:
                if isinstance(pixels, UserError):
                    yield pixels
                else:
                    yield pixels[tile.seen_from(one.region.start).last_dims]


def _read_ahead(
    images: Images, views: Sequence[View], wanted: Sequence[Wanted]
) -> Generator[Tensor | UserError, None, None]:
    """Yield the region that is wanted of each image, decoding the next ones in a thread meanwhile."""
    waiting: deque[tuple[int, Future[Tensor | UserError]]] = deque()
    upcoming = iter(wanted)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as thread:

        def look_ahead() -> None:
            while not waiting or sum(pixels for pixels, _ in waiting) < AHEAD_PIXELS:
                one = next(upcoming, None)
                if one is None:
                    return
                view = views[one.image]
                waiting.append((volume(view.extent), thread.submit(read_region, images, view, one)))

        try:
            look_ahead()
            while waiting:
                _, future = waiting.popleft()
                look_ahead()  # the next one is decoded while this one is used
                yield future.result()
        finally:
            thread.shutdown(wait=False, cancel_futures=True)


def read_region(images: Images, view: View, wanted: Wanted) -> Tensor | UserError:
    """Return what is wanted of an image as the network sees it, or why there is none.

    Only that much is read where the image is not resized and its file can be read in parts.
    """
    index, record = wanted.image, images.record(wanted.image)
    is_resized = view.extent != record.extent
    whole = Region.whole(view.extent)
    try:
        if not is_resized and wanted.region != whole and isinstance(images, ReadsWindows):
            pixels = images.window(index, wanted.region)
            if pixels is not None:
                return pixels
        image = images.image(index)
    except UserError as error:
        return error
    if image.shape[1:] != record.extent:
        return UserError(
            f"the image {record.name} has {image.shape[2]} x {image.shape[1]} pixels, not {record.width} x "
            f"{record.height} as its header or annotations say: replace the image or correct its size"
        )
    if is_resized:
        # In floating point, as torchvision's detectors do; antialias acts only where the image gets smaller.
        image = functional.resize(image.float(), list(view.extent), antialias=view.antialias)
    return image if wanted.region == whole else cut_out(image, wanted.region)
