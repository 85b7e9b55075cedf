"""The losses of a whole map of class logits, each with its own derivative.

Each keeps one map for its backward pass where automatic differentiation keeps several, and none adds into places that
it computes (as the backward pass of an index does): the derivatives are the same bits each time, on GPUs too.

Shapes: ``B`` images, ``K`` classes, ``H`` rows and ``W`` columns. ``p`` is the softmax of the logits over classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ziggurat.data.batch import IGNORED_PIXEL


def focal_cross_entropy(
    logits_BKHW: Tensor, labels_BHW: Tensor, gamma: float, weight_K: Tensor | None = None
) -> Tensor:
    """Return the sum over all valid pixels of the focal loss of the softmax, ``(1 - p)**gamma * -log(p)``.

    Args:
        logits_BKHW: Any floating type and memory format.
        labels_BHW: uint8; `IGNORED_PIXEL` takes no part.
        gamma: Exponent of the error; 0 is the cross-entropy.
        weight_K: What each pixel's loss is multiplied by, by its class; None leaves it.

    Returns:
        float32 (float64 for float64 logits), a scalar.

    References:
        Lin et al., Focal Loss for Dense Object Detection, 2017, equation 4, for a softmax.
        https://arxiv.org/abs/1708.02002
    """
    total: Tensor = _FocalCrossEntropy.apply(logits_BKHW, labels_BHW, gamma, weight_K)
    return total


class _FocalCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_BKHW: Tensor, labels_BHW: Tensor, gamma: float, weight_K: Tensor | None
    ) -> Tensor:
        valid_B1HW, index_B1HW = _places(labels_BHW)
        log_p = logits_BKHW.to(_wide(logits_BKHW)).log_softmax(dim=1)
        log_true = log_p.gather(1, index_B1HW)
        loss, slope = _focal(log_true, gamma)
        if weight_K is not None:
            weight_B1HW = weight_K.to(loss.dtype)[index_B1HW]
            loss, slope = loss * weight_B1HW, slope * weight_B1HW
        loss.masked_fill_(~valid_B1HW, 0)
        slope.masked_fill_(~valid_B1HW, 0)
        # d log(p_t) / d x_j is 1 - p_j for j = t and -p_j elsewhere
        slopes = log_p.exp_().mul_(-slope)
        slopes.scatter_(1, index_B1HW, slopes.gather(1, index_B1HW) + slope)
        ctx.save_for_backward(slopes.to(logits_BKHW.dtype))
        return loss.sum(dim=(1, 2, 3)).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * grad.to(slopes.dtype), None, None, None


def _focal(log_p: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return ``-(1 - p)**gamma * log(p)`` and its derivative by ``log(p)``.

    With ``q = 1 - p`` the derivative is ``q**gamma * (gamma * p * log(p) / q - 1)``, where ``log(p) / q`` tends to
    -1 as ``q`` tends to 0.
    """
    if gamma == 0:
        return -log_p, torch.full_like(log_p, -1)
    q = -torch.expm1(log_p)
    scale = q**gamma
    ratio = torch.where(q > 0, log_p / q, -1)
    return -log_p * scale, scale * (gamma * log_p.exp() * ratio - 1)


