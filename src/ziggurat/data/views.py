"""How the network sees images of any size, and in what order: which tiles, in which batches, on which worker.

The batches depend on the images and the settings only, never on the number of workers: they are the unit of
computation, as microbatches are in training.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ziggurat.config import DataConfig
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Extent, OfTwoDims, Region, hull, largest, rounded_up
from ziggurat.data.tiles import tile_grid
from ziggurat.data.transforms import resize_factors


@dataclass(frozen=True)
class View(OfTwoDims):
    """How the network sees one image.

    Attributes:
        extent: After resizing.
        tiles: What it is cut into; one tile if it is not larger than the crop.
        antialias: Whether it is smoothed where it becomes smaller.
    """

    extent: Extent
    tiles: tuple[Region, ...]
    antialias: bool = True


@dataclass(frozen=True)
class Piece:
    """One tile of one image.

    Attributes:
        image: The image's index.
        tile: In pixels of the resized image.
    """

    image: int
    tile: Region


def make_view(record: ImageRecord, config: DataConfig) -> View:
    """Say how the network sees an image.

    Example:
        >>> view = make_view(ImageRecord("a.png", 1, height=300, width=800), DataConfig(crop=600, resize=600))
        >>> view.extent, [tile.start for tile in view.tiles]
        ((499, 1333), [(0, 0), (0, 366), (0, 733)])
    """
    factors = resize_factors(record.extent, config, record.spacing)
    # rounded down, as torchvision's detectors do; what is measured in metres is near a whole number, on either side
    whole = round if config.gsd or config.mpp else math.floor
    extent = tuple(max(1, whole(size * factor)) for size, factor in zip(record.extent, factors, strict=True))
    tiles = tile_grid(extent, (config.crop,) * len(extent), config.tile_overlap)
    return View(extent, tuple(tiles), config.antialias)


def make_center_view(record: ImageRecord, config: DataConfig) -> View:
    """Say how a classifier sees an image: its middle, as large as the crop.

    Example:
        >>> view = make_center_view(ImageRecord("a.png", 1, height=300, width=800), DataConfig(crop=224, resize=256))
        >>> view.extent, view.tiles[0].start
        ((256, 682), (16, 229))
    """
    whole = make_view(record, config)
    size = tuple(min(side, config.crop) for side in whole.extent)
    middle = Region(tuple((side - own) // 2 for side, own in zip(whole.extent, size, strict=True)), size)
    return replace(whole, tiles=(middle,))


@dataclass(frozen=True)
class Wanted:
    """Some pixels of one image that a worker needs at once.

    Attributes:
        image: The image's index.
        region: In pixels of the resized image; holds all of `tiles`.
        tiles: One after the other.
    """

    image: int
    region: Region
    tiles: tuple[Region, ...]


def wanted_pixels(pieces: Sequence[Piece], most: int | None = None) -> list[Wanted]:
    """Return what is needed of each image, for pieces of which those of an image follow each other.

    Args:
        pieces: Tiles.
        most: Pixels of a region, as long as it holds several tiles: an image may be larger than memory. None for any number.

    Example:
        >>> pieces = [Piece(3, Region((0, 0), (4, 4))), Piece(3, Region((2, 0), (4, 4)))]
        >>> wanted_pixels(pieces)[0].region, len(wanted_pixels(pieces, most=20))
        (Region(start=(0, 0), size=(6, 4)), 2)
    """
    wanted: list[Wanted] = []
    for piece in pieces:
        last = wanted[-1] if wanted else None
        if last is not None and last.image == piece.image:
            region = hull((last.region, piece.tile))
            if most is None or region.volume <= most:
                wanted[-1] = Wanted(piece.image, region, (*last.tiles, piece.tile))
                continue
        wanted.append(Wanted(piece.image, piece.tile, (piece.tile,)))
    return wanted


def make_batches(views: Sequence[View], multiple: int, batch: int) -> list[tuple[Piece, ...]]:
    """Put the tiles of all images into batches of one padded shape.

    Images whose tiles have equal shape follow each other, otherwise in their own order; all tiles of an image have
    the same shape. The result depends on nothing but the arguments.

    Args:
        views: Of each image.
        multiple: Tiles are padded to multiples of this number.
        batch: Most tiles of a batch.
    """

    def shape(index: int) -> Extent:
        return rounded_up(views[index].tiles[0].size, multiple)

    batches: list[tuple[Piece, ...]] = []
    for _, same_shape in itertools.groupby(sorted(range(len(views)), key=shape), key=shape):
        pieces = [Piece(index, tile) for index in same_shape for tile in views[index].tiles]
        batches += [tuple(pieces[start : start + batch]) for start in range(0, len(pieces), batch)]
    return batches


def batch_extent(pieces: Sequence[Piece], multiple: int) -> Extent:
    """Return what the tiles of a batch are padded to."""
    return rounded_up(largest([piece.tile.size for piece in pieces]), multiple)


def batch_costs(
    batches: Iterable[Sequence[Piece]],
    views: Sequence[View],
    sources: Sequence[int],
    multiple: int,
    weight: int,
) -> list[int]:
    """Return what each batch costs: the pixels that are computed, with padding, and those of the files that are read for it.

    Args:
        batches: Tiles.
        views: Of each image.
        sources: Pixels of each image as it lies in its file; its tiles take equal parts of them.
        multiple: What tiles are padded to multiples of.
        weight: Pixels that are read in the time in which one is computed.

    Example:
        >>> view = make_view(ImageRecord("a.png", 1, height=60, width=100), DataConfig(crop=60))
        >>> pieces = [Piece(0, tile) for tile in view.tiles]
        >>> [tile.size for tile in view.tiles], batch_costs([pieces], [view], [60 * 100], multiple=32, weight=2)
        ([(60, 60), (60, 60)], [22384])
    """
    costs = []
    for pieces in batches:
        computed = len(pieces) * math.prod(batch_extent(pieces, multiple))
        read = sum(sources[piece.image] // len(views[piece.image].tiles) for piece in pieces)
        costs.append(weight * computed + read)
    return costs


def share_of(rank: int, size: int, costs: Sequence[int]) -> slice:
    """Return the run of consecutive parts that a worker takes: those whose middle lies in its share of the cost.

    Example:
        >>> [share_of(rank, 3, [4, 1, 1, 1, 1]) for rank in range(3)]
        [slice(0, 1, None), slice(1, 2, None), slice(2, 5, None)]
    """
    total = sum(costs)
    before = itertools.accumulate(costs, initial=0)
    # In whole numbers, so that all workers agree.
    owners = [(2 * start + cost) * size // (2 * total) for start, cost in zip(before, costs, strict=False)]
    return slice(sum(owner < rank for owner in owners), sum(owner <= rank for owner in owners))
