"""Confusion matrix and metrics, against scikit-learn and the formula of torchvision's references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor

from ziggurat.errors import UserError
from ziggurat.metrics.confusion import confusion_matrix, image_quality, segmentation_metrics

CLASSES = ("sky", "tree", "road", "snow")


def draw_labels(num_classes: int = 4) -> tuple[Tensor, Tensor]:
    """Return a prediction and a truth with ignored pixels."""
    truth = torch.randint(0, num_classes, (3, 20, 17), dtype=torch.uint8)
    predicted = torch.where(torch.rand(truth.shape) < 0.6, truth, torch.randint_like(truth, 0, num_classes))
    truth[torch.rand(truth.shape) < 0.1] = 255
    return predicted, truth


def test_matrix_is_that_of_scikit_learn() -> None:
    predicted, truth = draw_labels()
    valid = truth != 255
    expected = metrics.confusion_matrix(truth[valid].numpy(), predicted[valid].numpy(), labels=range(4))
    found = confusion_matrix(predicted, truth, 4)
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found.numpy(), expected)


def test_matrices_of_pieces_add_up() -> None:
    predicted, truth = draw_labels()
    pieces = [confusion_matrix(p, t, 4) for p, t in zip(predicted, truth, strict=True)]
    assert torch.equal(torch.stack(pieces).sum(dim=0), confusion_matrix(predicted, truth, 4))


def test_metrics_are_those_of_scikit_learn() -> None:
    predicted, truth = draw_labels()
    y, z = truth[truth != 255].numpy(), predicted[truth != 255].numpy()
    found = segmentation_metrics(confusion_matrix(predicted, truth, 4), CLASSES)
    per_class = metrics.jaccard_score(y, z, average=None)
    assert list(found["per_class_iou"]) == list(CLASSES)
    np.testing.assert_allclose(list(found["per_class_iou"].values()), per_class)
    np.testing.assert_allclose(found["miou"], per_class.mean())
    np.testing.assert_allclose(found["dice"], metrics.f1_score(y, z, average="macro"))
    np.testing.assert_allclose(found["pixel_accuracy"], metrics.accuracy_score(y, z))
    np.testing.assert_allclose(found["mean_accuracy"], metrics.balanced_accuracy_score(y, z))


def test_metrics_are_those_of_torchvision() -> None:
    # references/segmentation/utils.py, ConfusionMatrix.compute
    h = confusion_matrix(*draw_labels(), 4).double()
    found = segmentation_metrics(h.long(), CLASSES)
    iou = torch.diag(h) / (h.sum(1) + h.sum(0) - torch.diag(h))
    assert found["pixel_accuracy"] == pytest.approx(float(torch.diag(h).sum() / h.sum()))
    assert found["mean_accuracy"] == pytest.approx(float((torch.diag(h) / h.sum(1)).mean()))
    assert found["miou"] == pytest.approx(float(iou.mean()))


def test_classes_that_do_not_occur_are_left_out_and_those_that_are_only_predicted_are_not() -> None:
    # sky: 2 of 3 found, tree: only predicted, road: neither, snow: all of 1
    confusion = torch.tensor([[2, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    found = segmentation_metrics(confusion, CLASSES)
    assert found["per_class_iou"] == {"sky": pytest.approx(2 / 3), "tree": 0.0, "road": None, "snow": 1.0}
    assert found["miou"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert found["mean_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["dice"] == pytest.approx((4 / 5 + 0 + 1) / 3)
    assert found["pixel_accuracy"] == pytest.approx(3 / 4)
    assert image_quality(confusion) == pytest.approx(found["miou"])


def test_nothing_but_ignored_pixels() -> None:
    truth = torch.full((4, 4), 255, dtype=torch.uint8)
    confusion = confusion_matrix(torch.zeros_like(truth), truth, 4)
    assert not confusion.any()
    assert image_quality(confusion) == 1.0
    found = segmentation_metrics(confusion, CLASSES)
    assert found["miou"] is None
    assert found["pixel_accuracy"] is None
    assert set(found["per_class_iou"].values()) == {None}


def test_faults_are_listed() -> None:
    truth = torch.tensor([0, 7, 255], dtype=torch.uint8)
    with pytest.raises(UserError) as caught:
        confusion_matrix(torch.tensor([9, 9, 0], dtype=torch.uint8), truth, 4)
    assert len(caught.value.faults) == 2
    assert "got 7" in caught.value.faults[0]
    assert "got 9" in caught.value.faults[1]
    with pytest.raises(UserError, match=r"one size: got \(2, 2\) and \(2, 3\)"):
        confusion_matrix(torch.zeros(2, 2), torch.zeros(2, 3), 4)
    with pytest.raises(ValueError, match=r"got \(3, 3\) for 4"):
        segmentation_metrics(torch.zeros(3, 3, dtype=torch.int64), CLASSES)
