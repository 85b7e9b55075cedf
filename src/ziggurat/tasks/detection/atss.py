"""ATSS: adaptive training sample selection: which anchor answers for which object, its loss and its boxes.

Shapes: ``B`` images, ``P`` anchors of one image (one at each position), ``M`` objects of all images, ``K``
candidates of one object, ``N`` positives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss

from ziggurat.models.atss import AtssHead
from ziggurat.tasks.detection.anchors import Grid, base_anchors
from ziggurat.tasks.detection.assignment import NEGATIVE, Assignment
from ziggurat.tasks.detection.fcos import centerness
from ziggurat.tasks.detection.retinanet import decode

CANDIDATES = 9  # nearest anchors of each level that are looked at
INSIDE = 0.01  # pixels between a positive's centre and the sides of its object, as the reference has it
ROUNDING = 1e-9  # an IoU this little below the threshold passes: where all are equal, they are their own mean
BOX_FACTOR = 2.0  # of the box term, as the reference has it
UNITS = (0.1, 0.1, 0.2, 0.2)  # of the predicted shifts and logarithms
CHUNK = 4096  # objects that are matched at a time


class AtssAssigner:
    """Which of ATSS's predictions answers for which object; see `Assigner`.

    References:
        Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
        Selection, 2020, section 4. https://arxiv.org/abs/1912.02424
    """

    num_anchors: int = AtssHead.num_anchors

    def base_anchors(self, stride: int, device: torch.device) -> Tensor:
        """Return the square of eight strides, see `anchors.base_anchors`."""
        return base_anchors("atss", stride, device)

    def match(self, boxes_M4: Tensor, image_M: Tensor, num_images: int, grids: list[Grid]) -> Tensor:
        """Assign objects to anchors by the paper's algorithm 1.

        The candidates of an object are the nine anchors of each level whose centres are nearest to its own (of
        equally near ones the first row, then the first column). Positive are those whose centre lies in the object
        and whose IoU is at least the mean plus the standard deviation of the candidates' IoUs. An anchor answers
        for one object: the one with the largest IoU, of equal ones the first. An object may remain without any.

        Only a window of 9 x 9 positions of each level about an object's centre is looked at: memory grows with the
        objects plus the anchors, never with their product.

        Args:
            boxes_M4: The objects in pixels, float32.
            image_M: The image of each object, int64.
            num_images: Images of the microbatch.
            grids: The positions of each level, from the finest to the coarsest.

        Returns:
            For each anchor the index of its object or `NEGATIVE`, int64, shape ``(B, P)``.
        """
        num_anchors = sum(map(len, grids))
        found = [self._positives(boxes, grids) for boxes in boxes_M4.split(CHUNK)]
        iou, index, chosen = (torch.cat(parts) for parts in zip(*found, strict=True))
        chosen += (
            torch.arange(len(found), device=chosen.device).repeat_interleave(
                torch.tensor([len(part[0]) for part in found], device=chosen.device)
            )
            * CHUNK
        )
        place = image_M[chosen] * num_anchors + index
        # maxima and minima: the same result in any order, also on a GPU
        best_BP = iou.new_zeros(num_images * num_anchors).scatter_reduce_(0, place, iou, "amax")
        is_best = iou == best_BP[place]
        none = len(boxes_M4)
        matched_BP = torch.full_like(best_BP, none, dtype=torch.int64)
        matched_BP.scatter_reduce_(0, place[is_best], chosen[is_best], "amin")
        return torch.where(matched_BP < none, matched_BP, NEGATIVE).view(num_images, num_anchors)

    def _positives(self, boxes_M4: Tensor, grids: list[Grid]) -> tuple[Tensor, Tensor, Tensor]:
        """Return IoU, index in the image's anchors, and index of the object, of every pair that qualifies."""
        boxes_M4 = boxes_M4.to(torch.float64)
        indices, anchors, first = [], [], 0
        for grid in grids:
            row_MK, column_MK = _nearest_positions(boxes_M4, grid)
            indices.append(first + row_MK * grid.columns + column_MK)
            x_MK, y_MK = column_MK * grid.column_step, row_MK * grid.row_step
            base_A4 = self.base_anchors(grid.stride, boxes_M4.device)
            anchors.append(torch.stack([x_MK, y_MK, x_MK, y_MK], dim=2) + base_A4[0].to(torch.float64))
            first += len(grid)
        index_MK, anchors_MK4 = torch.cat(indices, dim=1), torch.cat(anchors, dim=1)
        iou_MK = _iou(boxes_M4[:, None], anchors_MK4)
        mean_M = iou_MK.mean(dim=1)
        # of one candidate the deviation is 0; torch.std would warn of it, and of no objects
        deviation_M = ((iou_MK - mean_M[:, None]) ** 2).sum(dim=1).div(max(1, iou_MK.shape[1] - 1)).sqrt()
        center_MK2 = (anchors_MK4[..., :2] + anchors_MK4[..., 2:]) / 2
        before, behind = center_MK2 - boxes_M4[:, None, :2], boxes_M4[:, None, 2:] - center_MK2
        inside_MK = torch.minimum(before, behind).amin(dim=2) > INSIDE
        chosen, which = (
            (inside_MK & (iou_MK >= (mean_M + deviation_M - ROUNDING)[:, None])).nonzero().unbind(1)
        )
        return iou_MK[chosen, which], index_MK[chosen, which], chosen


