"""Joining what was found in the tiles of one image.

Neighbouring tiles overlap, so that an object in the overlap is seen twice, and by one of the two perhaps in part::

    columns      0 ........ a .... b ........ c       tile 1 is 0..b, tile 2 is a..c
    an object                   [====]                tile 1 sees [==|, a fragment; tile 2 sees all of it
                                   b

A detection that comes near to an inner border of its tile is a *fragment* if another tile holds it with more room:
that tile has seen what lies beyond the border, and its own finding counts. The other tile must have twice the room,
so that a detector whose boxes differ by a few pixels between tiles does not lose an object in both. What remains is
joined by one class-wise suppression of the whole image.

An object that is larger than the overlap may lie whole in no tile; then its parts remain, and are joined as far as
their IoU goes. Hence the rule for users: an overlap as large as the largest object.

Shapes: ``N`` detections, ``T`` tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ziggurat.config import DecodeConfig
from ziggurat.data.detections import Detections, concatenate
from ziggurat.data.extents import Region
from ziggurat.tasks.detection.suppression import suppress

AT_ONCE = 1 << 20  # distances that are computed at once


def merge_tiles(
    tiles: Sequence[Region], found: Sequence[Detections], margin: float, decode: DecodeConfig
) -> Detections:
    """Join the detections of an image's tiles.

    Args:
        tiles: All tiles of the image, in a fixed order.
        found: The detections of each tile, in pixels of the tile.
        margin: Pixels: a box with less room to an inner border may be a fragment. At most an eighth of the overlap,
            so that boxes of half the overlap are still told from fragments.
        decode: The IoU of the suppression; its limit of detections is that of each tile.

    Returns:
        The detections of the image in its pixels, by falling score.
    """
    if len(tiles) == 1:
        return found[0]
    corners = torch.tensor([(tile.left, tile.top) for tile in tiles], dtype=torch.float32).repeat(1, 2)
    every = concatenate(found)
    tile_N = torch.arange(len(tiles)).repeat_interleave(torch.tensor([len(one) for one in found]))
    boxes = every.boxes_xyxy + corners[tile_N].to(every.boxes_xyxy)
    whole = ~is_fragment(boxes, tile_N, inner_borders(tiles), margin)
    joined = replace(every, boxes_xyxy=boxes[whole], scores=every.scores[whole], labels=every.labels[whole])
    return suppress(joined, decode.nms_threshold, max_detections=None)


def inner_borders(tiles: Sequence[Region]) -> Tensor:
    """Return the corners of each tile in the image, float32, shape ``(T, 4)``; infinite where the image ends.

    Example:
        >>> inner_borders([Region((0, 0), (4, 4)), Region((0, 3), (4, 4))])
        tensor([[-inf, -inf, 4., inf],
                [3., -inf, inf, inf]])
    """
    borders = torch.tensor(
        [[tile.left, tile.top, tile.left + tile.width, tile.top + tile.height] for tile in tiles],
        dtype=torch.float32,
    )
    ends = borders.amax(dim=0)
    borders[:, :2] = borders[:, :2].where(borders[:, :2] > 0, -torch.inf)
    borders[:, 2:] = borders[:, 2:].where(borders[:, 2:] < ends[2:], torch.inf)
    return borders


def is_fragment(boxes_xyxy: Tensor, tile_N: Tensor, borders_T4: Tensor, margin: float) -> Tensor:
    """Return which detections another tile sees better than their own, bool, shape ``(N,)``.

    Args:
        boxes_xyxy: In pixels of the image, shape ``(N, 4)``.
        tile_N: The number of the tile that each was found in.
        borders_T4: As `inner_borders` gives them, of tiles that form a grid.
        margin: As in `merge_tiles`.
    """
    borders_T4 = borders_T4.to(boxes_xyxy)
    own_N4 = borders_T4[tile_N]
    fragment = torch.minimum(*(_room(boxes_xyxy, own_N4, dim) for dim in (0, 1))) < margin
    near = fragment.nonzero().squeeze(1)
    fragment[near] = best_room(boxes_xyxy[near], borders_T4) >= 2 * margin
    return fragment


def best_room(boxes_N4: Tensor, borders_T4: Tensor) -> Tensor:
    """Return the pixels from each box to the nearest inner border of the tile that holds it best, shape ``(N,)``.

    Tiles form a grid, so the best tile has the best of all columns and the best of all rows: each dim is looked at apart.
    """
    rooms = []
    for dim in (0, 1):
        sides = borders_T4.new_tensor(sorted({*map(tuple, borders_T4[:, [dim, dim + 2]].tolist())}))
        some = boxes_N4.split(max(1, AT_ONCE // max(1, len(sides))))
        found = [
            torch.minimum(
                boxes[:, None, dim] - sides[None, :, 0], sides[None, :, 1] - boxes[:, None, dim + 2]
            ).amax(dim=1)
            for boxes in some
        ]
        rooms.append(torch.cat(found))
    return torch.minimum(*rooms)


def _room(boxes_N4: Tensor, borders_N4: Tensor, dim: int) -> Tensor:
    """Return the pixels from each box to the nearer inner border of its tile along one dim, shape ``(N,)``.

    Negative where the tile does not hold the whole box.
    """
    before = boxes_N4[:, dim] - borders_N4[:, dim]
    return torch.minimum(before, borders_N4[:, dim + 2] - boxes_N4[:, dim + 2])
