"""FCOS: which position answers for which object, its loss and its boxes; as torchvision computes them.

Shapes: ``B`` images, ``P`` positions of one image, ``M`` objects of all images, ``N`` positives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss

from ziggurat.tasks.detection.anchors import Grid, base_anchors
from ziggurat.tasks.detection.assignment import NEGATIVE, Assignment

RADIUS = 1.5  # strides between an object's centre and the positions that answer for it
FINEST_SIDE, COARSEST_SIDE = 4, 8  # a level's objects: the farthest side is 4 to 8 strides away
CHUNK = 4096  # objects that are matched at a time
LARGEST_AREA = 1e8  # pixels; torchvision never assigns a larger object
INDEX_BITS = 32


class FcosAssigner:
    """Which of FCOS's predictions answers for which object; see `Assigner`.

    References:
        Tian et al., FCOS: A simple and strong anchor-free object detector, 2020, section 3.
        https://arxiv.org/abs/2006.09214
    """

    num_anchors: int = 1

    def base_anchors(self, stride: int, device: torch.device) -> Tensor:
        """Return the square that stands for a position, see `anchors.base_anchors`."""
        return base_anchors("fcos", stride, device)

    def match(self, boxes_M4: Tensor, image_M: Tensor, num_images: int, grids: list[Grid]) -> Tensor:
        """Assign objects to positions.

        A position answers for the smallest of the objects that it lies in, that its level is meant for, and whose
        centre is near; of equal ones for the first. Only the few positions about an object's centre are looked at:
        memory grows with the objects plus the positions, never with their product.

        Args:
            boxes_M4: The objects in pixels, float32.
            image_M: The image of each object, int64.
            num_images: Images of the microbatch.
            grids: The positions of each level, from the finest to the coarsest.

        Returns:
            For each position the index of its object or `NEGATIVE`, int64, shape ``(B, P)``.
        """
        num_positions = sum(map(len, grids))
        # the largest key wins: smaller areas, then earlier objects, have larger keys; 0 is no object
        key_BP = torch.zeros(num_images * num_positions, dtype=torch.int64, device=boxes_M4.device)
        for start in range(0, len(boxes_M4), CHUNK):
            boxes, image = boxes_M4[start : start + CHUNK], image_M[start : start + CHUNK]
            key = _object_keys(boxes, start)
            first = 0
            for number, grid in enumerate(grids):
                lower = 0.0 if number == 0 else float(grid.stride * FINEST_SIDE)
                upper = math.inf if number == len(grids) - 1 else float(grid.stride * COARSEST_SIDE)
                place, chosen = _near_positions(boxes, grid, lower, upper)
                # the maximum of integers: the same result in any order, also on a GPU
                index = image[chosen] * num_positions + first + place
                key_BP.scatter_reduce_(0, index, key[chosen], "amax")
                first += len(grid)
        index_BP = (1 << INDEX_BITS) - 1 - (key_BP & ((1 << INDEX_BITS) - 1))
        return torch.where(key_BP > 0, index_BP, NEGATIVE).view(num_images, num_positions)


class FcosBoxCoder:
    """What FCOS predicts for a box: its loss, its corners and its score; see `BoxCoder`."""

    term_names: tuple[str, ...] = ("classes", "boxes", "centerness")
    box_normalizer = "positives"

    def box_weights(self, assignment: Assignment) -> Tensor:
        """Return the positives of each image: each weighs 1 in the box term."""
        return assignment.positives

    def losses(self, values: dict[str, Tensor], anchors_N4: Tensor, boxes_N4: Tensor) -> dict[str, Tensor]:
        """Return the loss of each positive for every term but the classes, each of shape ``(N,)``.

        Args:
            values: The outputs of each term at the positives: ``boxes`` ``(N, 4)`` and ``centerness`` ``(N, 1)``.
            anchors_N4: The square of each positive.
            boxes_N4: The object of each positive.
        """
        found = self.decode(values["boxes"], anchors_N4)
        return {
            "boxes": generalized_box_iou_loss(found, boxes_N4),
            "centerness": functional.binary_cross_entropy_with_logits(
                values["centerness"].squeeze(1),
                centerness(anchors_N4, boxes_N4),
                reduction="none",
            ),
        }

    def decode(self, boxes_N4: Tensor, anchors_N4: Tensor) -> Tensor:
        """Return the corners in pixels of predicted boxes, shape ``(N, 4)``.

        Args:
            boxes_N4: Distances to the left, upper, right and lower side in units of the square's side.
            anchors_N4: The square about each position.
        """
        anchors_N4 = anchors_N4.to(boxes_N4.dtype)
        center = (anchors_N4[:, :2] + anchors_N4[:, 2:]) / 2
        distances = boxes_N4 * (anchors_N4[:, 2:] - anchors_N4[:, :2]).repeat(1, 2)
        return torch.cat([center - distances[:, :2], center + distances[:, 2:]], dim=1)

    def scores(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the score of each class: the geometric mean of its probability and the centerness.

        Args:
            terms: The outputs of one level, at least float32.

        Returns:
            Shape ``(B, num_classes, H, W)``.
        """
        return (terms["classes"].sigmoid() * terms["centerness"].sigmoid()).sqrt_()


