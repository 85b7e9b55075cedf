"""The focal loss of a whole map of class logits, without a map of targets.

Almost all of a detector's class targets are 0. The loss and its derivative are therefore computed for a map of
zeros, and corrected at the few positives and ignored predictions; the derivative is computed along with the loss, so
that one map is kept for the backward pass instead of ten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ziggurat.tasks.detection.assignment import LevelTargets


@dataclass(frozen=True)
class ByClass:
    """What the loss of a class is like, float64, each of shape ``(K,)``; None is as for every other class.

    Attributes:
        gamma_K: Exponents, instead of the one of all classes.
        factor_K: Factors of the loss.
        positive_K: Factors of the positives' loss, besides.
    """

    gamma_K: Tensor | None = None
    factor_K: Tensor | None = None
    positive_K: Tensor | None = None


class FocalSums(NamedTuple):
    """Sums over each image's predictions.

    Attributes:
        loss_B: The loss, of all classes, float32 (float64 for float64 logits).
        positive_BK: The sizes of the derivatives by the logits of positives, by class, float64, without gradient; the sums
            over each image's positives.
        negative_BK: The same of the negatives.
    """

    loss_B: Tensor
    positive_BK: Tensor
    negative_BK: Tensor


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


def focal_sums_by_class(
    logits_BCHW: Tensor,
    targets: LevelTargets,
    num_anchors: int,
    alpha: float,
    gamma: float,
    by_class: ByClass,
) -> FocalSums:
    """Return the sums of a focal loss whose exponents and factors differ from class to class; see `focal_sums`.

    Args:
        logits_BCHW: As for `focal_sums`, as is what follows.
        targets: The targets.
        num_anchors: Predictions at each position.
        alpha: Weight of the positives.
        gamma: Exponent of the error.
        by_class: What is another one for each class.
    """
    loss_B, positive_BK, negative_BK = _FocalSumsByClass.apply(
        logits_BCHW, targets, num_anchors, alpha, gamma, by_class
    )
    return FocalSums(loss_B, positive_BK, negative_BK)


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


class _FocalSumsByClass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits_BCHW: Tensor,
        targets: LevelTargets,
        num_anchors: int,
        alpha: float,
        gamma: float,
        by: ByClass,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = logits_BCHW.to(torch.promote_types(logits_BCHW.dtype, torch.float32)).unflatten(
            1, (num_anchors, -1)
        )
        ones_K = x.new_ones(x.shape[2])
        gamma_K, factor_K, positive_K = (
            ones_K * usual if own is None else own.to(x)
            for own, usual in ((by.gamma_K, gamma), (by.factor_K, 1.0), (by.positive_K, 1.0))
        )
        loss, slope = _negatives(x, (1 - alpha) * factor_K[:, None, None], gamma_K[:, None, None])
        p, i, labels = targets.positives, targets.ignored, targets.labels
        at = (p.image, p.anchor, labels, p.row, p.column)
        weight_N = alpha * (factor_K * positive_K)[labels]
        positive_loss, positive_slope = _negatives(-x[at], weight_N, gamma_K[labels])
        loss[at], slope[at] = positive_loss, -positive_slope
        for values in (loss, slope):
            values[i.image, i.anchor, :, i.row, i.column] = 0.0
        # a positive's loss falls with its logit, a negative's rises
        falling_BK = slope.clamp(max=0).sum(dim=(1, 3, 4), dtype=torch.float64).neg()
        rising_BK = slope.clamp(min=0).sum(dim=(1, 3, 4), dtype=torch.float64)
        ctx.save_for_backward(slope.flatten(1, 2).to(logits_BCHW.dtype))
        ctx.mark_non_differentiable(falling_BK, rising_BK)
        return loss.sum(dim=(1, 2, 3, 4)), falling_BK, rising_BK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return (slope * grad_B[:, None, None, None]).to(slope.dtype), None, None, None, None, None


def _negatives(x: Tensor, weight: float | Tensor, gamma: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss ``w * p**g * -log(1 - p)`` of logits whose target is 0, and its derivative.

    With ``s = -log(1 - p)``: ``ds/dx = p`` and ``dp/dx = p * (1 - p)``, so that the derivative is
    ``w * p**g * (g * (1 - p) * s + p)``.
    """
    p = x.sigmoid()
    s = functional.logsigmoid(-x).neg_()
    scale = (p * p if not isinstance(gamma, Tensor) and gamma == 2 else p**gamma).mul_(weight)
    loss = scale * s
    slope = s.mul_(gamma).addcmul_(s, p, value=-1).add_(p).mul_(scale)
    return loss, slope
