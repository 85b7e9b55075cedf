"""Which predictions are positive, and for which object: what a head's loss needs to know of the objects.

Shapes: ``B`` images, ``P`` predictions of one image (levels, then rows, then columns, then anchors), ``M`` objects
of all images, ``N`` positives of one level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ziggurat.tasks.detection.anchors import Grid, anchors_at
from ziggurat.tasks.own import Block

NEGATIVE, IGNORED = -1, -2  # instead of an object's index


@dataclass(frozen=True)
class Places:
    """Some predictions of one level of a microbatch, each int64 of shape ``(N,)``; no two are the same."""

    image: Tensor
    row: Tensor
    column: Tensor
    anchor: Tensor

    def inside(self, block: Block) -> Tensor:
        """Return which predictions lie in a block of the level's map, bool, shape ``(N,)``."""
        return (
            (self.row >= block.rows[0])
            & (self.row < block.rows[1])
            & (self.column >= block.columns[0])
            & (self.column < block.columns[1])
        )

    def take(self, chosen: Tensor, block: Block) -> Places:
        """Return some predictions, with rows and columns counted from the block's first ones."""
        row, column = self.row[chosen] - block.rows[0], self.column[chosen] - block.columns[0]
        return Places(self.image[chosen], row, column, self.anchor[chosen])


@dataclass(frozen=True)
class LevelTargets:
    """What one level has to predict.

    Attributes:
        positives: Predictions with an object.
        ignored: Predictions that take no part in the loss.
        anchors_xyxy: The anchor of each positive in pixels, float32, shape ``(N, 4)``.
        boxes_xyxy: The object of each positive in pixels, float32, shape ``(N, 4)``.
        labels: Its class, int64, shape ``(N,)``.
    """

    positives: Places
    ignored: Places
    anchors_xyxy: Tensor
    boxes_xyxy: Tensor
    labels: Tensor

    def of_block(self, block: Block) -> LevelTargets:
        """Return the targets of a block of the level's map."""
        chosen = self.positives.inside(block)
        return LevelTargets(
            self.positives.take(chosen, block),
            self.ignored.take(self.ignored.inside(block), block),
            self.anchors_xyxy[chosen],
            self.boxes_xyxy[chosen],
            self.labels[chosen],
        )


@dataclass(frozen=True)
class Assignment:
    """What the outputs of a microbatch have to predict.

    Attributes:
        levels: The targets by level.
        positives: Number of positives of each image, float64, shape ``(B,)``.
    """

    levels: dict[str, LevelTargets]
    positives: Tensor


def collect_targets(
    matched_BP: Tensor, grids: list[Grid], bases: list[Tensor], boxes_M4: Tensor, labels_M: Tensor
) -> Assignment:
    """Turn the objects that predictions are matched to into targets.

    Args:
        matched_BP: For each prediction the index of its object, or `NEGATIVE` or `IGNORED`.
        grids: The positions of each level.
        bases: Each level's anchors about (0, 0).
        boxes_M4: The objects of all images in pixels.
        labels_M: Their classes.
    """
    levels = {}
    split = matched_BP.split([len(grid) * len(base) for grid, base in zip(grids, bases, strict=True)], dim=1)
    for grid, base_A4, matched_BL in zip(grids, bases, split, strict=True):
        positives = _places(matched_BL >= 0, grid, len(base_A4))
        objects = matched_BL[matched_BL >= 0]
        levels[grid.name] = LevelTargets(
            positives,
            _places(matched_BL == IGNORED, grid, len(base_A4)),
            anchors_at(grid, base_A4, positives.row, positives.column, positives.anchor),
            boxes_M4[objects],
            labels_M[objects],
        )
    return Assignment(levels, (matched_BP >= 0).sum(dim=1).to(torch.float64))


def _places(mask_BL: Tensor, grid: Grid, num_anchors: int) -> Places:
    image, place = mask_BL.nonzero().unbind(dim=1)
    return places_from_index(image, place, grid.columns, num_anchors)


def places_from_index(image: Tensor, index: Tensor, columns: int, num_anchors: int) -> Places:
    """Split the index of predictions of a map (rows, then columns, then anchors) into its parts."""
    position = torch.div(index, num_anchors, rounding_mode="floor")
    row = torch.div(position, max(1, columns), rounding_mode="floor")
    return Places(image, row, position % max(1, columns), index % num_anchors)


def gather(map_BCHW: Tensor, places: Places, num_anchors: int) -> Tensor:
    """Read a term's values at some predictions.

    Its backward pass is deterministic, because no two places are the same.

    Args:
        map_BCHW: The channels of one anchor are neighbours.
        places: The predictions.
        num_anchors: Predictions at each position.

    Returns:
        In the map's type, shape ``(N, C / num_anchors)``.
    """
    by_anchor: Tensor = map_BCHW.unflatten(1, (num_anchors, -1))
    values: Tensor = by_anchor[places.image, places.anchor, :, places.row, places.column]
    return values
