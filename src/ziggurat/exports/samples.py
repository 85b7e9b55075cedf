"""The images that an export is proved on: as the network sees them, at three sizes, in batches of three numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.config import DigitsConfig, RunConfig
from ziggurat.data.batch import stack_padded
from ziggurat.data.digits import DigitScenes
from ziggurat.data.extents import Extent, largest, rounded_up
from ziggurat.data.views import Piece
from ziggurat.errors import UserError
from ziggurat.inference.reading import Images, read_tiles
from ziggurat.tasks.base import Task

STEPS = (
    -1,
    0,
    1,
)  # sizes: a quarter less, the tile's own, a quarter more; at least one multiple between them
BATCHES = (1, 2, 3)
TRIMMED = 7  # rows and columns by which each image of a batch is smaller than the one before


@dataclass(frozen=True)
class Batch:
    """Some images, as a graph takes them.

    Attributes:
        names: Of the images.
        images_BCHW: Samples, float32, padded.
        sizes: Rows and columns of each before padding.
    """

    names: tuple[str, ...]
    images_BCHW: Tensor
    sizes: tuple[Extent, ...]

    @property
    def sizes_B2(self) -> Tensor:
        """The sizes as a graph takes them."""
        return torch.tensor(self.sizes, dtype=torch.int64)


def embedded_images(config: RunConfig, bands: int) -> Images:
    """Return scenes of digits, for a run whose own images are not here.

    Raises:
        UserError: If the network sees other bands than theirs.
    """
    if bands != 3 or config.data.has_own_bands:
        raise UserError(
            f"an export is proved on real images, and the embedded ones have red, green and blue of 8 bits, not {bands} bands of "
            f"their own type: name images with --data"
        )
    side = config.data.crop
    height = (max(8, side // 6), max(9, side // 2))
    scenes = DigitsConfig(size=side, val_scenes=200, height_min=height[0], height_max=height[1])
    return DigitScenes(scenes, "val")


def first_tiles(images: Images, task: Task[Any, Any], count: int) -> tuple[list[str], list[Tensor]]:
    """Return the names and the first tile of the first images, as the network sees them.

    Raises:
        UserError: If one of them cannot be decoded.
    """
    records = [images.record(index) for index in range(min(count, len(images)))]
    views = [task.view(record) for record in records]
    pieces = [Piece(index, view.tiles[0]) for index, view in enumerate(views)]
    tiles = []
    for tile in read_tiles(images, views, pieces):
        if isinstance(tile, UserError):
            raise tile
        tiles.append(tile.float())
    return [record.name for record in records], tiles


@dataclass(frozen=True)
class Batching:
    """How a graph takes images.

    Attributes:
        multiple: Of rows and columns of a batch.
        pads: Whether images of a batch may be of several sizes, padded to one.
        only_size: Rows and columns of the only images that the network takes.
    """

    multiple: int
    pads: bool
    only_size: int | None = None


def batches(names: Sequence[str], tiles: Sequence[Tensor], batching: Batching) -> Iterator[Batch]:
    """Yield the images at each of the sizes of `STEPS`, in batches of each of `BATCHES`.

    Args:
        names: Of the images.
        tiles: Their samples, float32, shapes ``(C, H, W)``.
        batching: How the graph takes them.
    """
    multiple = batching.multiple
    for step in STEPS if batching.only_size is None else (0,):
        resized = [_resized(tile, step, batching) for tile in tiles]
        for count in BATCHES:
            for start in range(0, len(tiles), count):
                some = resized[start : start + count]
                if batching.pads:
                    some = [_trimmed(one, place * TRIMMED, multiple) for place, one in enumerate(some)]
                elif len({one.shape for one in some}) > 1:  # images of one batch have one size
                    least = [min(one.shape[dim] for one in some) for dim in (1, 2)]
                    some = [one[:, : least[0], : least[1]] for one in some]
                yield _batch(names[start : start + count], some, multiple)


def single_batches(names: Sequence[str], tiles: Sequence[Tensor], batching: Batching) -> list[Batch]:
    """Return the images in their own size, each by itself; the arguments are those of `batches`."""
    return [
        _batch([name], [_resized(tile, 0, batching)], batching.multiple)
        for name, tile in zip(names, tiles, strict=True)
    ]


def _batch(names: Sequence[str], images: Sequence[Tensor], multiple: int) -> Batch:
    sizes = tuple((one.shape[1], one.shape[2]) for one in images)
    return Batch(tuple(names), stack_padded(images, rounded_up(largest(sizes), multiple)), sizes)


def _resized(tile: Tensor, step: int, batching: Batching) -> Tensor:
    multiple = batching.multiple
    size = [max(multiple, side + step * max(multiple, side // 4)) for side in tile.shape[1:]]
    if batching.only_size is not None:
        size = [batching.only_size, batching.only_size]
    elif not batching.pads:
        size = [max(multiple, side // multiple * multiple) for side in size]
    if size == list(tile.shape[1:]):
        return tile
    return functional.interpolate(tile[None], size=size, mode="bilinear", align_corners=False)[0]


def _trimmed(image: Tensor, pixels: int, multiple: int) -> Tensor:
    """Return an image without some of its last rows and columns, as many as padding may stand in for."""
    rows, columns = (side - min(pixels, multiple - 1, side - 1) for side in image.shape[1:])
    return image[:, :rows, :columns]
