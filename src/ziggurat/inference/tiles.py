"""Running a model over images of any size on all workers: what evaluation and prediction share.

1. An image that is larger than the crop, after the resizing that training does, is cut into overlapping tiles.
2. The tiles of all images form *batches* of one shape, in an order that depends on the images only. A batch is the
   unit of computation, as a microbatch is in training: hence the same bits on any number of workers. What a network draws at random in
   evaluation, too (Monte Carlo dropout), is keyed by the number of the batch.
3. Each worker takes a run of consecutive batches that costs about as much as any other's: pixels that are computed, and pixels of the
   files that are read for them. So a worker decodes few images, and one large image is spread over all workers.
   Workers of one place of the data axis take the same batches; how they share a batch is their strategies' (`Executor`).
4. What comes out of a batch is taken before the next one is computed: joined image by image (`run` beside this file), or
   written (`predict`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from ziggurat.config import RunConfig, bands_of
from ziggurat.data.batch import Part, stack_padded
from ziggurat.data.decoding import SpoiledImages
from ziggurat.data.extents import Extent, clip, volume
from ziggurat.data.views import Piece, View, batch_costs, batch_extent, make_batches, share_of
from ziggurat.errors import UserError
from ziggurat.inference.reading import Images, read_tiles
from ziggurat.models.images import AsSamples, Normalization
from ziggurat.models.vision import VisionModel, takes_samples
from ziggurat.parallel.graph.generators import generators_as_before_on, seed_everything
from ziggurat.strategies.base import Setting
from ziggurat.strategies.executor import Executor, place_for_inference
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.mode import EvaluationMode
from ziggurat.strategies.running import Microbatches
from ziggurat.strategies.setting import image_spec
from ziggurat.tasks.base import Task

T = TypeVar("T")  # what is found in a tile

# Called after each batch with this worker's tiles: done, and in all.
ProgressCallback = Callable[[int, int], None]
# Called with the number of a batch, the result of each of its tiles, and why images could not be decoded so far, by their indices.
Take = Callable[[int, Sequence[T], Mapping[int, str]], None]

# Pixels of a batch: enough to fill the device, and no more, so that the work divides evenly.
BATCH_PIXELS = {"cpu": 1 << 18, "cuda": 1 << 22}
# Pixels that are decoded in the time in which a network computes one: on a core 8 ns (JPEG) to 17 ns (PNG) against 0.6 us (ResNet-18) to
# 3.2 us (FCOS with ResNet-50). On a GPU, where nothing was measured, one of each counts alike.
READ_PIXELS_OF_COMPUTED = {"cpu": 128, "cuda": 1}


@dataclass(frozen=True)
class Compute:
    """How a model is run, or several whose predictions are averaged.

    Attributes:
        executor: The model on its workers; all of them call `run_tiles`.
        dtype: As in training.
        channels_last: As in training.
        batch: Most tiles that are computed at once.
        mode: The model's, which all threads that run it share.
        normalization: Of the samples of its images.
        progress: Called after each batch.
        others: How further models are run, on the same workers and on the same tiles.
    """

    executor: Executor[VisionModel]
    dtype: Literal["auto", "bf16", "fp32"]
    channels_last: bool
    batch: int
    mode: EvaluationMode
    normalization: Normalization
    progress: ProgressCallback | None = None
    others: tuple[Compute, ...] = ()

    @property
    def members(self) -> tuple[Compute, ...]:
        """How each model is run."""
        return (self, *self.others)

    @property
    def size_multiple(self) -> int:
        """What rows and columns of a batch are multiples of, for every model."""
        return math.lcm(*(one.executor.model.size_multiple for one in self.members))

    @property
    def at_once(self) -> int:
        """Batches that are computed together."""
        return max(one.executor.at_once for one in self.members)

    @property
    def mesh(self) -> Mesh:
        """All workers."""
        return self.executor.mesh

    @property
    def bands(self) -> int:
        """Bands of the images."""
        return len(self.normalization.mean)

    @property
    def pixel_bytes(self) -> int:
        """Most bytes of a pixel of the images: of samples of their own type four for each band."""
        return self.bands * (1 if self.normalization.white != 1 else 4)


def compute_as_configured(
    config: RunConfig, executor: Executor[VisionModel], progress: ProgressCallback | None = None
) -> Compute:
    """Return how a run's config has its model run."""
    batch, mode = batch_of(config, executor.mesh), EvaluationMode(executor.model)
    preparation = AsSamples if takes_samples(executor.model) else Normalization
    normalization = preparation.of(config.data, executor.model)
    return Compute(executor, config.dtype, config.train.channels_last, batch, mode, normalization, progress)


