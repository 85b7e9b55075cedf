"""Where in an image a prediction is wrong: mistakes counted in square cells of pixels.

Shapes: ``R`` rows and ``C`` columns of cells, the last ones perhaps cut off by the image's edge.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ziggurat.data.batch import IGNORED_PIXEL
from ziggurat.data.detections import PICTURE_SCORE, Detections
from ziggurat.data.extents import Extent
from ziggurat.metrics.coco import GroundTruth
from ziggurat.metrics.matching import FREE, at_least, match

SIDE = 384  # pixels of a window that a report shows, of which each is a pixel of the picture
CELLS = 4  # of a window along each dim: windows begin at cells
CELL = SIDE // CELLS


class Mistakes(NamedTuple):
    """Where the prediction for one image is wrong.

    Attributes:
        image: Its number.
        extent: Its rows and columns.
        cells: The mistakes in each cell of `CELL` pixels, float64, shape ``(R, C)``.
    """

    image: int
    extent: Extent
    cells: Tensor


def is_large(extent: Extent) -> bool:
    """Whether a report's sheet shows an image smaller than it is."""
    return max(extent) > SIDE


def detection_mistakes(found: Detections, truth: GroundTruth, extent: Extent, cell: int) -> Tensor:
    """Count objects that were not found and detections of nothing, each at its centre.

    Those detections count that a picture would show (`PICTURE_SCORE`), each for an object of its class, as `match` says.

    Args:
        found: Of the image.
        truth: Of the image.
        extent: Rows and columns of the image.
        cell: Pixels of a cell's side.

    Returns:
        float64, shape ``(R, C)``.
    """
    shown = at_least(found, PICTURE_SCORE)
    taken = torch.from_numpy(match(shown, truth, same_class=True))
    missed = ~truth.crowd
    missed[taken[taken >= 0]] = False
    wrong = torch.cat([shown.boxes_xyxy[taken == FREE], truth.boxes_xyxy[missed]])
    centers_yx = (wrong[:, :2] + wrong[:, 2:]).flip(1) / 2
    rows, columns = (-(-length // cell) for length in extent)
    most = torch.tensor([rows - 1, columns - 1])
    places = (centers_yx / cell).long().clamp(min=0).minimum(most)
    counts = torch.zeros(rows * columns, dtype=torch.float64)
    counts.index_add_(0, places[:, 0] * columns + places[:, 1], torch.ones(len(places), dtype=torch.float64))
    return counts.view(rows, columns)


def segmentation_mistakes(predicted_HW: Tensor, truth_HW: Tensor, cell: int) -> Tensor:
    """Count the pixels that have another label than they should.

    Args:
        predicted_HW: uint8.
        truth_HW: uint8; `IGNORED_PIXEL` takes no part.
        cell: Pixels of a cell's side.

    Returns:
        float64, shape ``(R, C)``.

    Example:
        >>> segmentation_mistakes(torch.tensor([[0, 1, 1], [0, 0, 2]]), torch.tensor([[0, 0, 255], [0, 0, 1]]), cell=2)
        tensor([[1., 1.]], dtype=torch.float64)
    """
    wrong = (predicted_HW != truth_HW) & (truth_HW != IGNORED_PIXEL)
    rows, columns = (-(-length // cell) for length in wrong.shape)
    padded = torch.zeros((rows * cell, columns * cell), dtype=torch.bool)
    padded[: wrong.shape[0], : wrong.shape[1]] = wrong
    return padded.view(rows, cell, columns, cell).sum(dim=(1, 3)).to(torch.float64)
