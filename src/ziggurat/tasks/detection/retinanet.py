"""RetinaNet: which anchor answers for which object, its loss and its boxes; as torchvision computes them.

Shapes: ``B`` images, ``P`` anchors of one image, ``M`` objects of all images, ``N`` positives; of one level ``H``
rows, ``W`` columns and ``A`` anchors at each position.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.models.retinanet import RetinaNetHead
from ziggurat.tasks.detection.anchors import Grid, base_anchors
from ziggurat.tasks.detection.assignment import IGNORED, NEGATIVE, Assignment

POSITIVE_IOU, NEGATIVE_IOU = 0.5, 0.4
CHUNK_ELEMENTS = 1 << 20  # IoUs that are held at a time (or those of one object, if they are more)
LARGEST_ENLARGEMENT = math.log(1000 / 16)  # keeps the exponential of an untrained network finite


class RetinaNetAssigner:
    """Which of RetinaNet's predictions answers for which object; see `Assigner`.

    References:
        Lin et al., Focal Loss for Dense Object Detection, 2017, section 4. https://arxiv.org/abs/1708.02002
    """

    num_anchors: int = RetinaNetHead.num_anchors

    def base_anchors(self, stride: int, device: torch.device) -> Tensor:
        """Return the anchors about (0, 0), see `anchors.base_anchors`."""
        return base_anchors("retinanet", stride, device)

    def match(self, boxes_M4: Tensor, image_M: Tensor, num_images: int, grids: list[Grid]) -> Tensor:
        """Assign objects to anchors.

        An anchor answers for the object that it overlaps most, if their IoU is at least 0.5, or if no anchor
        overlaps some object more than this one does; it is ignored if the IoU is at least 0.4. Objects are matched
        in chunks: memory grows with the anchors, not with the objects.

        Args:
            boxes_M4: The objects in pixels, float32.
            image_M: The image of each object, int64, rising.
            num_images: Images of the microbatch.
            grids: The positions of each level.

        Returns:
            For each anchor the index of its object, `NEGATIVE` or `IGNORED`, int64, shape ``(B, P)``.
        """
        bases = [self.base_anchors(grid.stride, boxes_M4.device) for grid in grids]
        counts = torch.bincount(image_M.cpu(), minlength=num_images).tolist()
        matched, first = [], 0
        for boxes in boxes_M4.split(counts):
            matched.append(_match_image(boxes, first, grids, bases))
            first += len(boxes)
        return torch.stack(matched)


class RetinaNetBoxCoder:
    """What RetinaNet predicts for a box: its loss, its corners and its score; see `BoxCoder`."""

    term_names: tuple[str, ...] = ("classes", "boxes")
    box_normalizer = "positives"

    def box_weights(self, assignment: Assignment) -> Tensor:
        """Return the positives of each image: each weighs 1 in the box term."""
        return assignment.positives

    def losses(self, values: dict[str, Tensor], anchors_N4: Tensor, boxes_N4: Tensor) -> dict[str, Tensor]:
        """Return the loss of each positive for every term but the classes, each of shape ``(N,)``.

        Args:
            values: The outputs at the positives: ``boxes`` ``(N, 4)``.
            anchors_N4: The anchor of each positive.
            boxes_N4: The object of each positive.
        """
        target = encode(boxes_N4, anchors_N4)
        return {"boxes": functional.l1_loss(values["boxes"], target, reduction="none").sum(dim=1)}

    def decode(self, boxes_N4: Tensor, anchors_N4: Tensor) -> Tensor:
        """Return the corners in pixels of predicted boxes, shape ``(N, 4)``.

        Args:
            boxes_N4: Shift in units of the anchor's size, and logarithm of the enlargement; x before y.
            anchors_N4: The anchors.
        """
        return decode(boxes_N4, anchors_N4)

    def scores(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the probability of each class.

        Args:
            terms: The outputs of one level, at least float32.

        Returns:
            Shape ``(B, A * num_classes, H, W)``.
        """
        return terms["classes"].sigmoid()


def encode(boxes_N4: Tensor, anchors_N4: Tensor) -> Tensor:
    """Return what turns anchors into boxes: the inverse of `decode`.

    References:
        Girshick et al., Rich feature hierarchies, 2014, appendix C, equations 6 to 9.
        https://arxiv.org/abs/1311.2524
    """
    size, center = _size_and_center(anchors_N4)
    box_size, box_center = _size_and_center(boxes_N4)
    return torch.cat([(box_center - center) / size, (box_size / size).log()], dim=1)


