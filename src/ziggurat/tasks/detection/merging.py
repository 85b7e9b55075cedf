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

import torch
from torch import Tensor

from ziggurat.config import DecodeConfig
from ziggurat.data.detections import Detections, concatenate
from ziggurat.data.extents import Region
from ziggurat.tasks.detection.suppression import suppress


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
    borders_T4 = inner_borders(tiles)
    parts = []
    for number, (tile, detections) in enumerate(zip(tiles, found, strict=True)):
        shift = detections.boxes_xyxy.new_tensor([tile.left, tile.top, tile.left, tile.top])
        boxes = detections.boxes_xyxy + shift
        whole = ~is_fragment(boxes, number, borders_T4, margin)
        scores, labels = detections.scores[whole], detections.labels[whole]
        parts.append(Detections(boxes[whole], scores, labels, detections.num_cut, detections.best_cut))
    return suppress(concatenate(parts), decode.nms_threshold, max_detections=None)


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


def is_fragment(boxes_xyxy: Tensor, tile: int, borders_T4: Tensor, margin: float) -> Tensor:
    """Return which of a tile's detections another tile sees better, bool, shape ``(N,)``.

    Args:
        boxes_xyxy: Found in the tile, in pixels of the image, shape ``(N, 4)``.
        tile: The tile's number.
        borders_T4: As `inner_borders` gives them.
        margin: As in `merge_tiles`.
    """
    fragment = _room(boxes_xyxy, borders_T4[tile : tile + 1])[:, 0] < margin
    best_room = _room(boxes_xyxy[fragment], borders_T4).amax(dim=1)
    fragment[fragment.clone()] = best_room >= 2 * margin
    return fragment


def _room(boxes_N4: Tensor, borders_T4: Tensor) -> Tensor:
    """Return the pixels from each box to the nearest inner border of each tile, shape ``(N, T)``.

    Negative where the tile does not hold the whole box.
    """
    before = boxes_N4[:, None, :2] - borders_T4[None, :, :2]
    behind = borders_T4[None, :, 2:] - boxes_N4[:, None, 2:]
    return torch.cat([before, behind], dim=2).amin(dim=2)
