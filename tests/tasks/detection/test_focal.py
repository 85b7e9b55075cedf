from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from support.focal_targets import ANCHORS, CLASSES, COLUMNS, IMAGES, ROWS, random_targets
from ziggurat.tasks.detection.assignment import LevelTargets
from ziggurat.tasks.detection.focal import focal_sums


def plain_sums(logits: Tensor, targets: LevelTargets, alpha: float, gamma: float) -> Tensor:
    """Build the map of targets that the real one does without."""
    shape = (IMAGES, ANCHORS, CLASSES, ROWS, COLUMNS)
    wanted, counts = torch.zeros(shape, dtype=logits.dtype), torch.ones(shape, dtype=logits.dtype)
    p, i = targets.positives, targets.ignored
    wanted[p.image, p.anchor, targets.labels, p.row, p.column] = 1
    counts[i.image, i.anchor, :, i.row, i.column] = 0
    loss = sigmoid_focal_loss(logits.view(shape), wanted, alpha, gamma, reduction="none") * counts
    return loss.flatten(1).sum(1)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.9, 1.5)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("positives", "ignored"), [(20, 10), (0, 0)])
def test_sums_and_gradients_are_torchvisions(
    alpha: float, gamma: float, memory_format: torch.memory_format, positives: int, ignored: int
) -> None:
    targets = random_targets(positives, ignored)
    logits = 4 * torch.randn(IMAGES, ANCHORS * CLASSES, ROWS, COLUMNS, dtype=torch.float64)
    ours = logits.clone(memory_format=memory_format).requires_grad_()
    theirs = logits.clone().requires_grad_()
    weights = torch.tensor([0.3, 2.0], dtype=torch.float64)
    sums, expected = (
        focal_sums(ours, targets, ANCHORS, alpha, gamma),
        plain_sums(theirs, targets, alpha, gamma),
    )
    torch.testing.assert_close(sums, expected, rtol=1e-12, atol=1e-12)
    (sums * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


def test_gradcheck() -> None:
    targets = random_targets(20, 10)
    logits = torch.randn(IMAGES, ANCHORS * CLASSES, ROWS, COLUMNS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: focal_sums(x, targets, ANCHORS, 0.25, 2.0), logits)


def test_extreme_logits_are_finite_and_bf16_gives_float32_sums() -> None:
    targets = random_targets(20, 10)
    logits = (100 * torch.randn(IMAGES, ANCHORS * CLASSES, ROWS, COLUMNS)).bfloat16().requires_grad_()
    sums = focal_sums(logits, targets, ANCHORS, 0.25, 2.0)
    assert sums.dtype is torch.float32
    torch.testing.assert_close(
        sums, plain_sums(logits.detach().float(), targets, 0.25, 2.0), rtol=1e-4, atol=0
    )
    sums.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype is torch.bfloat16
    assert logits.grad.isfinite().all()
