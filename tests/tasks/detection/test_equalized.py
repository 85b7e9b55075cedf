"""The equalized focal loss against a plain one that collects gradients by itself, and against a plain loop of training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from support.focal_targets import ANCHORS, CLASSES, COLUMNS, IMAGES, ROWS, random_targets
from support.ranks import run_ranks
from support.small_runs import config_of, trained
from support.states import checkpoint_tensors
from ziggurat.config import LossConfig, RunConfig, override, range_faults
from ziggurat.models.build import build_model
from ziggurat.models.vision import place_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.generators import seed_everything
from ziggurat.strategies.mesh import make_mesh
from ziggurat.tasks.detection.assignment import Assignment, LevelTargets
from ziggurat.tasks.detection.equalized import equalized
from ziggurat.tasks.detection.focal import ByClass, focal_sums, focal_sums_by_class
from ziggurat.tasks.detection.loss import DetectionLoss
from ziggurat.tasks.registry import make_task
from ziggurat.training.data import TrainingData
from ziggurat.training.feed import SampleFeed
from ziggurat.training.optimization import learning_rate, make_optimizer, set_learning_rate

ALPHA, GAMMA, SCALE = 0.25, 2.0, 8.0


class PlainEqualizedFocalLoss:
    """The loss as its authors have it: maps of targets, and buffers of gradients that are added up after each backward pass."""

    def __init__(self, num_classes: int, dtype: torch.dtype = torch.float64) -> None:
        self.pos_grad = torch.zeros(num_classes, dtype=dtype)
        self.neg_grad = torch.zeros(num_classes, dtype=dtype)
        self.pos_neg = torch.ones(num_classes, dtype=dtype)

    def loss(self, logits_NK: Tensor, targets_NK: Tensor, counts_N: Tensor) -> Tensor:
        """Return the loss of each prediction and class, shape ``(N, K)``."""
        pred = torch.sigmoid(logits_NK)
        pred_t = pred * targets_NK + (1 - pred) * (1 - targets_NK)
        focusing = GAMMA + SCALE * (1 - self.pos_neg)
        weighting = focusing / GAMMA
        alpha_t = ALPHA * targets_NK + (1 - ALPHA) * (1 - targets_NK)
        return alpha_t * weighting * (1 - pred_t) ** focusing * -torch.log(pred_t) * counts_N[:, None]

    def collect(self, gradient_NK: Tensor, targets_NK: Tensor) -> None:
        """Take the gradient of a step."""
        self.pos_grad += (gradient_NK.abs() * targets_NK).sum(dim=0)
        self.neg_grad += (gradient_NK.abs() * (1 - targets_NK)).sum(dim=0)
        self.pos_neg = (self.pos_grad / (self.neg_grad + 1e-10)).clamp(0, 1)


def as_rows(map_BCHW: Tensor, num_anchors: int) -> Tensor:
    return map_BCHW.unflatten(1, (num_anchors, -1)).permute(0, 1, 3, 4, 2).flatten(0, 3)


def maps_of(targets: LevelTargets, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the targets of each prediction and class, and which predictions count, as rows."""
    wanted, counts = torch.zeros(shape, dtype=dtype), torch.ones((*shape[:2], *shape[3:]), dtype=dtype)
    p, i = targets.positives, targets.ignored
    wanted[p.image, p.anchor, targets.labels, p.row, p.column] = 1
    counts[i.image, i.anchor, i.row, i.column] = 0
    return wanted.permute(0, 1, 3, 4, 2).flatten(0, 3), counts.flatten()


def test_several_steps_are_those_of_the_plain_loss() -> None:
    plain, accumulated = PlainEqualizedFocalLoss(CLASSES), torch.zeros(2 * CLASSES, dtype=torch.float64)
    shape = (IMAGES, ANCHORS, CLASSES, ROWS, COLUMNS)
    weight_B = torch.tensor([0.3, 2.0], dtype=torch.float64)
    exponents = []
    for _ in range(4):
        targets = random_targets(20, 10)
        logits = 2 * torch.randn(IMAGES, ANCHORS * CLASSES, ROWS, COLUMNS, dtype=torch.float64) - 2
        ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
        by_class = equalized(accumulated, GAMMA, SCALE, ByClass())
        found = focal_sums_by_class(ours, targets, ANCHORS, ALPHA, GAMMA, by_class)
        wanted_NK, counts_N = maps_of(targets, shape, torch.float64)
        expected_NK = plain.loss(as_rows(theirs, ANCHORS), wanted_NK, counts_N)
        expected_B = expected_NK.sum(dim=1).view(IMAGES, -1).sum(dim=1)
        torch.testing.assert_close(found.loss_B, expected_B, rtol=1e-10, atol=1e-12)
        (found.loss_B * weight_B).sum().backward()
        (expected_B * weight_B).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-13)
        plain.collect(as_rows(theirs.grad, ANCHORS), wanted_NK)
        gradients_BK = torch.cat([found.positive_BK, found.negative_BK], dim=1)
        accumulated += (gradients_BK * weight_B[:, None]).sum(dim=0)
        torch.testing.assert_close(
            accumulated, torch.cat([plain.pos_grad, plain.neg_grad]), rtol=1e-9, atol=1e-12
        )
        exponents.append(by_class.gamma_K)
    assert (exponents[0] == GAMMA).all()
    assert (exponents[-1] > GAMMA).any()


