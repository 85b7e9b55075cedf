"""Weights of classes in a loss: given, or from how often each class occurs.

Shapes: ``K`` classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ziggurat.config import LossConfig, read_numbers
from ziggurat.data.balance import ClassCounts
from ziggurat.errors import UserError


class ClassWeights:
    """What the true class's part of a loss is multiplied by.

    Args:
        loss: ``class_weights`` and ``effective_beta``.
        num_classes: Of the model.

    Raises:
        UserError: If there are more or fewer weights than classes.
    """

    def __init__(self, loss: LossConfig, num_classes: int) -> None:
        self._loss = loss
        self._weight_K: Tensor | None = None
        if self.is_measured or not self:
            return
        weights = read_numbers(loss.class_weights)
        if len(weights) != num_classes:
            raise UserError(
                f"loss.class_weights must have a number for each class, in the order of labels: got {len(weights)} for {num_classes} classes"
            )
        self._weight_K = torch.tensor(weights, dtype=torch.float64)

    def __bool__(self) -> bool:
        """Whether classes have weights at all."""
        return self._loss.class_weights != "none"

    @property
    def is_measured(self) -> bool:
        """Whether the weights come from how often classes occur."""
        return self._loss.class_weights in ("inverse", "effective")

    def take_counts(self, counts: ClassCounts) -> None:
        """Make the weights of how often classes occur in the training data, if they are to be made so.

        They are such that the mean weight of all that is counted is 1; a class that does not occur counts as if it did once.

        References:
            Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019, equation 10. https://arxiv.org/abs/1901.05555
        """
        if not self.is_measured:
            return
        # pixels of an image are no examples of their own: the effective number of masks is that of images
        is_effective = self._loss.class_weights == "effective"
        found_K = counts.images_K if is_effective and counts.unit == "pixels" else counts.instances_K
        count_K = np.maximum(found_K, 1).astype(np.float64)
        amount_K = count_K
        if is_effective and self._loss.effective_beta:
            beta = self._loss.effective_beta
            amount_K = -np.expm1(count_K * np.log(beta)) / (1 - beta)
        elif is_effective:
            amount_K = np.ones_like(count_K)
        weight_K = count_K.sum() / (count_K / amount_K).sum() / amount_K
        self._weight_K = torch.from_numpy(weight_K)

    @property
    def weight_K(self) -> Tensor:
        """The weights, float64, shape ``(K,)``.

        Raises:
            UserError: If they are to be made of counts that were not taken: there are no training data.
        """
        if self._weight_K is None:
            raise UserError(
                f"loss.class_weights={self._loss.class_weights} counts classes in training data, which there are none of here: give a "
                "number for each class, or none"
            )
        return self._weight_K

    def like(self, values: Tensor) -> Tensor:
        """Return the weights in the type of floating-point values, and where they are."""
        return self.weight_K.to(values.device, values.dtype)
