"""Which images are shown: those with the best predictions and those with the worst."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

MAX_TIED = 64  # images of equal quality that are looked at, to find those that show most


def best_and_worst(
    quality: Tensor, richness: Callable[[int], int], count: int
) -> tuple[list[int], list[int]]:
    """Choose images to show; no image is both, unless there is one only.

    Of images of equal quality those are taken that show most: eight empty images, all perfect, would tell nothing.

    Args:
        quality: Of each image, shape ``(images,)``.
        richness: How much there is on an image, such as its objects.
        count: Most images of each kind.

    Returns:
        The best, from the best on; and the worst, from the worst on.

    Example:
        >>> import torch
        >>> best_and_worst(torch.tensor([0.5, 1.0, 0.0, 0.7, 1.0, 1.0]), [1, 2, 3, 4, 5, 6].__getitem__, count=2)
        ([5, 4], [2, 0])
    """
    count = min(count, max(1, len(quality) // 2))
    best = _first(-quality, richness, count, set())
    worst = _first(quality, richness, count, set(best) if len(quality) > 1 else set())
    return best, worst


def _first(key: Tensor, richness: Callable[[int], int], count: int, others: set[int]) -> list[int]:
    """Return the images with the smallest keys; of equal ones the richest, then the earliest."""
    values = key.tolist()
    order = [index for index in key.argsort(stable=True).tolist() if index not in others]
    last = values[order[:count][-1]]
    sure = [index for index in order if values[index] < last]
    tied = [index for index in order if values[index] == last][: max(MAX_TIED, count)]
    chosen = [*sure, *sorted(tied, key=lambda index: -richness(index))]
    return chosen[:count]