class AtssBoxCoder:
    """What ATSS predicts for a box: its loss, its corners and its score; see `BoxCoder`.

    The box term is a mean over the positives weighted by their centerness, so that its normalizer is the sum of
    centernesses over the global batch.
    """

    term_names: tuple[str, ...] = ("classes", "boxes", "centerness")
    box_normalizer = "centerness"

    def box_weights(self, assignment: Assignment) -> Tensor:
        """Return the sum of the centernesses of each image's positives, float64, shape ``(B,)``."""
        image = torch.arange(len(assignment.positives), device=assignment.positives.device)
        sums = torch.zeros_like(assignment.positives)
        for level in assignment.levels.values():
            weight_N = centerness(level.anchors_xyxy.to(sums.dtype), level.boxes_xyxy.to(sums.dtype))
            # no index_add: its order would be arbitrary on a GPU
            sums += (weight_N * (level.positives.image == image[:, None])).sum(dim=1)
        return sums

    def losses(self, values: dict[str, Tensor], anchors_N4: Tensor, boxes_N4: Tensor) -> dict[str, Tensor]:
        """Return the loss of each positive for every term but the classes, each of shape ``(N,)``.

        Args:
            values: The outputs of each term at the positives: ``boxes`` ``(N, 4)`` and ``centerness`` ``(N, 1)``.
            anchors_N4: The anchor of each positive.
            boxes_N4: The object of each positive.
        """
        weight_N = centerness(anchors_N4, boxes_N4)
        found = self.decode(values["boxes"], anchors_N4)
        logits_N = values["centerness"].squeeze(1)
        return {
            "boxes": BOX_FACTOR * weight_N * generalized_box_iou_loss(found, boxes_N4),
            "centerness": functional.binary_cross_entropy_with_logits(logits_N, weight_N, reduction="none"),
        }

    def decode(self, boxes_N4: Tensor, anchors_N4: Tensor) -> Tensor:
        """Return the corners in pixels of predicted boxes, shape ``(N, 4)``.

        Args:
            boxes_N4: Shift in tenths of the anchor's size, and logarithm of the enlargement in fifths; x before y.
            anchors_N4: The anchors.
        """
        return decode(boxes_N4 * boxes_N4.new_tensor(UNITS), anchors_N4)

    def scores(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the score of each class: the geometric mean of its probability and the centerness.

        Args:
            terms: The outputs of one level, at least float32.

        Returns:
            Shape ``(B, num_classes, H, W)``.
        """
        return (terms["classes"].sigmoid() * terms["centerness"].sigmoid()).sqrt_()


def _nearest_positions(boxes_M4: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return the row and the column of the positions of a level that are nearest to each object's centre.

    The nearest nine lie in the nearest nine rows and the nearest nine columns: a position in another row has nine
    nearer ones in its own column.

    Returns:
        Two of int64, shape ``(M, K)``.
    """
    center_M2 = (boxes_M4[:, :2] + boxes_M4[:, 2:]) / 2
    column_MX = _nearest_lines(center_M2[:, 0], grid.columns, grid.column_step)
    row_MY = _nearest_lines(center_M2[:, 1], grid.rows, grid.row_step)
    across_MX = (column_MX * grid.column_step - center_M2[:, :1]) ** 2
    down_MY = (row_MY * grid.row_step - center_M2[:, 1:]) ** 2
    distance_MK = (down_MY[:, :, None] + across_MX[:, None, :]).flatten(1)
    nearest_MK = distance_MK.argsort(dim=1, stable=True)[:, :CANDIDATES]
    num_columns = column_MX.shape[1]
    row = row_MY.gather(1, torch.div(nearest_MK, num_columns, rounding_mode="floor"))
    return row, column_MX.gather(1, nearest_MK % num_columns)


def _nearest_lines(center_M: Tensor, count: int, step: int) -> Tensor:
    """Return the rows (columns) that are nearest to each centre, nine or all, rising, int64, shape ``(M, K)``."""
    width = min(CANDIDATES, count)
    middle_M = torch.ceil(center_M / step - 0.5).to(torch.int64)  # halfway between two: the first
    first_M = (middle_M - CANDIDATES // 2).clamp(0, count - width)
    return first_M[:, None] + torch.arange(width, device=center_M.device)


def _iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return the IoU of pairs of boxes; shapes are broadcast."""
    low, high = (
        torch.maximum(boxes[..., :2], anchors[..., :2]),
        torch.minimum(boxes[..., 2:], anchors[..., 2:]),
    )
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) + (anchors[..., 2:] - anchors[..., :2]).prod(
        dim=-1
    )
    return overlap / (areas - overlap)
