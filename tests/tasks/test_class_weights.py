"""Weights of classes against PyTorch's weighted losses, slow references, and numbers worked by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from support.focal_targets import ANCHORS, CLASSES, COLUMNS, IMAGES, ROWS, random_targets
from ziggurat.cli.main import main
from ziggurat.config import LossConfig, RunConfig, override
from ziggurat.data.balance import ClassCounts
from ziggurat.data.batch import IGNORED_PIXEL
from ziggurat.errors import UserError
from ziggurat.tasks.class_weights import ClassWeights
from ziggurat.tasks.classification.task import ClassificationTask
from ziggurat.tasks.detection.focal import ByClass, focal_sums, focal_sums_by_class
from ziggurat.tasks.segmentation.pixel_losses import focal_cross_entropy
from ziggurat.tasks.segmentation.task import PixelTargets, SegmentationTask

WEIGHTS = [0.5, 3.0, 1.0, 7.25]


def weights_of(
    text: str, images: list[dict[int, int]], unit: str = "objects", beta: float = 0.5
) -> list[float]:
    weights = ClassWeights(LossConfig(class_weights=text, effective_beta=beta), 3)
    weights.take_counts(ClassCounts.of(images, 3, unit))
    return weights.weight_K.tolist()


def test_weights_worked_by_hand() -> None:
    images = [{0: 3, 1: 1}, {0: 3, 1: 1}]  # 6, 2 and no objects
    # 1/6, 1/2 and 1, such that 6 a + 2 b + 1 c = 9: all three sums are 3
    assert weights_of("inverse", images) == pytest.approx([0.5, 1.5, 3.0])
    # of n examples (1 - 0.5**n) / 0.5 are different ones: 1.96875, 1.5 and 1
    amounts = [1.96875, 1.5, 1.0]
    scale = 9 / sum(n / amount for n, amount in zip([6, 2, 1], amounts, strict=True))
    assert weights_of("effective", images) == pytest.approx([scale / amount for amount in amounts])
    assert weights_of("effective", images, beta=0.0) == pytest.approx([1, 1, 1])
    # of masks the images count: 2, 2 and none
    assert weights_of("effective", images, "pixels")[0] == weights_of("effective", images, "pixels")[1]


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        UserError, match="a number for each class, in the order of labels: got 2 for 3 classes"
    ):
        ClassWeights(LossConfig(class_weights="1,2"), 3)
    with pytest.raises(UserError, match="counts classes in training data, which there are none of here"):
        _ = ClassWeights(LossConfig(class_weights="inverse"), 3).weight_K


def task_of(kind: type, **settings: Any) -> Any:
    text = ",".join(map(str, WEIGHTS))
    config = override(
        RunConfig(), {"loss.class_weights": text} | {k.replace("__", "."): v for k, v in settings.items()}
    )
    return kind(SimpleNamespace(num_classes=len(WEIGHTS), level_names=()), config)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classification_is_the_weighted_mean_of_pytorch(smoothing: float) -> None:
    task = task_of(ClassificationTask, loss__smoothing=smoothing)
    logits = torch.randn(11, 4, dtype=torch.float64)
    labels = torch.randint(0, 4, (11,))
    pieces = [slice(0, 4), slice(4, 8), slice(8, 11)]
    totals = torch.stack([task.normalizers(labels[piece]) for piece in pieces]).sum(dim=0)
    ours = logits.clone().requires_grad_()
    shares = [task.loss_shares({"logits": ours[piece]}, labels[piece], totals)["classes"] for piece in pieces]
    theirs = logits.clone().requires_grad_()
    expected = functional.cross_entropy(
        theirs, labels, torch.tensor(WEIGHTS).double(), label_smoothing=smoothing
    )
    torch.testing.assert_close(torch.stack(shares).sum(), expected, rtol=1e-12, atol=0)
    torch.stack(shares).sum().backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-14)


def test_segmentation_is_the_weighted_mean_of_pytorch() -> None:
    task = task_of(SegmentationTask)
    logits = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    labels = torch.randint(0, 4, (3, 5, 6)).to(torch.uint8)
    labels[torch.rand(3, 5, 6) < 0.2] = IGNORED_PIXEL
    targets = [
        PixelTargets(one[None], torch.bincount(one.flatten(), minlength=256)[:4].double()) for one in labels
    ]
    totals = torch.stack([task.normalizers(target) for target in targets]).sum(dim=0)
    ours = logits.clone().requires_grad_()
    shares = [
        task.loss_shares({"logits": ours[i : i + 1]}, target, totals)["ce"]
        for i, target in enumerate(targets)
    ]
    theirs = logits.clone().requires_grad_()
    weight = torch.tensor(WEIGHTS).double()
    expected = functional.cross_entropy(theirs, labels.long(), weight, ignore_index=IGNORED_PIXEL)
    torch.testing.assert_close(torch.stack(shares).sum(), expected, rtol=1e-12, atol=0)
    torch.stack(shares).sum().backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-14)


def test_a_batch_without_a_valid_pixel_has_no_loss() -> None:
    task = task_of(SegmentationTask)
    target = PixelTargets(torch.full((1, 2, 2), IGNORED_PIXEL, dtype=torch.uint8), torch.zeros(4).double())
    shares = task.loss_shares({"logits": torch.randn(1, 4, 2, 2)}, target, task.normalizers(target))
    assert float(shares["ce"]) == 0


def test_the_weighted_focal_loss_of_pixels_by_autograd() -> None:
    logits = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 3, 5)).to(torch.uint8)
    weight = torch.tensor(WEIGHTS).double()
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = focal_cross_entropy(ours, labels, 1.5, weight)
    log_p = theirs.log_softmax(dim=1).gather(1, labels[:, None].long())
    expected = (weight[labels.long()][:, None] * (1 - log_p.exp()) ** 1.5 * -log_p).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_positives_of_detectors_have_the_weight_of_their_class() -> None:
    targets = random_targets(20, 10)
    logits = 4 * torch.randn(IMAGES, ANCHORS * CLASSES, ROWS, COLUMNS, dtype=torch.float64)
    weight = torch.tensor(WEIGHTS).double()
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = focal_sums_by_class(ours, targets, ANCHORS, 0.25, 2.0, ByClass(positive_K=weight)).loss_B
    expected = plain_weighted(theirs, targets, weight)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)
    equal = focal_sums_by_class(logits, targets, ANCHORS, 0.25, 2.0, ByClass(positive_K=torch.ones(CLASSES)))
    torch.testing.assert_close(
        equal.loss_B, focal_sums(logits, targets, ANCHORS, 0.25, 2.0), rtol=1e-12, atol=0
    )


def plain_weighted(logits: Tensor, targets: Any, weight: Tensor) -> Tensor:
    """The focal loss of torchvision on a map of targets, its positives weighted."""
    shape = (IMAGES, ANCHORS, CLASSES, ROWS, COLUMNS)
    wanted, counts = torch.zeros(shape, dtype=logits.dtype), torch.ones(shape, dtype=logits.dtype)
    p, i = targets.positives, targets.ignored
    wanted[p.image, p.anchor, targets.labels, p.row, p.column] = 1
    counts[p.image, p.anchor, targets.labels, p.row, p.column] = weight[targets.labels]
    counts[i.image, i.anchor, :, i.row, i.column] = 0
    loss = sigmoid_focal_loss(logits.view(shape), wanted, 0.25, 2.0, reduction="none") * counts
    return loss.flatten(1).sum(1)


def test_a_wrong_number_of_weights_is_told_with_the_other_faults(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["train", "digits", "--task", "classify", "--model", "pnn", "--plan", "dp=1", "--lr", "-1"]
    assert main([*words, "--set", "loss.class_weights=1,2"]) == 2
    said = capfd.readouterr().err
    assert "train.lr must be" in said
    assert (
        "loss.class_weights must have a number for each class, in the order of labels: got 2 for 10 classes"
        in said
    )