def decode(deltas_N4: Tensor, anchors_N4: Tensor) -> Tensor:
    """Return the corners in pixels of anchors that are shifted and enlarged, shape ``(N, 4)``.

    Args:
        deltas_N4: Shift in units of the anchor's size, and logarithm of the enlargement; x before y.
        anchors_N4: The anchors.
    """
    size, center = _size_and_center(anchors_N4.to(deltas_N4.dtype))
    center = center + deltas_N4[:, :2] * size
    half = size * deltas_N4[:, 2:].clamp(max=LARGEST_ENLARGEMENT).exp() / 2
    return torch.cat([center - half, center + half], dim=1)


def _size_and_center(boxes_N4: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes_N4[:, 2:] - boxes_N4[:, :2]
    return size, boxes_N4[:, :2] + size / 2


def _match_image(boxes_M4: Tensor, first: int, grids: list[Grid], bases: list[Tensor]) -> Tensor:
    """Match the objects of one image, the first of which has the index `first`; shape ``(P,)``."""
    num_anchors = sum(len(grid) * len(base) for grid, base in zip(grids, bases, strict=True))
    best_iou = torch.full((num_anchors,), -1.0, device=boxes_M4.device)
    best = torch.full((num_anchors,), NEGATIVE, device=boxes_M4.device)
    is_best_of_object = torch.zeros(num_anchors, dtype=torch.bool, device=boxes_M4.device)
    for chunk in boxes_M4.split(max(1, CHUNK_ELEMENTS // num_anchors)) if len(boxes_M4) else ():
        iou_MP = _iou(chunk, grids, bases, num_anchors)
        iou, index = iou_MP.max(dim=0)  # of equal ones the first
        better = iou > best_iou
        best_iou = torch.where(better, iou, best_iou)
        best = torch.where(better, index + first, best)
        is_best_of_object |= (iou_MP == iou_MP.amax(dim=1, keepdim=True)).any(dim=0)
        first += len(chunk)
    matched = torch.where(best_iou >= NEGATIVE_IOU, IGNORED, NEGATIVE)
    return torch.where((best_iou >= POSITIVE_IOU) | is_best_of_object, best, matched)


def _iou(boxes_M4: Tensor, grids: list[Grid], bases: list[Tensor], num_anchors: int) -> Tensor:
    """Return the IoU of objects and all anchors, shape ``(M, P)``.

    The overlap along x depends on the column alone and that along y on the row alone, so that only one product
    and one quotient are computed for every pair.
    """
    iou_MP = boxes_M4.new_empty((len(boxes_M4), num_anchors))
    sizes = [len(grid) * len(base) for grid, base in zip(grids, bases, strict=True)]
    area_M = (boxes_M4[:, 2] - boxes_M4[:, 0]) * (boxes_M4[:, 3] - boxes_M4[:, 1])
    for grid, base_A4, level_ML in zip(grids, bases, iou_MP.split(sizes, dim=1), strict=True):
        iou_MHWA = level_ML.unflatten(1, (grid.rows, grid.columns, len(base_A4)))
        across_MWA = _overlap(boxes_M4[:, 0::2], base_A4[:, 0::2], grid.columns, grid.column_step)
        down_MHA = _overlap(boxes_M4[:, 1::2], base_A4[:, 1::2], grid.rows, grid.row_step)
        torch.mul(across_MWA[:, None], down_MHA[:, :, None], out=iou_MHWA)
        area_A = (base_A4[:, 2] - base_A4[:, 0]) * (base_A4[:, 3] - base_A4[:, 1])
        both = area_M[:, None, None, None] + area_A
        iou_MHWA.div_(both - iou_MHWA)
    return iou_MP


def _overlap(sides_M2: Tensor, base_A2: Tensor, count: int, step: int) -> Tensor:
    """Return the overlap in pixels along one dim of objects and the anchors of each row (column), ``(M, count, A)``."""
    anchors_LA2 = torch.arange(count, device=base_A2.device)[:, None, None] * step + base_A2
    low = torch.maximum(sides_M2[:, None, None, 0], anchors_LA2[..., 0])
    high = torch.minimum(sides_M2[:, None, None, 1], anchors_LA2[..., 1])
    return (high - low).clamp_(min=0)
