"""Running a model over images of any size on all workers: what evaluation and prediction share.

1. An image that is larger than the crop, after the resizing that training does, is cut into overlapping tiles.
2. The tiles of all images form *batches* of one shape, in an order that depends on the images only. A batch is the
   unit of computation, as a microbatch is in training: hence the same bits on any number of workers.
3. Each worker takes a run of consecutive batches with about as many pixels as any other's. So a worker decodes few
   images, and one large image is spread over all workers.
   Workers that share each image (sp) take the same batches, and each computes its part of every tile. So do those
   that share the network (pp, lp), each its stages or branches, several batches at a time, and those that wide layers
   are split over (tp). Where weights are sharded (fsdp) every worker runs the model equally often, the last times perhaps
   on a black tile.
4. What comes out is joined image by image, as the task has it (`detect`, `classify`, `segment` beside this file).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from ziggurat.config import RunConfig
from ziggurat.data.batch import Part, stack_padded
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.readers.windows import ReadsWindows
from ziggurat.data.tiles import Tile, clip, cut_out
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
from ziggurat.parallel.pipeline.pipeline import Work
from ziggurat.parallel.runtime.allocator import give_back_freed_memory
from ziggurat.strategies.level_training import place_for_inference
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.pipeline_training import image_spec, stage_for_inference
from ziggurat.strategies.sharded import shard_units
from ziggurat.strategies.sharded_training import blank_images
from ziggurat.strategies.tensor_parallel import TensorParallel
from ziggurat.torch_internals.sharding import drop_gathered

T = TypeVar("T")

# Called after each batch with this worker's tiles: done, and in all.
ProgressCallback = Callable[[int, int], None]

# Pixels of a batch: enough to fill the device, and no more, so that the work divides evenly.
BATCH_PIXELS = {"cpu": 1 << 18, "cuda": 1 << 22}
# Batches for each worker of a network that are given to it at a time: the first and the last ones leave workers idle.
IN_FLIGHT = 4
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
        mesh: All of its workers call `run_tiles`.
        dtype: As in training.
        channels_last: As in training.
        batch: Most tiles that are computed at once.
        progress: Called after each batch.
    """

    mesh: Mesh
    dtype: Literal["auto", "bf16", "fp32"]
    channels_last: bool
    batch: int
    progress: ProgressCallback | None = None