def test_before_the_first_step_it_is_the_focal_loss() -> None:
    targets = random_targets(20, 10)
    logits = torch.randn(IMAGES, ANCHORS * CLASSES, ROWS, COLUMNS)
    by_class = equalized(torch.zeros(2 * CLASSES, dtype=torch.float64), GAMMA, SCALE, ByClass())
    found = focal_sums_by_class(logits, targets, ANCHORS, ALPHA, GAMMA, by_class).loss_B
    torch.testing.assert_close(found, focal_sums(logits, targets, ANCHORS, ALPHA, GAMMA))


def test_gradcheck_with_exponents_and_factors_of_each_class() -> None:
    targets = random_targets(20, 10)
    logits = torch.randn(IMAGES, ANCHORS * CLASSES, ROWS, COLUMNS, dtype=torch.float64, requires_grad=True)
    by = ByClass(
        torch.tensor([2.0, 3.5, 6.0, 2.5]),
        torch.tensor([1.0, 1.7, 3.0, 1.2]),
        torch.tensor([1.0, 0.5, 9.0, 2.0]),
    )
    assert torch.autograd.gradcheck(
        lambda x: focal_sums_by_class(x, targets, ANCHORS, ALPHA, GAMMA, by).loss_B, logits
    )


def test_an_exponent_of_zero_is_refused() -> None:
    config = override(RunConfig(), {"loss.detection": "equalized", "loss.focal_gamma": 0, "train.steps": 1})
    (fault,) = range_faults(config)
    assert fault.startswith("loss.focal_gamma must be positive with loss.detection=equalized")


def plain_run(config: RunConfig) -> tuple[list[float], Tensor]:
    """Train one process, in a loop without any of ours but data, network and box terms; return losses and sums."""
    torch.set_num_threads(1)
    mesh = make_mesh(Workers(), "dp=1")
    data = TrainingData(config, mesh)
    seed_everything(config.seed)
    model = place_model(build_model(config.model, 10), mesh.home, config.train.channels_last).train()
    optimizer, task = (
        make_optimizer(model, config.train),
        make_task(model, override(config, {"loss.detection": "focal"})),
    )
    feed, plain, losses = (
        SampleFeed(model, mesh, config, lambda: 0),
        PlainEqualizedFocalLoss(10, torch.float32),
        [],
    )
    for step in range(config.train.steps):
        set_learning_rate(optimizer, learning_rate(step, data.num_steps, config.train))
        batches = next(iter(data_of(data, step)))
        assignments: list[Assignment] = [task.assign(batch) for batch in batches]
        totals = torch.stack([task.normalizers(one) for one in assignments]).sum(dim=0)
        optimizer.zero_grad()
        total, collected = 0.0, []
        for batch, assignment in zip(batches, assignments, strict=True):
            outputs = model(feed.images(batch))
            terms = task.loss_shares(outputs, assignment, totals)
            share: Any = terms["boxes"] + terms["centerness"]
            for name, targets in assignment.levels.items():
                logits = outputs[name]["classes"]
                logits.retain_grad()
                wanted_NK, counts_N = maps_of(targets, (len(logits), 1, *logits.shape[1:]), torch.float32)
                share = share + plain.loss(as_rows(logits, 1), wanted_NK, counts_N).sum() / float(totals[0])
                collected.append((logits, wanted_NK))
            share.backward()
            total += float(share.detach())
        for logits, wanted_NK in collected:
            plain.pos_grad += (as_rows(logits.grad, 1).abs() * wanted_NK).sum(dim=0)
            plain.neg_grad += (as_rows(logits.grad, 1).abs() * (1 - wanted_NK)).sum(dim=0)
        plain.pos_neg = (plain.pos_grad / (plain.neg_grad + 1e-10)).clamp(0, 1)
        optimizer.step()
        losses.append(total)
    return losses, torch.cat([plain.pos_grad, plain.neg_grad]).double()


def data_of(data: TrainingData, step: int) -> Any:
    parallel = SimpleNamespace(
        microbatches_of=range, mesh=SimpleNamespace(workers=SimpleNamespace(device=torch.device("cpu")))
    )
    for _, batches, _ in data.steps(parallel, step):
        yield batches
        return


def reference(workers: Workers, config: RunConfig) -> tuple[list[float], Tensor]:
    return plain_run(config)


def test_a_run_is_that_of_a_plain_loop(tmp_path) -> None:
    config = config_of(
        "detect",
        **{
            "loss.detection": "equalized",
            "model.norm": "group",
            "train.steps": 3,
            "train.clip_norm": 0,
            "train.ema": 0,
        },
    )
    (losses, sums), *_ = run_ranks(reference, 1, (config,))
    ((_, steps, _),), *_ = run_ranks(trained, 1, ("dp=1", tmp_path, [config]))
    assert [loss for loss, _ in steps] == pytest.approx(losses, rel=1e-5)
    found = checkpoint_tensors(tmp_path / "dp=1-0" / "checkpoints" / "step-3")["loss.accumulated"]
    torch.testing.assert_close(found, sums, rtol=1e-4, atol=1e-8)


def test_the_loss_names_what_it_accumulates() -> None:
    model = build_model(config_of("detect").model, 10)
    assert DetectionLoss(model, LossConfig()).accumulated_names == ()
    names = DetectionLoss(model, LossConfig(detection="equalized")).accumulated_names
    assert len(names) == 20
    assert (names[0], names[-1]) == ("positive_0", "negative_9")
