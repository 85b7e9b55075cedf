"""Fusing what several models have found on an image.

Shapes: ``M`` boxes that are fused, ``N`` boxes that come out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ziggurat.config import DecodeConfig
from ziggurat.data.detections import Detections, concatenate
from ziggurat.data.extents import Extent
from ziggurat.system.packages import extra_package
from ziggurat.tasks.detection.suppression import suppress

SAME_OBJECT = 0.55  # IoU from which boxes are of one object, as the authors of the weighted fusion have it
AT_ONCE = 1 << 22  # pairs of boxes that are compared at once

Fuse = Callable[[Sequence[Detections], Extent, DecodeConfig], Detections]


def fuse_weighted(found: Sequence[Detections], extent: Extent, decode: DecodeConfig) -> Detections:
    """Return the weighted averages of boxes that lie on each other, by `ensemble_boxes`.

    A box's score is the mean of those that it is made of, times the share of models that have such a box. Boxes without area
    or score are of no object, and left out.

    Args:
        found: On the image by each model.
        extent: Of the image.
        decode: Is not read.

    Raises:
        UserError: If the package is not installed.

    References:
        Solovyev et al., Weighted boxes fusion, 2021, section 3. https://arxiv.org/abs/1910.13302
    """
    package = extra_package(
        "ensemble_boxes", "members", "decode.fusion=weighted (decode.fusion=nms does not)"
    )
    rows, columns = extent
    scale = torch.tensor([columns, rows, columns, rows], dtype=torch.float64)
    usable = [_usable(one, extent) for one in found]
    boxes, scores, labels = package.weighted_boxes_fusion(
        [(one.boxes_xyxy.double() / scale).numpy() for one in usable],
        [one.scores.double().numpy() for one in usable],
        [one.labels.numpy() for one in usable],
        iou_thr=SAME_OBJECT,
    )
    fused = Detections(
        (torch.from_numpy(boxes).double() * scale).float().reshape(-1, 4),
        torch.from_numpy(scores).float(),
        torch.from_numpy(labels).long(),
    )
    order = fused.scores.argsort(descending=True, stable=True)
    return _with_shares(
        Detections(fused.boxes_xyxy[order], fused.scores[order], fused.labels[order], *_cut(found)), found
    )


def fuse_best(found: Sequence[Detections], extent: Extent, decode: DecodeConfig) -> Detections:
    """Return the boxes of all models, without each that overlaps a better one of its class by more than ``decode.nms_threshold``.

    Args:
        found: On the image by each model.
        extent: Is not read.
        decode: The threshold.
    """
    return _with_shares(suppress(concatenate(found), decode.nms_threshold, max_detections=None), found)


FUSIONS: dict[str, Fuse] = {"weighted": fuse_weighted, "nms": fuse_best}


def _usable(found: Detections, extent: Extent) -> Detections:
    """Return the boxes with area and score, within the image, where resizing may have put them a rounding outside."""
    rows, columns = extent
    boxes = torch.minimum(found.boxes_xyxy.clamp(min=0), torch.tensor([columns, rows] * 2))
    keep = ((boxes[:, 2:] - boxes[:, :2]).prod(dim=1) > 0) & (found.scores > 0)
    return Detections(boxes[keep], found.scores[keep], found.labels[keep])


def _cut(found: Sequence[Detections]) -> tuple[int, float, int]:
    every = concatenate(found)
    return every.num_cut, every.best_cut, every.candidates_cut


def _with_shares(fused: Detections, found: Sequence[Detections]) -> Detections:
    """Return boxes with the share of the models that have one of the same class at the same place; each box is at least one's.

    An average may lie off all that it is made of.
    """
    seen = torch.stack([_has_like(one, fused) for one in found]).float().mean(dim=0).clamp(min=1 / len(found))
    return Detections(
        fused.boxes_xyxy,
        fused.scores,
        fused.labels,
        fused.num_cut,
        fused.best_cut,
        fused.candidates_cut,
        seen,
    )


def _has_like(found: Detections, fused: Detections) -> Tensor:
    """Return for which boxes a model has one of the same class and of an IoU of `SAME_OBJECT`, bool, shape ``(N,)``."""
    has = torch.zeros(len(fused), dtype=torch.bool)
    for label in fused.labels.unique().tolist():
        own = found.boxes_xyxy[found.labels == label]
        (places,) = (fused.labels == label).nonzero(as_tuple=True)
        for some in places.split(max(1, AT_ONCE // max(1, len(own)))):
            has[some] = (box_iou(fused.boxes_xyxy[some], own) >= SAME_OBJECT).any(dim=1)
    return has