def compute_as_configured(config: RunConfig, mesh: Mesh, progress: ProgressCallback | None = None) -> Compute:
    """Return how a run's config has its model run."""
    batch = max(1, BATCH_PIXELS[mesh.workers.device.type] // config.data.crop**2)
    return Compute(mesh, config.dtype, config.train.channels_last, batch, progress)


def spread_as_configured(model: VisionModel, config: RunConfig, mesh: Mesh) -> None:
    """Spread a model over workers for evaluation or prediction; all workers call this.

    Under a plan with pp it is cut into stages, under one with lp into branches, under one with tp its wide layers are split, under
    one with fsdp its weights are sharded.
    """
    if mesh.network.size == mesh.tp.size == 1 and not mesh.is_sharded:
        return
    compute, side = compute_as_configured(config, mesh), config.data.crop
    shape = (compute.batch, 3, side, side)
    forward: _Forward[Any] = _Forward(model, lambda outputs, sizes: [], compute)
    was_training = model.training
    model.eval()
    spec = image_spec(shape, compute.channels_last, mesh)
    if mesh.is_sharded:
        shard_units(model, mesh, (1, *shape[1:]), config.pipeline.unit_bytes)
    elif mesh.tp.size > 1:
        TensorParallel(model, spec, mesh.tp, config.tensor.min_width).require_splits(config.model.name)
    elif mesh.lp.size > 1:
        place_for_inference(model, spec, mesh, forward.autocast)
    else:
        stage_for_inference(model, spec, mesh, config.pipeline, forward.autocast)
    model.train(was_training)
    give_back_freed_memory()  # of what other workers keep


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
    model: VisionModel,
    images: Images,
    views: Sequence[View],
    finish: Callable[[Any, Sequence[tuple[int, int]]], list[T]],
    compute: Compute,
) -> Tiled[T]:
    """Run a model on the tiles of all images, together with the other workers.

    Args:
        model: On the worker's device; its mode (training or evaluation) is restored.
        images: The same on every worker.
        views: How the model sees each of them.
        finish: From the model's outputs and the rows and columns of each tile to a result for each tile.
        compute: How.

    Raises:
        UserError: On every worker, listing each image that cannot be decoded.

    Placement:
        Every worker has the model and can read every image; afterwards each has the results of its tiles (workers
        that share images have the same ones).

    Communication:
        One gather of the faults; along sp that of the model, and the sum of one number for each batch.
    """
    batches = make_batches(views, model.size_multiple, compute.batch)
    compute.mesh.name_layers(model)
    workers = compute.mesh.dp
    pixels = [batch_pixels(pieces) for pieces in batches]
    share = share_of(workers.rank, workers.size, pixels)
    forward = _Forward(model, finish, compute)
    results, faults, num_passes = _run_batches(forward, images, views, batches[share], compute)
    if compute.mesh.is_sharded:
        most = max(len(batches[share_of(rank, workers.size, pixels)]) for rank in range(workers.size))
        for _ in range(most - num_passes):
            forward.keep_company(batches[0])
        drop_gathered(model)
    messages = {
        image: text for by_image in compute.mesh.workers.gather(faults) for image, text in by_image.items()
    }
    if messages:
        raise UserError([messages[image] for image in sorted(messages)])
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
    """Runs the model on a batch."""

    model: VisionModel
    finish: Callable[[Any, Sequence[tuple[int, int]]], list[T]]
    compute: Compute

    def __call__(self, batch: Sequence[Piece], tiles: list[Tensor], part: Part | None) -> list[T]:
        """Return the result of each tile.

        Args:
            batch: The tiles.
            tiles: Their pixels, or of each those that lie in `part`: from 0 to 255, shape ``(3, H, W)``.
            part: What this worker has of each; None for all.
        """
        images, sizes = self.images(batch, tiles, part)
        with self.autocast():
            outputs = self.model(images)
        return self.finish(outputs, sizes)

    def by_stages(self, group: Sequence[Given]) -> list[T]:
        """Return the result of each tile of several batches, on every worker of the network.

        Communication:
            As `Pipeline.infer` or `Branches.infer`; then one gather of the results over pp or lp.
        """
        pipeline = self.compute.mesh.pipelines[self.model]
        outputs = pipeline.infer(
            Work(len(group), lambda index: self.images(*group[index])[0], compute=self.autocast)
        )
        mine = {index: self.finish(outputs[index], _sizes(group[index].batch)) for index in sorted(outputs)}
        found: dict[int, list[T]] = {}
        for part in self.compute.mesh.network.gather(mine):  # a batch's are on the worker of its last call
            found |= part
        return list(itertools.chain.from_iterable(found[index] for index in range(len(group))))

    @torch.no_grad()
    def keep_company(self, batch: Sequence[Piece]) -> None:
        """Run the model on a black tile of a batch's size, for the workers that gather its weights at the same time."""
        was_training = self.model.training
        self.model.eval()
        height, width = batch_extent(batch, self.model.size_multiple)
        black = blank_images((1, 3, height, width), self.compute.channels_last, self.compute.mesh)
        with self.autocast():
            self.model(black)
        self.model.train(was_training)

    def autocast(self) -> torch.autocast:
        """Return a context in which the model computes."""
        device = self.compute.mesh.workers.device
        return torch.autocast(device.type, torch.bfloat16, enabled=self.compute.dtype == "bf16")

    def images(
        self, batch: Sequence[Piece], tiles: list[Tensor], part: Part | None
    ) -> tuple[Tensor, list[tuple[int, int]]]:
        """Return a batch as the model sees it, and the rows and columns of each tile."""
        mesh, sizes = self.compute.mesh, _sizes(batch)
        if any(tile.is_floating_point() for tile in tiles):  # those of a resized image are
            tiles = [tile.float() for tile in tiles]
        height, width = batch_extent(batch, self.model.size_multiple)
        if part is not None:
            height, width = part.tile.height, part.tile.width
        stacked = stack_padded(tiles, height, width).to(mesh.workers.device)
        if self.compute.channels_last:
            stacked = stacked.contiguous(memory_format=torch.channels_last)
        own_sizes = sizes if part is None else part.sizes(sizes)
        inputs = normalize_images(stacked, own_sizes, self.model.mean, self.model.std)
        return mesh.spread(inputs, part), sizes


