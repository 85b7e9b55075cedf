"""The segmentation losses, against one plain loss of the whole batch, other libraries, and gradcheck."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.config import LossConfig, RunConfig
from ziggurat.data.batch import IGNORED_PIXEL, Microbatch, SampleId
from ziggurat.errors import UserError
from ziggurat.models.vision import VisionModel
from ziggurat.tasks.segmentation.pixel_losses import focal_cross_entropy
from ziggurat.tasks.segmentation.targets import MaskTargets
from ziggurat.tasks.segmentation.task import SegmentationTask

KINDS = ("ce", "focal", "dice", "ce+dice", "focal+dice")
NUM_CLASSES = 5
ABSENT = 3  # a class without a pixel


def make_task(kind: str, num_classes: int = NUM_CLASSES, **loss: Any) -> SegmentationTask:
    model = cast(VisionModel, SimpleNamespace(num_classes=num_classes))
    return SegmentationTask(model, RunConfig(loss=LossConfig(segmentation=cast(Any, kind), **loss)))


def make_microbatch(labels_BHW: Tensor, index: int = 0) -> Microbatch:
    count, height, width = labels_BHW.shape
    images = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    ids = tuple(SampleId(0, number) for number in range(count))
    return Microbatch(index, ids, images, ((height, width),) * count, MaskTargets(labels_BHW))


def draw_batch(dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], list[Tensor]]:
    """Return logits and labels of uneven microbatches: of one, two and three images; the second is ignored wholly."""
    logits, labels = [], []
    for count, height, width in ((1, 8, 6), (2, 5, 7), (3, 4, 4)):
        logits.append(3 * torch.randn(count, NUM_CLASSES, height, width, dtype=dtype))
        drawn = torch.randint(0, NUM_CLASSES - 1, (count, height, width), dtype=torch.uint8)
        drawn[drawn == ABSENT] = NUM_CLASSES - 1
        drawn[torch.rand(drawn.shape) < 0.2] = IGNORED_PIXEL
        labels.append(drawn)
    labels[1].fill_(IGNORED_PIXEL)
    return logits, labels


def run_as_the_loop_does(
    task: SegmentationTask, logits: list[Tensor], labels: list[Tensor]
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return each term summed over microbatches, and the gradient of each microbatch's logits."""
    leaves = [one.clone().requires_grad_() for one in logits]
    assignments = [task.assign(make_microbatch(one, index)) for index, one in enumerate(labels)]
    normalizers = torch.stack([task.normalizers(one) for one in assignments])
    sums = torch.stack([task.output_sums({"logits": x}, a) for x, a in zip(leaves, assignments, strict=True)])
    assert normalizers.shape[1] == len(task.normalizer_names)
    assert sums.shape[1] == len(task.output_sum_names)
    totals = torch.cat([normalizers.sum(dim=0), sums.sum(dim=0)])
    assert totals.dtype == torch.float64
    values = dict.fromkeys(task.term_names, torch.zeros((), dtype=torch.float64))
    for leaf, assignment in zip(leaves, assignments, strict=True):
        shares = task.loss_shares({"logits": leaf}, assignment, totals)
        assert tuple(shares) == task.term_names
        torch.stack(list(shares.values())).sum().backward()
        values = {name: values[name] + share.detach() for name, share in shares.items()}
    return values, [cast(Tensor, leaf.grad) for leaf in leaves]


