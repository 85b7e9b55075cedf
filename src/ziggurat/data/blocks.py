"""Which pixels are trained on and which evaluated on, where images are divided into blocks: pure geometry and a key.

Each image is cut into a grid of blocks of about one size. Some are held out for validation, chosen in an order that the seed
alone decides, and neighbours of one part are joined to larger rectangles (`T` training, `V` validation)::

    T T V T         +---+ V +-+        a crop for training lies within one rectangle,
    T T T T         +---+---+-+        and never meets a pixel of V
    V T T V         V +---+ V

The field calls them spatial blocks: pixels beside each other are alike, so single crops drawn at random would be measured on
what was trained on.

References:
    Roberts et al., Cross-validation strategies for data with temporal, spatial, hierarchical, or phylogenetic structure, 2017.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from ziggurat.data.extents import Extent, Region
from ziggurat.data.randomness import Purpose, keyed_generator

Which = Literal["train", "val"]
MOST_BLOCKS = 10_000


@dataclass(frozen=True)
class Division:
    """How images are divided.

    Attributes:
        block: Side of a block in pixels, about.
        num_blocks: Blocks of each part.
        regions: Of each part the index of an image and a region of it; those of both parts cover each pixel once.
    """

    block: int
    num_blocks: Mapping[Which, int]
    regions: Mapping[Which, tuple[tuple[int, Region], ...]]

    def num_pixels(self, part: Which) -> int:
        """Return the pixels of a part."""
        return sum(region.volume for _, region in self.regions[part])

    def __str__(self) -> str:
        held, trained = self.num_pixels("val"), self.num_pixels("train")
        return (
            f"of {sum(self.num_blocks.values())} blocks of about {self.block} pixels a side, {self.num_blocks['val']} "
            f"({held / (held + trained):.1%} of all pixels, {_regions(len(self.regions['val']))}) are evaluated on and "
            f"{self.num_blocks['train']} ({_regions(len(self.regions['train']))}) trained on"
        )


def _regions(count: int) -> str:
    return f"{count} region{'s' if count > 1 else ''}"


def divide(extents: Sequence[Extent], block: int, share: float, seed: int) -> Division:
    """Divide images into blocks for training and for validation.

    Args:
        extents: Of each image.
        block: Pixels of a block's side; those of an image are of equal size, or differ by a pixel.
        share: Of all pixels that are held out; what is differs by less than a block.
        seed: Decides which.

    Raises:
        ValueError: If the images have fewer than two blocks together.

    Example:
        >>> division = divide([(100, 100)], block=50, share=0.25, seed=0)
        >>> division.num_blocks, [region.size for _, region in division.regions["val"]]
        ({'train': 3, 'val': 1}, [(50, 50)])
    """
    grids = [[cut_evenly(length, block) for length in extent] for extent in extents]
    cells = [list(itertools.product(*(range(len(cuts) - 1) for cuts in grid))) for grid in grids]
    areas = [
        [_pixels(Region(cell, (1,) * len(cell)), grid).volume for cell in of_image]
        for of_image, grid in zip(cells, grids, strict=True)
    ]
    if sum(map(len, areas)) < 2:
        raise ValueError(
            f"two blocks at least are needed, one of each part: got {sum(map(len, areas))} of {block} pixels"
        )
    held = _held_out(areas, share, seed)
    regions: dict[Which, list[tuple[int, Region]]] = {"train": [], "val": []}
    for image, (of_image, grid) in enumerate(zip(cells, grids, strict=True)):
        own = held.get(image, set())
        for part in regions:
            chosen = [cell for number, cell in enumerate(of_image) if (number in own) == (part == "val")]
            regions[part] += [(image, _pixels(one, grid)) for one in join(chosen)]
    num_held = sum(map(len, held.values()))
    counts: dict[Which, int] = {"train": sum(map(len, areas)) - num_held, "val": num_held}
    return Division(block, counts, {part: tuple(found) for part, found in regions.items()})


def cut_evenly(length: int, block: int) -> list[int]:
    """Return where blocks begin along a dim, and where the last one ends: as many as come nearest to the block's side.

    Example:
        >>> cut_evenly(1000, 300), cut_evenly(100, 300)
        ([0, 333, 666, 1000], [0, 100])
    """
    count = max(1, (2 * length + block) // (2 * block))
    return [length * number // count for number in range(count + 1)]


def count_blocks(extents: Iterable[Extent], block: int) -> int:
    """Return how many blocks images have together."""
    return sum(math.prod(len(cut_evenly(length, block)) - 1 for length in extent) for extent in extents)


def natural_block(extents: Sequence[Extent], crop: int, share: float) -> int:
    """Return the side of blocks that suits a crop: twice as large, or less where so few are there that the share is coarse.

    Half of the crop is the least: of smaller ones a crop would be black for the most part.

    Example:
        >>> natural_block([(20000, 20000)], 512, 0.2), natural_block([(1500, 1500)], 400, 0.2)
        (1024, 400)
    """
    smaller = min(share, 1 - share)
    for side, of_part in ((2 * crop, 4.0), (3 * crop // 2, 4.0), (crop, 1.5)):  # blocks of the smaller part
        if count_blocks(extents, side) * smaller >= of_part:
            return side
    return max(1, crop // 2)


def join(cells: Iterable[Extent]) -> list[Region]:
    """Return few and wide boxes that cover each of some cells of a grid of two dims once, and no other.

    The box that has most room for crops is taken first, of what is left then the next one.

    Example:
        >>> [(box.start, box.size) for box in join([(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)])]
        [((0, 0), (2, 2)), ((2, 1), (1, 1))]
    """
    free = set(cells)
    heap = [(-_room(box), box.start, box.size) for box in (_roomiest(free, cell) for cell in free)]
    heapq.heapify(heap)
    found: list[Region] = []
    while heap:
        _, start, size = heapq.heappop(heap)
        box = Region(start, size)
        covered = set(itertools.product(*(range(*bounds) for bounds in zip(start, box.end, strict=True))))
        if covered <= free:
            found.append(box)
            free -= covered
        elif start in free:  # others have been taken from it
            box = _roomiest(free, start)
            heapq.heappush(heap, (-_room(box), box.start, box.size))
    return sorted(found, key=lambda box: box.start)


def _room(box: Region) -> float:
    """Return the places, in blocks, that a crop of half a block has in a box of blocks."""
    return math.prod(length - 0.5 for length in box.size)


def _roomiest(free: Set[Extent], start: Extent) -> Region:
    """Return the box with most room of those that begin at a cell, and lie in free cells."""
    (top, left), boxes = start, list[Region]()
    row, right = top, math.inf  # the column behind the box
    while (row, left) in free:
        column = left
        while column < right and (row, column) in free:
            column += 1
        row, right = row + 1, column
        boxes.append(Region(start, (row - top, column - left)))
    return max(boxes, key=_room)


def _held_out(areas: Sequence[Sequence[int]], share: float, seed: int) -> dict[int, set[int]]:
    """Return the blocks for validation of each image that has some.

    Images come in the key's order, and the blocks of each in an order of its own. What an image owes beyond whole blocks is left to
    the next one: so every image gives its share, and all together miss it by half a block at most, but for the block that each
    part must have.

    Args:
        areas: Pixels of each block of each image.
        share: Of all pixels.
        seed: Decides both orders.
    """
    held: list[tuple[int, int]] = []
    first: tuple[int, int] | None = None
    owed = 0.0
    for image in keyed_generator(seed, Purpose.BLOCKS).permutation(len(areas)).tolist():
        owed += share * sum(areas[image])
        order = keyed_generator(seed, Purpose.BLOCKS, image).permutation(len(areas[image])).tolist()
        first = first or (image, order[0])
        for block in order:
            if 2 * owed < areas[image][block]:
                break
            held.append((image, block))
            owed -= areas[image][block]
    if not held and first is not None:
        held = [first]
    if len(held) == sum(map(len, areas)):
        held.pop()
    by_image: dict[int, set[int]] = {}
    for image, block in held:
        by_image.setdefault(image, set()).add(block)
    return by_image


def _pixels(box: Region, grid: Sequence[Sequence[int]]) -> Region:
    """Return the pixels of a box of cells."""
    start = [cuts[first] for cuts, first in zip(grid, box.start, strict=True)]
    end = [cuts[last] for cuts, last in zip(grid, box.end, strict=True)]
    return Region.between(start, end)
