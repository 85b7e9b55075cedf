"""Whether objects stand so close that what is written about one hides others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FEW = 8  # objects that are named in any case
MOST_HIDING = 0.25  # share of the labels that may lie over other objects
HIDDEN = 0.1  # share of an object, or of a label, that counts as hidden
MOST_COMPARED = 1000  # objects: of more, each so manieth stands for its neighbours
PAIRS = 1 << 18  # that are compared at once


def is_crowded(boxes: Sequence[Sequence[float]], labels: Sequence[Sequence[float]]) -> bool:
    """Tell whether many labels would lie over other objects, or over other labels.

    Args:
        boxes: Corners of each object.
        labels: Corners of what would be written about each; without area where nothing would be.

    Example:
        >>> apart = [(40 * number, 0, 40 * number + 30, 30) for number in range(20)]
        >>> narrow = [(40 * number, 0, 40 * number + 10, 10) for number in range(20)]
        >>> wide = [(40 * number, 0, 40 * number + 90, 10) for number in range(20)]
        >>> is_crowded(apart, narrow), is_crowded(apart, wide), is_crowded(apart[:4], wide[:4])
        (False, True, False)
    """
    if len(boxes) <= FEW:
        return False
    objects, written = np.asarray(boxes, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    chosen = np.arange(0, len(objects), -(-len(objects) // MOST_COMPARED))
    hiding = np.zeros(len(chosen), dtype=bool)
    step = max(1, PAIRS // len(objects))
    for start in range(0, len(chosen), step):
        some = chosen[start : start + step]
        for others in (objects, written):
            hidden = _common(written[some], others) / np.maximum(_areas(others), 1)
            hidden[np.arange(len(some)), some] = 0  # its own
            hiding[start : start + step] |= (hidden >= HIDDEN).any(axis=1)
    return bool(hiding.mean() > MOST_HIDING)


def _common(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the area that each of the one has in common with each of the other."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    areas: np.ndarray = (high - low).clip(min=0).prod(axis=2)
    return areas


def _areas(boxes: np.ndarray) -> np.ndarray:
    areas: np.ndarray = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)
    return areas
