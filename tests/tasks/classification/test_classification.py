from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, recall_score, top_k_accuracy_score
from torch import Tensor
from torch.nn import functional

from ziggurat.config import LossConfig, ModelConfig, PnnConfig, RunConfig
from ziggurat.data.batch import Microbatch, SampleId
from ziggurat.metrics.classification import classification_metrics
from ziggurat.models.classifier import Classifier, build_classifier
from ziggurat.tasks.classification.targets import LabelTargets
from ziggurat.tasks.classification.task import ClassificationTask

NAMES = ["pnn", "timm:test_convnext"]


def small_model(name: str, num_classes: int = 6) -> Classifier:
    pnn = PnnConfig(channels=4, stages=2, depth=1, hidden=8)
    return build_classifier(
        ModelConfig(name=name, norm="group" if name == "pnn" else "batch", pnn=pnn), num_classes
    )


def make_batch(labels: list[int], size: int = 32) -> Microbatch:
    images = torch.randint(0, 256, (len(labels), 3, size, size), dtype=torch.uint8)
    ids = tuple(SampleId(0, number) for number in range(len(labels)))
    return Microbatch(0, ids, images, ((size, size),) * len(labels), LabelTargets(torch.tensor(labels)))


def gradients_of(model: Classifier) -> list[Tensor]:
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return gradients


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_pytorchs_cross_entropy(smoothing: float) -> None:
    model = small_model("pnn")
    task = ClassificationTask(model, RunConfig(loss=LossConfig(smoothing=smoothing, level_weight=0.7)))
    assert (task.normalizer_names, task.output_sum_names) == (("images",), ())
    assert task.term_names == ("classes", "levels")
    batch = make_batch([0, 3, 3, 5])
    outputs = model(batch.images_BCHW / 255)
    assignment = task.assign(batch)
    totals = task.normalizers(assignment)
    assert totals.tolist() == [4]
    assert totals.dtype is task.output_sums(outputs, assignment).dtype is torch.float64
    assert task.output_sums(outputs, assignment).shape == (0,)
    shares = task.loss_shares(outputs, assignment, totals)
    expected = {
        name: functional.cross_entropy(logits, batch.targets.labels_B, label_smoothing=smoothing)
        for name, logits in outputs.items()
    }
    torch.testing.assert_close(shares["classes"], expected["logits"])
    levels = [expected[name] for name in ("level0", "level1", "level2")]
    torch.testing.assert_close(shares["levels"], 0.7 * sum(levels) / 3)


@pytest.mark.parametrize("name", NAMES)
def test_shares_of_parts_are_the_loss_of_the_whole(name: str) -> None:
    model = small_model(name).double()
    task = ClassificationTask(model, RunConfig(loss=LossConfig(smoothing=0.1)))
    batch = make_batch([0, 3, 3, 5, 1])
    images = batch.images_BCHW.double() / 255
    assignment = task.assign(batch)
    totals = task.normalizers(assignment)
    whole = task.loss_shares(model(images), assignment, totals)
    assert tuple(whole) == task.term_names
    sum(whole.values()).backward()
    expected = gradients_of(model)
    parts = [slice(0, 1), slice(1, 5)]
    assert torch.equal(sum(task.normalizers(assignment[part]) for part in parts), totals)
    shares = [task.loss_shares(model(images[part]), assignment[part], totals) for part in parts]
    for term in task.term_names:
        torch.testing.assert_close(sum(share[term] for share in shares), whole[term], rtol=0.0, atol=1e-12)
    sum(sum(share.values()) for share in shares).backward()
    for gradient, one in zip(gradients_of(model), expected, strict=True):
        torch.testing.assert_close(gradient, one, rtol=0.0, atol=1e-12)


def test_levels_without_weight_still_have_gradients() -> None:
    model = small_model("pnn")
    task = ClassificationTask(model, RunConfig(loss=LossConfig(level_weight=0.0)))
    batch = make_batch([0, 3])
    assignment = task.assign(batch)
    shares = task.loss_shares(model(batch.images_BCHW / 255), assignment, task.normalizers(assignment))
    assert shares["levels"] == 0
    sum(shares.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_under_autocast_the_loss_is_float32() -> None:
    model = small_model("pnn")
    task = ClassificationTask(model, RunConfig(loss=LossConfig()))
    batch = make_batch([0, 3])
    assignment = task.assign(batch)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(batch.images_BCHW / 255)
        shares = task.loss_shares(outputs, assignment, task.normalizers(assignment))
        probabilities = torch.stack(task.decode(outputs, batch.sizes))
    assert outputs["logits"].dtype is torch.bfloat16
    assert all(share.dtype is torch.float32 for share in shares.values())
    exact = functional.cross_entropy(outputs["logits"].float(), assignment)
    torch.testing.assert_close(shares["classes"], exact)
    torch.testing.assert_close(probabilities, outputs["logits"].float().softmax(dim=1))
    assert probabilities.dtype is torch.float32


def test_a_part_without_images_of_an_empty_batch_is_zero() -> None:
    task = ClassificationTask(small_model("timm:test_vit"), RunConfig())
    assert task.term_names == ("classes",)
    labels = torch.zeros(0, dtype=torch.int64)
    totals = task.normalizers(labels)
    assert task.loss_shares({"logits": torch.zeros(0, 6)}, labels, totals)["classes"] == 0


@pytest.mark.parametrize("num_classes", [2, 5, 6, 12])
def test_metrics_are_those_of_scikit_learn(num_classes: int) -> None:
    classes = [f"class {number}" for number in range(num_classes)]
    labels = torch.randint(0, num_classes, (200,))
    labels[:num_classes] = torch.arange(num_classes)
    scores = torch.randn(200, num_classes) + 1.5 * functional.one_hot(labels, num_classes)
    metrics = classification_metrics(scores, labels, classes)
    predicted = scores.argmax(dim=1)
    assert metrics["top1"] == pytest.approx(float((predicted == labels).double().mean()))
    assert metrics["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    recalls = recall_score(labels, predicted, average=None)
    assert metrics["per_class"] == pytest.approx(dict(zip(classes, recalls.tolist(), strict=True)))
    if num_classes > 5:
        expected = top_k_accuracy_score(labels, scores, k=5, labels=range(num_classes))
        assert metrics["top5"] == pytest.approx(expected)
    else:
        assert "top5" not in metrics


def test_classes_without_images_are_left_out() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    metrics = classification_metrics(scores, torch.tensor([0, 0]), ["a", "b", "c"])
    assert metrics == {"top1": 0.5, "mean_class_accuracy": 0.5, "per_class": {"a": 0.5}}


def test_of_equal_scores_the_earlier_class_is_better_and_nan_is_never_right() -> None:
    scores = torch.zeros(8, 8)
    metrics = classification_metrics(scores, torch.arange(8), list("abcdefgh"))
    assert (metrics["top1"], metrics["top5"]) == (1 / 8, 5 / 8)
    scores[:, 1] = math.nan
    metrics = classification_metrics(scores, torch.arange(8), list("abcdefgh"))
    assert metrics["per_class"] == dict.fromkeys("abcdefgh", 0.0)
    assert metrics["top5"] == 4 / 8  # a not-number is before all: a, c, d and e follow


def test_metrics_need_an_image() -> None:
    with pytest.raises(ValueError, match="metrics need an image at least: got none"):
        classification_metrics(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), ["a", "b", "c"])
