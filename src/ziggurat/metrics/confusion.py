"""The metric of segmentation: one confusion matrix, summed over images and workers, and all numbers from it.

Shapes: ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ziggurat.data.batch import IGNORED_PIXEL
from ziggurat.errors import UserError


def confusion_matrix(
    predicted: Tensor, truth: Tensor, num_classes: int, ignored: int = IGNORED_PIXEL
) -> Tensor:
    """Count which class is taken for which.

    Args:
        predicted: Label of each pixel, whole numbers, any shape.
        truth: Label of each pixel, of the same shape and device.
        num_classes: Labels are below this number.
        ignored: Pixels whose truth is this value are not counted.

    Returns:
        Pixels, int64, shape ``(K, K)``: a row for each true class, a column for each predicted one.

    Raises:
        UserError: If the shapes differ, or a label (but `ignored` in the truth) is not of a class.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]), num_classes=2)
        tensor([[1, 1],
                [0, 0]])
    """
    if predicted.shape != truth.shape:
        raise UserError(
            f"prediction and truth must have one size: got {tuple(predicted.shape)} and {tuple(truth.shape)}"
        )
    counted = truth != ignored
    true, found = truth[counted].to(torch.int64), predicted[counted].to(torch.int64)
    faults = []
    for name, labels in (("truth", true), ("prediction", found)):
        strange = labels[(labels < 0) | (labels >= num_classes)].unique()
        if len(strange):
            faults.append(
                f"labels of the {name} must be of the {num_classes} classes, 0 to {num_classes - 1} (ignored: "
                f"{ignored}): got {', '.join(map(str, strange.tolist()[:8]))}; name all classes in data.classes"
            )
    if faults:
        raise UserError(faults)
    counts = torch.bincount(true * num_classes + found, minlength=num_classes * num_classes)
    return counts.view(num_classes, num_classes)


def image_quality(confusion_KK: Tensor) -> float:
    """Return the mean IoU of the classes that occur in one image; 1 where all of its pixels are ignored.

    Args:
        confusion_KK: Of the image, see `confusion_matrix`.

    Example:
        >>> image_quality(torch.tensor([[1, 1], [0, 2]]))
        0.5833333333333333
    """
    intersection, union, _ = _areas(confusion_KK)
    return _mean(intersection, union) if union.any() else 1.0


def segmentation_metrics(confusion_KK: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Return what a confusion matrix says.

    Args:
        confusion_KK: Of all images, see `confusion_matrix`.
        classes: The name of each class.

    Returns:
        From names to numbers in [0, 1], or None where nothing is to be counted:

        - ``miou``: mean of the IoUs of those classes that occur, in the truth or in the prediction. (Classes that
          occur in neither have no IoU: the mean leaves them out, as mmsegmentation's does.)
        - ``dice``: mean of ``2 * IoU / (1 + IoU)`` of the same classes.
        - ``pixel_accuracy``: share of the pixels that have the right class.
        - ``mean_accuracy``: mean, over the classes that occur in the truth, of the share of its pixels that are found.
        - ``per_class_iou``: IoU by class name.

    Raises:
        ValueError: If there is not one row and one column for each class.
    """
    if confusion_KK.shape != (len(classes), len(classes)):
        raise ValueError(
            f"a row and a column for each class are needed: got {tuple(confusion_KK.shape)} for {len(classes)}"
        )
    intersection, union, truth = _areas(confusion_KK)
    iou = (intersection / union.clamp(min=1)).tolist()
    return {
        "miou": _mean(intersection, union),
        "pixel_accuracy": _mean(intersection.sum().view(1), truth.sum().view(1)),
        "mean_accuracy": _mean(intersection, truth),
        "dice": _mean(2 * intersection, union + intersection),
        "per_class_iou": {
            name: value if occurs else None
            for name, value, occurs in zip(classes, iou, (union > 0).tolist(), strict=True)
        },
    }


def _areas(confusion_KK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each class's intersection and union of truth and prediction, and its truth, float64, shape ``(K,)``."""
    confusion_KK = confusion_KK.to(torch.float64)
    right, truth, found = confusion_KK.diagonal(), confusion_KK.sum(dim=1), confusion_KK.sum(dim=0)
    return right, truth + found - right, truth


def _mean(part: Tensor, whole: Tensor) -> Any:
    """Return the mean share of those that have a whole, or None if none has."""
    some = whole > 0
    return float((part[some] / whole[some]).mean()) if some.any() else None
