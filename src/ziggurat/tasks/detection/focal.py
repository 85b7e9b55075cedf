"""The focal loss of a whole map of class logits, without a map of targets.

Almost all of a detector's class targets are 0. The loss and its derivative are therefore computed for a map of
zeros, and corrected at the few positives and ignored predictions; the derivative is computed along with the loss, so
that one map is kept for the backward pass instead of ten.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ziggurat.tasks.detection.assignment import LevelTargets


def focal_sums(
    logits_BCHW: Tensor, targets: LevelTargets, num_anchors: int, alpha: float, gamma: float
) -> Tensor:
    """Return the sum of the focal loss over each image's predictions and classes.

    Deterministic: no two corrected places are the same.

    Args:
        logits_BCHW: Channels are anchors, then classes; any memory format.
        targets: Which predictions are positive, with their classes, and which are ignored.
        num_anchors: Predictions at each position.
        alpha: Weight of the positives; the negatives' is ``1 - alpha``.
        gamma: Exponent of the error.

    Returns:
        float32 (float64 for float64 logits), shape ``(B,)``.

    References:
        Lin et al., Focal Loss for Dense Object Detection, 2017, equation 5. https://arxiv.org/abs/1708.02002
    """
    sums: Tensor = _FocalSums.apply(logits_BCHW, targets, num_anchors, alpha, gamma)
    return sums


class _FocalSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_BCHW: Tensor, targets: LevelTargets, num_anchors: int, alpha: float, gamma: float
    ) -> Tensor:
        x = logits_BCHW.to(torch.promote_types(logits_BCHW.dtype, torch.float32))
        loss, slope = _negatives(x, 1 - alpha, gamma)
        by_anchor = [map_BCHW.unflatten(1, (num_anchors, -1)) for map_BCHW in (x, loss, slope)]
        p, i = targets.positives, targets.ignored
        at = (p.image, p.anchor, targets.labels, p.row, p.column)
        # a positive with logit x is a negative with logit -x
        positive_loss, positive_slope = _negatives(-by_anchor[0][at], alpha, gamma)
        by_anchor[1][at] = positive_loss
        by_anchor[2][at] = -positive_slope
        for values in by_anchor[1:]:
            values[i.image, i.anchor, :, i.row, i.column] = 0.0
        ctx.save_for_backward(slope.to(logits_BCHW.dtype))
        return loss.sum(dim=(1, 2, 3))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return (slope * grad_B[:, None, None, None]).to(slope.dtype), None, None, None, None


def _negatives(x: Tensor, weight: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Return the loss ``w * p**g * -log(1 - p)`` of logits whose target is 0, and its derivative.

    With ``s = -log(1 - p)``: ``ds/dx = p`` and ``dp/dx = p * (1 - p)``, so that the derivative is
    ``w * p**g * (g * (1 - p) * s + p)``.
    """
    p = x.sigmoid()
    s = functional.logsigmoid(-x).neg_()
    scale = (p * p if gamma == 2 else p**gamma).mul_(weight)
    loss = scale * s
    slope = s.mul_(gamma).addcmul_(s, p, value=-1).add_(p).mul_(scale)
    return loss, slope
