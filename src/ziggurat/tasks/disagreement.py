"""How far the probabilities of several models lie apart: one number from 0 (all say the same) to nearly 1."""

from __future__ import annotations

from torch import Tensor


def disagreement(probabilities: Tensor) -> Tensor:
    """Return the mean distance of models' distributions to their average, in total variation.

    Of ``N`` models that are each sure of another class it is ``1 - 1 / N``.

    Args:
        probabilities: Of each model and class, shape ``(N, K, ...)``.

    Returns:
        Shape ``(...)``.

    Example:
        >>> import torch
        >>> sure = torch.eye(4)
        >>> disagreement(sure), disagreement(sure[[0, 0]])
        (tensor(0.7500), tensor(0.))
    """
    distance: Tensor = (probabilities - probabilities.mean(dim=0)).abs().sum(dim=1).mean(dim=0) / 2
    return distance