def _sizes(batch: Sequence[Piece]) -> list[tuple[int, int]]:
    return [(piece.tile.height, piece.tile.width) for piece in batch]


def _run_batches(
    forward: _Forward[T],
    images: Images,
    views: Sequence[View],
    batches: Sequence[Sequence[Piece]],
    compute: Compute,
) -> tuple[list[T], dict[int, str], int]:
    """Return the result of each tile, the fault of each image that cannot be decoded, by its index, and the model's runs.

    After a fault nothing more is computed, but all images are decoded still, so that every fault is told at once.
    """
    results: list[T] = []
    faults: dict[int, str] = {}
    mesh, multiple = compute.mesh, forward.model.size_multiple
    parts = [mesh.part(*batch_extent(batch, multiple)) for batch in batches]
    pieces = [_own_pixels(piece, part) for batch, part in zip(batches, parts, strict=True) for piece in batch]
    was_training = forward.model.training
    forward.model.eval()
    by_stages = forward.model in mesh.pipelines
    waiting: list[Given] = []  # for the network's workers, which take several batches at a time
    # what a pipeline or fsdp keeps of a run may be met by autograd later
    no_gradients = torch.no_grad() if by_stages or mesh.is_sharded else torch.inference_mode()
    num_passes = 0
    try:
        with no_gradients, closing(_read_tiles(images, views, wanted_pixels(pieces))) as tiles:
            for number, (batch, part) in enumerate(zip(batches, parts, strict=True), start=1):
                pixels = [next(tiles) for _ in batch]
                faults |= {
                    p.image: str(e) for p, e in zip(batch, pixels, strict=True) if isinstance(e, UserError)
                }
                # workers that share images go on together, or not at all
                if not any((*mesh.sp.sum([len(faults)]), *mesh.tp.sum([len(faults)]))):
                    given = Given(batch, [tile for tile in pixels if isinstance(tile, Tensor)], part)
                    if by_stages:
                        waiting.append(given)
                    else:
                        results += forward(*given)
                        num_passes += 1
                is_time = len(waiting) == IN_FLIGHT * mesh.network.size or number == len(batches)
                if waiting and is_time and not any(mesh.network.sum([len(faults)])):
                    results += forward.by_stages(waiting)
                    waiting = []
                if compute.progress is not None:
                    compute.progress(len(results), len(pieces))
    finally:
        forward.model.train(was_training)
    return results, faults, num_passes


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
                    top, left = tile.top - one.region.top, tile.left - one.region.left
                    yield pixels[:, top : top + tile.height, left : left + tile.width]


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
                waiting.append((view.height * view.width, thread.submit(read_region, images, view, one)))

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
    is_resized = (view.height, view.width) != (record.height, record.width)
    whole = Tile(0, 0, view.height, view.width)
    try:
        if not is_resized and wanted.region != whole and isinstance(images, ReadsWindows):
            pixels = images.window(index, wanted.region)
            if pixels is not None:
                return pixels
        image = images.image(index)
    except UserError as error:
        return error
    if image.shape[1:] != (record.height, record.width):
        return UserError(
            f"the image {record.name} has {image.shape[2]} x {image.shape[1]} pixels, not {record.width} x "
            f"{record.height} as its header or annotations say: replace the image or correct its size"
        )
    if is_resized:
        # In floating point, as torchvision's detectors do; antialias acts only where the image gets smaller.
        image = functional.resize(image.float(), [view.height, view.width], antialias=view.antialias)
    return image if wanted.region == whole else cut_out(image, wanted.region)