def batch_of(config: RunConfig, mesh: Mesh) -> int:
    """Return the tiles of a batch."""
    return max(1, BATCH_PIXELS[mesh.workers.device.type] // config.data.crop**2)


def place_as_configured(model: VisionModel, config: RunConfig, mesh: Mesh) -> Executor[VisionModel]:
    """Place a model on the workers of a mesh for evaluation or prediction; all workers call this."""
    side, last = config.data.crop, config.train.channels_last
    spec = image_spec((batch_of(config, mesh), bands_of(config.model), side, side), last, mesh)
    compute = partial(_autocast, mesh.workers.device, config.dtype)
    return place_for_inference(model, mesh, Setting(spec, config, 1, compute))


def _autocast(device: torch.device, dtype: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16")


@dataclass(frozen=True)
class Work:
    """The tiles of all images, in batches: the same on every worker.

    Attributes:
        views: How the model sees each image.
        batches: In the order of computation; they depend on the images and settings alone.
        todo: The number of each batch that is to be computed, rising.
        cuts: Where each worker's part of `todo` begins, and where the last one's ends.
    """

    views: Sequence[View]
    batches: Sequence[tuple[Piece, ...]]
    todo: Sequence[int]
    cuts: Sequence[int]

    @classmethod
    def of(cls, images: Images, views: Sequence[View], compute: Compute, done: Container[int] = ()) -> Work:
        """Put the tiles of images into batches, and share out those that are not done, by what they cost."""
        multiple, size = compute.size_multiple, compute.mesh.data.size
        batches = make_batches(views, multiple, compute.batch)
        todo = [number for number in range(len(batches)) if number not in done]
        sources = [volume(images.record(index).extent) for index in range(len(views))]
        weight = READ_PIXELS_OF_COMPUTED[compute.mesh.workers.device.type]
        costs = batch_costs((batches[number] for number in todo), views, sources, multiple, weight)
        shares = [share_of(rank, size, costs) for rank in range(size)]
        return cls(views, batches, todo, [*(share.start for share in shares), len(todo)])

    def share(self, rank: int) -> Sequence[int]:
        """Return the numbers of the batches that a worker of the data axis computes, rising."""
        return self.todo[self.cuts[rank] : self.cuts[rank + 1]]


def run_tiles(
    images: Images,
    work: Work,
    task: Task[T, Any],
    compute: Compute,
    take: Take[T],
    spoiled: dict[int, str] | None = None,
) -> None:
    """Run a model on tiles, together with the other workers.

    Args:
        images: The same on every worker.
        work: Their tiles.
        task: Decodes the models' outputs, and combines what each has found.
        compute: How; the model's mode (training or evaluation) is restored.
        take: Called after each of this worker's batches, in order.
        spoiled: Takes the index of each image that cannot be decoded, and why, on every worker; its tiles are computed as
            black ones. None makes such an image an error.

    Raises:
        SpoiledImages: On every worker, with each image that cannot be decoded, if `spoiled` is None.

    Placement:
        Every worker has its part of the model and can read every image; afterwards each has been given the results of its tiles
        (workers that share images have the same ones).

    Communication:
        One gather of the faults; along sp that of the model, and one of the faults for each batch.
    """
    workers = compute.mesh.data
    share = work.share(workers.rank)
    forward = _Forward(task, compute)
    most = max(len(work.share(rank)) for rank in range(workers.size))
    with ExitStack() as modes:
        modes.enter_context(generators_as_before_on(compute.mesh.workers.device))
        for one in compute.members:
            modes.enter_context(one.mode)
        run = _Run(forward, images, work, compute, take, spoiled is not None)
        run.batches(share)
        if most > run.num_runs:
            forward.keep_company(work.batches[work.todo[0]], most - run.num_runs)
    for one in compute.members:
        one.executor.end()
    messages = {
        image: text
        for by_image in compute.mesh.workers.gather(run.faults)
        for image, text in by_image.items()
    }
    if spoiled is not None:
        spoiled |= {image: messages[image] for image in sorted(messages)}
    elif messages:
        raise SpoiledImages(messages)


class Given(NamedTuple):
    """A batch before it is computed.

    Attributes:
        number: Of the batch.
        batch: The tiles.
        tiles: Their pixels.
        part: What this worker has of each; None for all.
    """

    number: int
    batch: Sequence[Piece]
    tiles: list[Tensor]
    part: Part | None


@dataclass(frozen=True)
class _Forward(Generic[T]):
    """Runs the model, or one model after the other, on batches."""

    task: Task[T, Any]
    compute: Compute

    def __call__(self, group: Sequence[Given]) -> list[list[T]]:
        """Return the result of each tile of each batch, on every worker that computes a part of them."""
        pairs = zip(self.compute.members, self.task.decoders, strict=True)
        parts = [self._of_model(one, decode, group) for one, decode in pairs]
        return [self.task.combine(of_batch) for of_batch in zip(*parts, strict=True)]

    def _of_model(
        self, model: Compute, decode: Callable[[Any, Sequence[Extent]], list[Any]], group: Sequence[Given]
    ) -> list[list[Any]]:
        """Return what a model finds in each tile of each batch."""

        def images(index: int) -> Tensor:
            given = group[index]
            return self.images(given.batch, given.tiles, given.part, model.normalization)

        def finish(outputs: Any, index: int) -> list[Any]:
            return decode(outputs, _sizes(group[index].batch))

        def seed(index: int) -> None:
            seed_everything(group[index].number)

        return model.executor.run(Microbatches(len(group), images, finish, self.autocast, seed))

    def keep_company(self, batch: Sequence[Piece], runs: int) -> None:
        """Take part in the runs of other workers, on a black tile of a batch's size."""
        mesh = self.compute.mesh
        extent = batch_extent(batch, self.compute.size_multiple)

        def black() -> Tensor:
            part = mesh.part(*extent)
            images = torch.zeros(
                (1, self.compute.bands, *(extent if part is None else part.tile.size)),
                device=mesh.workers.device,
            )
            return mesh.spread(self._in_format(images), part)

        for one in self.compute.members:
            one.executor.keep_company(runs, black, self.autocast)

    def autocast(self) -> torch.autocast:
        """Return a context in which the model computes."""
        return _autocast(self.compute.mesh.workers.device, self.compute.dtype)

    def _in_format(self, images: Tensor) -> Tensor:
        last = self.compute.channels_last
        return images.contiguous(memory_format=torch.channels_last) if last else images

    def images(
        self, batch: Sequence[Piece], tiles: list[Tensor], part: Part | None, normalization: Normalization
    ) -> Tensor:
        """Return a batch as a model sees it.

        Args:
            batch: The tiles.
            tiles: Their pixels, or of each those that lie in `part`: samples, shape ``(C, H, W)``.
            part: What this worker has of each; None for all.
            normalization: Of the model.
        """
        mesh, sizes = self.compute.mesh, _sizes(batch)
        if any(tile.is_floating_point() for tile in tiles):  # those of a resized image are
            tiles = [tile.float() for tile in tiles]
        extent = batch_extent(batch, self.compute.size_multiple) if part is None else part.tile.size
        stacked = self._in_format(stack_padded(tiles, extent).to(mesh.workers.device))
        own_sizes = sizes if part is None else part.sizes(sizes)
        return mesh.spread(normalization(stacked, own_sizes), part)


def _sizes(batch: Sequence[Piece]) -> list[Extent]:
    return [piece.tile.size for piece in batch]


@dataclass
class _Run(Generic[T]):
    """This worker's batches, one after the other.

    After a fault nothing more is computed, but all images are decoded still, so that every fault is told at once; a tolerant
    run goes on, with black tiles in the place of those that cannot be decoded: batches are those of sound images.

    Attributes:
        forward: Runs the model.
        images: As they lie in their files.
        work: The batches.
        compute: How they are computed.
        take: Takes the results.
        is_tolerant: Whether it goes on after a fault.
        faults: Of each image that cannot be decoded, by its index.
        num_runs: Of the model, so far.
    """

    forward: _Forward[T]
    images: Images
    work: Work
    compute: Compute
    take: Take[T]
    is_tolerant: bool
    faults: dict[int, str] = field(default_factory=dict)
    num_runs: int = 0

    def batches(self, share: Sequence[int]) -> None:
        """Compute some batches."""
        mesh = self.compute.mesh
        batches = [self.work.batches[number] for number in share]
        parts = [mesh.part(*batch_extent(batch, self.compute.size_multiple)) for batch in batches]
        own = [
            _own_pixels(piece, part) for batch, part in zip(batches, parts, strict=True) for piece in batch
        ]
        waiting: list[Given] = []  # until there are as many as keep all workers of the network busy
        done = 0
        with (
            ExitStack() as contexts,
            closing(read_tiles(self.images, self.work.views, own, self.compute.pixel_bytes)) as tiles,
        ):
            for one in self.compute.members:
                contexts.enter_context(one.executor.context())
            for place, (number, batch, part) in enumerate(zip(share, batches, parts, strict=True), start=1):
                waiting.append(Given(number, batch, self._pixels(batch, part, tiles), part))
                if len(waiting) == self.compute.at_once or place == len(batches):
                    done += self._compute(waiting)
                    waiting = []
                if self.compute.progress is not None:
                    self.compute.progress(done, len(own))

    def _pixels(
        self, batch: Sequence[Piece], part: Part | None, tiles: Iterator[Tensor | UserError]
    ) -> list[Tensor]:
        """Return the pixels of the tiles of a batch, without those that cannot be decoded, or black ones in their place."""
        pixels = []
        for piece in batch:
            tile = next(tiles)
            if not isinstance(tile, UserError):
                pixels.append(tile)
                continue
            self.faults[piece.image] = str(tile)
            if self.is_tolerant:
                size = _own_pixels(piece, part).tile.size
                pixels.append(torch.zeros((self.compute.bands, *size), dtype=torch.uint8))
        return pixels

    def _compute(self, group: Sequence[Given]) -> int:
        """Compute some batches, let their results be taken, and return how many tiles they had."""
        # workers that compute a batch together go on together, or not at all
        if not self.is_tolerant and any(self.compute.mesh.together.sum([len(self.faults)])):
            return 0
        results = self.forward(group)
        self.num_runs += len(group)
        with torch.inference_mode(False), torch.no_grad():  # what is made of them may meet autograd later
            for given, found in zip(group, results, strict=True):
                self.take(given.number, found, self.faults)
        return sum(map(len, results))


def _own_pixels(piece: Piece, part: Part | None) -> Piece:
    """Return what this worker has of a tile."""
    return piece if part is None else Piece(piece.image, clip(piece.tile, part.tile))