def plain_terms(logits: list[Tensor], labels: list[Tensor], gamma: float) -> dict[str, Tensor]:
    """Return the loss of the whole batch by its definition: all pixels in one list."""
    x_NK = torch.cat([one.permute(0, 2, 3, 1).reshape(-1, NUM_CLASSES) for one in logits])
    y_N = torch.cat([one.flatten() for one in labels]).long()
    x_NK, y_N = x_NK[y_N != IGNORED_PIXEL], y_N[y_N != IGNORED_PIXEL]
    ce_N = functional.cross_entropy(x_NK, y_N, reduction="none")
    p_NK, true_NK = x_NK.softmax(dim=1), functional.one_hot(y_N, NUM_CLASSES)
    dices = [
        2 * (p_NK[:, c] * true_NK[:, c]).sum() / (p_NK[:, c].sum() + true_NK[:, c].sum())
        for c in range(NUM_CLASSES)
        if true_NK[:, c].any()
    ]
    return {
        "ce": ce_N.mean(),
        "focal": ((1 - (-ce_N).exp()) ** gamma * ce_N).mean(),
        "dice": 1 - torch.stack(dices).mean(),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_shares_of_uneven_microbatches_add_up_to_the_loss_of_the_whole_batch(kind: str) -> None:
    logits, labels = draw_batch()
    task = make_task(kind, dice_weight=0.7, focal_gamma=1.5)
    values, gradients = run_as_the_loop_does(task, logits, labels)
    leaves = [one.clone().requires_grad_() for one in logits]
    expected = plain_terms(leaves, labels, gamma=1.5)
    expected["dice"] = 0.7 * expected["dice"]
    loss = torch.stack([expected[term] for term in kind.split("+")]).sum()
    loss.backward()
    for term in kind.split("+"):
        torch.testing.assert_close(values[term], expected[term].detach(), rtol=0, atol=1e-12)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(gradient, leaf.grad, rtol=0, atol=1e-10)
    assert not gradients[1].any()  # ignored wholly


def test_dice_of_the_batch_is_no_mean_of_dices() -> None:
    logits, labels = draw_batch()
    whole, _ = run_as_the_loop_does(make_task("dice"), logits, labels)
    parts = [run_as_the_loop_does(make_task("dice"), [logits[i]], [labels[i]])[0]["dice"] for i in (0, 2)]
    assert abs(whole["dice"] - torch.stack(parts).mean()) > 1e-3


def test_dice_is_that_of_smp_where_every_class_occurs() -> None:
    logits = torch.randn(2, NUM_CLASSES, 9, 9, dtype=torch.float64)
    labels = torch.arange(2 * 81).view(2, 9, 9).remainder(NUM_CLASSES).to(torch.uint8)
    labels[:, :2] = IGNORED_PIXEL
    leaf = logits.clone().requires_grad_()
    loss = smp.losses.DiceLoss("multiclass", ignore_index=IGNORED_PIXEL)(leaf, labels.long())
    loss.backward()
    values, gradients = run_as_the_loop_does(make_task("dice"), [logits], [labels])
    torch.testing.assert_close(values["dice"], loss.detach())
    torch.testing.assert_close(gradients[0], leaf.grad)


def test_smp_counts_absent_classes_as_solved_and_we_leave_them_out() -> None:
    logits, labels = draw_batch()
    loss = smp.losses.DiceLoss("multiclass", ignore_index=IGNORED_PIXEL)(logits[2], labels[2].long())
    values, _ = run_as_the_loop_does(make_task("dice"), logits[2:], labels[2:])
    torch.testing.assert_close(values["dice"], loss * NUM_CLASSES / (NUM_CLASSES - 1))


def test_cross_entropy_is_that_of_pytorch_under_bf16() -> None:
    logits = torch.randn(2, NUM_CLASSES, 16, 16)
    labels = torch.randint(0, NUM_CLASSES, (2, 16, 16), dtype=torch.uint8)
    values, _ = run_as_the_loop_does(make_task("ce"), [logits], [labels])
    expected = functional.cross_entropy(logits, labels.long())
    torch.testing.assert_close(values["ce"], expected.double(), rtol=1e-6, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        half, gradients = run_as_the_loop_does(make_task("ce+dice"), [logits.bfloat16()], [labels])
    torch.testing.assert_close(half["ce"], expected.double(), rtol=1e-2, atol=0)
    assert gradients[0].dtype == torch.bfloat16


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_focal_derivative(gamma: float) -> None:
    logits = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[[0, 1, 2], [255, 0, 1]], [[2, 2, 255], [1, 0, 0]]], dtype=torch.uint8)
    assert torch.autograd.gradcheck(lambda x: focal_cross_entropy(x, labels, gamma), logits)


@pytest.mark.parametrize("kind", KINDS)
def test_certain_logits_give_finite_losses_and_gradients(kind: str) -> None:
    labels = torch.tensor([[[0, 1, 1, 0]]], dtype=torch.uint8)
    logits = torch.tensor([500.0, -500.0, 500.0, -500.0]).view(1, 1, 1, 4) * torch.tensor([1.0, -1.0]).view(
        1, 2, 1, 1
    )
    values, gradients = run_as_the_loop_does(
        make_task(kind, num_classes=2, focal_gamma=0.5), [logits], [labels]
    )
    assert all(value.isfinite() for value in values.values())
    assert gradients[0].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_valid_pixel_loss_and_gradient_are_zero(kind: str) -> None:
    labels = torch.full((2, 4, 4), IGNORED_PIXEL, dtype=torch.uint8)
    values, gradients = run_as_the_loop_does(make_task(kind), [torch.randn(2, NUM_CLASSES, 4, 4)], [labels])
    assert all(value == 0 for value in values.values())
    assert torch.equal(gradients[0], torch.zeros_like(gradients[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_memory_format_is_of_no_matter_and_kept(kind: str) -> None:
    logits, labels = draw_batch(torch.float32)
    last = logits[2].contiguous(memory_format=torch.channels_last)
    values, gradients = run_as_the_loop_does(make_task(kind), [last], [labels[2]])
    expected_values, expected_gradients = run_as_the_loop_does(make_task(kind), [logits[2]], [labels[2]])
    torch.testing.assert_close(values, expected_values)
    torch.testing.assert_close(gradients[0], expected_gradients[0])
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)


def test_a_label_without_a_class_is_refused() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[0, 0, 0], labels[0, 0, 1] = 9, 5
    with pytest.raises(UserError, match=r"labels 0 to 4, or 255 .* got 5, 9;"):
        make_task("ce").assign(make_microbatch(labels))