@torch.no_grad()
def overlap_sums(logits_BKHW: Tensor, labels_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a Dice is made of.

    Args:
        logits_BKHW: Any floating type and memory format.
        labels_BHW: uint8; `IGNORED_PIXEL` takes no part.

    Returns:
        The sum of each class's probabilities on its own pixels, and on all valid pixels, float64, shapes ``(K,)``.
    """
    return _overlaps(_probabilities(logits_BKHW, labels_BHW), labels_BHW)


@dataclass(frozen=True)
class DiceTotals:
    """What the Dice of the global batch is made of, float64, shapes ``(K,)``.

    Attributes:
        intersection_K: ``I``: sum of each class's probabilities on its own pixels.
        predicted_K: ``P``: sum of each class's probabilities on all valid pixels.
        true_K: ``T``: pixels of each class.
    """

    intersection_K: Tensor
    predicted_K: Tensor
    true_K: Tensor


def dice_share(logits_BKHW: Tensor, labels_BHW: Tensor, counts_K: Tensor, totals: DiceTotals) -> Tensor:
    """Return a microbatch's share of the Dice loss of the global batch.

    With sums over the ``n`` classes that occur in the truth, the loss is::

        D = sum_c (1 - 2 I_c / (P_c + T_c)) / n  =  sum_c (P_c + T_c - 2 I_c) / (P_c + T_c) / n

    ``I``, ``P`` and ``T`` are sums over microbatches ``m``, so that the values of the shares add up to ``D``::

        D_m = sum_c (P_cm + T_cm - 2 I_cm) / (P_c + T_c) / n

    The gradient of ``D_m`` is not the microbatch's part of the gradient of ``D``, as every denominator depends on
    every microbatch. That part is the gradient of the following, which is linear in the microbatch's own sums; the
    factors are the derivatives of ``D`` at the totals, and are constant::

        sum_c I_cm * (-2 / n) / (P_c + T_c)  +  P_cm * (2 / n) * I_c / (P_c + T_c)**2

    The result has the value of the former and the gradient of the latter.

    Args:
        logits_BKHW: Any floating type and memory format.
        labels_BHW: uint8; `IGNORED_PIXEL` takes no part.
        counts_K: Pixels of each class of this microbatch, float64.
        totals: Of the global batch; classes without a true pixel take no part.

    Returns:
        float32 (float64 for float64 logits), a scalar; 0 if no class occurs.
    """
    share: Tensor = _DiceShare.apply(logits_BKHW, labels_BHW, counts_K, totals)
    return share


class _DiceShare(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_BKHW: Tensor, labels_BHW: Tensor, counts_K: Tensor, totals: DiceTotals
    ) -> Tensor:
        occurs = totals.true_K > 0
        area = (totals.predicted_K + totals.true_K).clamp(min=1)
        weight = occurs / (area * occurs.sum().clamp(min=1))
        p = _probabilities(logits_BKHW, labels_BHW)
        intersection, predicted = _overlaps(p, labels_BHW)
        value = (weight * (predicted + counts_K - 2 * intersection)).sum().to(p.dtype)
        by_intersection = (-2 * weight).to(p.dtype)
        by_predicted = (2 * weight * totals.intersection_K / area).to(p.dtype)
        # w_j: the derivative by p_j; that by the logit x_j is p_j * (w_j - sum_c p_c w_c)
        _, index_B1HW = _places(labels_BHW)
        extra_B1HW = by_intersection[index_B1HW]
        mean_B1HW = p.gather(1, index_B1HW) * extra_B1HW
        for c in range(p.shape[1]):
            mean_B1HW.addcmul_(p[:, c : c + 1], by_predicted[c])
        at_true = p.gather(1, index_B1HW) * (by_predicted[index_B1HW] + extra_B1HW - mean_B1HW)
        slopes = p.mul_(by_predicted.view(1, -1, 1, 1) - mean_B1HW).scatter_(1, index_B1HW, at_true)
        ctx.save_for_backward(slopes.to(logits_BKHW.dtype))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * grad.to(slopes.dtype), None, None, None


def _wide(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


def _places(labels_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pixels are valid, and each pixel's class as an index (0 where it has none), ``(B, 1, H, W)``."""
    valid = (labels_BHW != IGNORED_PIXEL).unsqueeze(1)
    return valid, (labels_BHW.unsqueeze(1) * valid).to(torch.int64)


def _probabilities(logits_BKHW: Tensor, labels_BHW: Tensor) -> Tensor:
    """Return the softmax over classes, 0 at pixels that are ignored."""
    p = logits_BKHW.to(_wide(logits_BKHW)).softmax(dim=1)
    return p.masked_fill_((labels_BHW == IGNORED_PIXEL).unsqueeze(1), 0)


def _overlaps(p_BKHW: Tensor, labels_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return intersection and prediction of each class; class by class, so that no map is widened to float64."""
    own = [(p_BKHW[:, c] * (labels_BHW == c)).sum(dtype=torch.float64) for c in range(p_BKHW.shape[1])]
    every = [p_BKHW[:, c].sum(dtype=torch.float64) for c in range(p_BKHW.shape[1])]
    return torch.stack(own), torch.stack(every)
