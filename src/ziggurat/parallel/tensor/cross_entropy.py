"""The cross-entropy of classes that are spread over workers: the logits are never gathered.

Shapes: ``B`` samples, ``K`` classes, ``P = K / W`` classes of one of ``W`` workers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.tensor.operators import TensorAxis


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_BP: Tensor, labels_B: Tensor, axis: TensorAxis, smoothing: float) -> Tensor:
        part = logits_BP.shape[1]
        num_classes = part * axis.workers.size
        largest_B = axis.sum(logits_BP.amax(1), "max")
        shifted_BP = logits_BP - largest_B[:, None]
        places_B = labels_B - axis.workers.rank * part
        here_B = (places_B >= 0) & (places_B < part)
        right_B = shifted_BP.gather(1, places_B.clamp(0, part - 1)[:, None])[:, 0] * here_B
        exp_BP = shifted_BP.exp()
        sums_B3 = axis.sum(torch.stack([exp_BP.sum(1), right_B, shifted_BP.sum(1)], dim=1))
        target_BP = torch.full_like(shifted_BP, smoothing / num_classes)
        rows = torch.arange(len(labels_B), device=labels_B.device)[here_B]
        target_BP[rows, places_B[here_B]] += 1 - smoothing
        ctx.save_for_backward(exp_BP / sums_B3[:, :1] - target_BP)
        return sums_B3[:, 0].log() - (1 - smoothing) * sums_B3[:, 1] - smoothing / num_classes * sums_B3[:, 2]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (difference_BP,) = ctx.saved_tensors
        return difference_BP * gradients[0][:, None], None, None, None


def cross_entropy(logits_BP: Tensor, labels_B: Tensor, axis: TensorAxis, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of each sample, as ``functional.cross_entropy`` with ``reduction="none"``.

    Args:
        logits_BP: This worker's classes: as many on each, in order of rank.
        labels_B: Of all ``K`` classes, int64.
        axis: The workers that the classes are spread over.
        smoothing: Share of a label's probability that is spread over all classes.

    Returns:
        Shape ``(B,)``.

    Placement:
        Before, each worker has its classes' logits; after, all have every sample's loss.

    Communication:
        Forward: all-reduces of ``B`` maxima and of ``3 B`` sums. Backward: none.
    """
    losses_B: Tensor = _CrossEntropy.apply(logits_BP, labels_B, axis, smoothing)
    return losses_B
