"""The equalized focal loss: the less a class's positives weigh against its negatives, the more its hard predictions count.

Over all steps of a run the sizes of the loss's derivatives by the class logits are summed up, for each class those of its positives and
those of its negatives. Their ratio decides about the exponent and the factor of the class in the next step::

    step 0   sums 0, 0          ratio 1    exponent gamma           the focal loss
    step 1   sums 0.2, 3.1      ratio 0.06 exponent gamma + 7.5     a rare class: easy negatives hardly count any more
             sums 2.9, 3.0      ratio 0.97 exponent gamma + 0.3     a frequent one

The sums are state of the run: added up over microbatches in the canonical order, the same on every worker, and in every checkpoint.

Shapes: ``K`` classes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ziggurat.tasks.detection.focal import ByClass


def equalized(accumulated: Tensor, gamma: float, scale: float, by_class: ByClass) -> ByClass:
    """Return what the loss of each class is like, by what was accumulated so far.

    Args:
        accumulated: The sums of each class's positives, then of its negatives, float64, shape ``(2 * K,)``.
        gamma: Exponent of the focal loss, positive.
        scale: How much the exponent grows at most.
        by_class: What else differs from class to class.

    References:
        Li et al., Equalized Focal Loss for Dense Long-Tailed Object Detection, 2022, equations 3 to 6.
        https://arxiv.org/abs/2201.02593

    Example:
        >>> equalized(torch.tensor([1.0, 3.0, 2.0, 3.0]).double(), 2.0, 8.0, ByClass()).gamma_K
        tensor([6., 2.], dtype=torch.float64)
    """
    positive_K, negative_K = accumulated.view(2, -1)
    # before the first step nothing is known, and all classes are equal
    ratio_K = torch.where(negative_K > 0, positive_K / negative_K, 1.0).clamp(0, 1)
    gamma_K = gamma + scale * (1 - ratio_K)
    return replace(by_class, gamma_K=gamma_K, factor_K=gamma_K / gamma)
