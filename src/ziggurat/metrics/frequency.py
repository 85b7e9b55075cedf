"""Metrics by how frequent classes are in the training data: what is good on average may be nothing for rare classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

GROUPS = ("rare", "common", "frequent")
MANY_CLASSES = 100  # from so many on, LVIS's bounds
RARE_IMAGES, COMMON_IMAGES = 10, 100  # most of a class
UNEQUAL = 5  # times as many images: below this, no class of few is rare


def frequency_groups(images_K: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Divide classes by how many training images have them.

    A hundred classes and more by LVIS's bounds: up to 10 images are rare, up to 100 common. Of fewer classes the third with the
    fewest images is rare (of equal ones the earlier), and the third with the most is frequent; none where the most frequent
    class has less than five times the images of the rarest, or there are fewer than three.

    Args:
        images_K: Training images that have each class.

    Returns:
        The labels of each group, rising; nothing where classes are not unequal.

    References:
        Gupta et al., LVIS, 2019, section 4.2. https://arxiv.org/abs/1908.03195

    Example:
        >>> frequency_groups([900, 40, 300, 12])
        {'rare': (3,), 'common': (1, 2), 'frequent': (0,)}
        >>> frequency_groups([100, 90, 80])
        {}
    """
    counts = np.asarray(images_K)
    if len(counts) >= MANY_CLASSES:
        group = np.digitize(counts, (RARE_IMAGES, COMMON_IMAGES), right=True)
    elif len(counts) < len(GROUPS) or counts.max() < UNEQUAL * counts.min() or not counts.max():
        return {}
    else:
        third = len(counts) // 3
        place = np.argsort(np.argsort(counts, kind="stable"), kind="stable")
        group = (place >= third).astype(int) + (place >= len(counts) - third)
    return {name: tuple(np.flatnonzero(group == k).tolist()) for k, name in enumerate(GROUPS)}


def by_frequency(
    metrics: Mapping[str, Any], names: Mapping[str, str], classes: Sequence[str], images_K: Sequence[int]
) -> dict[str, float | None]:
    """Return the mean of metrics of single classes over each group, such as ``map_rare``.

    Args:
        metrics: With dictionaries of such by the class's name; a class that is missing, or None, has no number.
        names: From a metric's name to that of its dictionary.
        classes: The name of each label.
        images_K: Training images that have each class.

    Example:
        >>> by_frequency({"map_per_class": {"a": 0.5, "b": 0.25, "c": None}}, {"map": "map_per_class"}, "abc", [50, 9, 3])
        {'map_rare': None, 'map_common': 0.25, 'map_frequent': 0.5}
    """
    found: dict[str, float | None] = {}
    for name, place in names.items():
        for group, labels in frequency_groups(images_K).items():
            values = [metrics.get(place, {}).get(classes[label]) for label in labels]
            known = [value for value in values if value is not None]
            found[f"{name}_{group}"] = sum(known) / len(known) if known else None
    return found
