"""What is taken for what: rows are the truth, columns the prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ziggurat.data.detections import PICTURE_SCORE, Detections
from ziggurat.metrics.coco import GroundTruth
from ziggurat.metrics.confusion import confusion_matrix
from ziggurat.metrics.matching import FREE, at_least, match


def detection_confusion(
    truth: Sequence[GroundTruth], found: Sequence[Detections], num_classes: int
) -> np.ndarray:
    """Count objects by their class and the class of the detection that answers for them.

    Detections with a score of `PICTURE_SCORE` at least, the best first, take the free object *of any class* that they
    overlap most, with an IoU of 0.5 or more. So an object that is found twice counts with the better score, and the
    other detection as found where nothing is. Detections in a crowd do not count.

    Args:
        truth: Of each image.
        found: Of each image.
        num_classes: ``K``.

    Returns:
        int64, shape ``(K + 1, K + 1)``. The last column counts objects that are not found, the last row detections
        where nothing is; their common cell is 0.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for objects, detections in zip(truth, found, strict=True):
        shown = at_least(detections, PICTURE_SCORE)
        taken = match(shown, objects, same_class=False)
        true, predicted = objects.labels.numpy(), shown.labels.numpy()
        right = taken >= 0
        np.add.at(counts, (true[taken[right]], predicted[right]), 1)
        np.add.at(counts, (num_classes, predicted[taken == FREE]), 1)
        missed = ~objects.crowd.numpy()
        missed[taken[right]] = False
        np.add.at(counts, (true[missed], num_classes), 1)
    return counts


def classification_confusion(probabilities_NK: Tensor, labels_N: Tensor) -> np.ndarray:
    """Count images by their class and the class that is the most probable one, int64, shape ``(K, K)``."""
    predicted, num_classes = probabilities_NK.argmax(dim=1), probabilities_NK.shape[1]
    return confusion_matrix(predicted, labels_N, num_classes, ignored=-1).numpy()  # -1: every label counts