def centerness(anchors_N4: Tensor, boxes_N4: Tensor) -> Tensor:
    """Return how central each position lies in its object: 1 in the middle, 0 on a side.

    References:
        Tian et al., FCOS, 2020, equation 3. https://arxiv.org/abs/2006.09214
    """
    center = (anchors_N4[:, :2] + anchors_N4[:, 2:]) / 2
    near, far = center - boxes_N4[:, :2], boxes_N4[:, 2:] - center
    return (torch.minimum(near, far) / torch.maximum(near, far)).prod(dim=1).sqrt()


def _object_keys(boxes_M4: Tensor, first: int) -> Tensor:
    """Return a positive int64 for each object: its rank by area above its rank by index; 0 if it is too large."""
    area = (boxes_M4[:, 2] - boxes_M4[:, 0]) * (boxes_M4[:, 3] - boxes_M4[:, 1])
    # float32 as torchvision computes it: areas that differ by less than 8 pixels count as equal.
    # The bits of positive floats are ordered as the floats are.
    smallness = (LARGEST_AREA - area).to(torch.float32)
    key = (smallness.view(torch.int32).to(torch.int64) << INDEX_BITS) + (1 << INDEX_BITS) - 1
    key -= torch.arange(first, first + len(boxes_M4), device=key.device)
    return torch.where(smallness >= 1e-5, key, 0)


def _near_positions(boxes_M4: Tensor, grid: Grid, lower: float, upper: float) -> tuple[Tensor, Tensor]:
    """Return the positions of a level that may answer for objects.

    Args:
        boxes_M4: The objects.
        grid: The level's positions.
        lower: The farthest side must be farther than this, in pixels.
        upper: The farthest side must be nearer than this.

    Returns:
        Index of a position in the level, and index of its object: two of shape ``(K,)``.
    """
    # rows and columns are independent but for the farthest side: two small tables and one product of them
    column_MX, far_MX = _near_lines(boxes_M4[:, 0::2], grid.columns, grid.column_step, grid.stride)
    row_MY, far_MY = _near_lines(boxes_M4[:, 1::2], grid.rows, grid.row_step, grid.stride)
    far_MYX = torch.maximum(far_MY[:, :, None], far_MX[:, None, :])
    chosen, y, x = ((far_MYX > lower) & (far_MYX < upper)).nonzero().unbind(dim=1)
    return row_MY[chosen, y] * grid.columns + column_MX[chosen, x], chosen


def _near_lines(sides_M2: Tensor, count: int, step: int, stride: int) -> tuple[Tensor, Tensor]:
    """Return the rows (columns) about each object's centre, and how far away its farther side is.

    Args:
        sides_M2: The object's lower and upper bound along this dim, in pixels.
        count: Rows (columns) of the level.
        step: Pixels between them.
        stride: The level's stride.

    Returns:
        Index of the row, int64, and the distance, infinite where the row does not qualify; shapes ``(M, K)``.
    """
    center_M = (sides_M2[:, 0] + sides_M2[:, 1]) / 2
    first_M = torch.floor((center_M - RADIUS * stride) / step).to(torch.int64)
    # one more at each end, so that rounding cannot lose one that qualifies
    line_MK = first_M[:, None] + torch.arange(
        math.ceil(2 * RADIUS * stride / step) + 2, device=first_M.device
    )
    place_MK = (line_MK * step).to(sides_M2.dtype)
    before, after = place_MK - sides_M2[:, :1], sides_M2[:, 1:] - place_MK
    near = (place_MK - center_M[:, None]).abs() < RADIUS * stride
    inside = (torch.minimum(before, after) > 0) & (line_MK >= 0) & (line_MK < count)
    return line_MK, torch.where(near & inside, torch.maximum(before, after), math.inf)
