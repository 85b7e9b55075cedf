"""Our detectors are torchvision's: the same outputs, losses and gradients from the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from support.torchvision_twins import images_of, make_batch, make_twins, targets_of
from ziggurat.models.images import Normalization
from ziggurat.models.weight_names import torchvision_name

SIZES = [(128, 150), (128, 256), (128, 131)]  # padded to 128 x 256
TERMS = {"classification": "classes", "bbox_regression": "boxes", "bbox_ctrness": "centerness"}


@pytest.mark.parametrize(
    ("kind", "num_classes"), [("fcos", 5), ("fcos", 91), ("retinanet", 5), ("retinanet", 91)]
)
def test_losses_gradients_and_detections_are_torchvisions(
    kind: str, num_classes: int, tmp_path: Path
) -> None:
    theirs, ours, task = make_twins(kind, num_classes, tmp_path)
    batch = make_batch(SIZES, [12, 30, 0], num_classes)
    images_BCHW = Normalization(ours.mean, ours.std)(batch.images_BCHW, batch.sizes)

    theirs.train()
    expected = theirs(images_of(batch), targets_of(batch))
    assignment = task.assign(batch)
    assert assignment.positives[:2].min() > 5
    shares = task.loss_shares(ours.train()(images_BCHW), assignment, task.normalizers(assignment))
    assert set(shares) == set(task.term_names) == {TERMS[term] for term in expected}
    for term, loss in expected.items():
        torch.testing.assert_close(shares[TERMS[term]], loss, rtol=1e-5, atol=0.0)

    sum(expected.values()).backward()
    sum(shares.values()).backward()
    parameters = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        gradient, reference = parameters[torchvision_name(name)].grad, parameter.grad
        assert gradient is not None
        assert reference is not None
        assert (gradient - reference).norm() <= 1e-4 * reference.norm() + 1e-7, name

    theirs.eval(), ours.eval()
    with torch.no_grad():
        for found, detections in zip(
            theirs(images_of(batch)), task.detections(ours(images_BCHW), batch.sizes), strict=True
        ):
            assert len(found["labels"]) > 20
            torch.testing.assert_close(detections.boxes_xyxy, found["boxes"], rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(detections.scores, found["scores"], rtol=1e-5, atol=1e-6)
            assert torch.equal(detections.labels, found["labels"])


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
def test_in_float64_the_memory_format_makes_no_difference(kind: str, tmp_path: Path) -> None:
    theirs, ours, task = make_twins(kind, 5, tmp_path)
    batch = make_batch(SIZES, [3, 40, 1], 5)
    theirs.double().train(), ours.double().to(memory_format=torch.channels_last).train()
    images_BCHW, _ = theirs.transform([image.double() for image in images_of(batch)])
    targets = [{"boxes": t["boxes"].double(), "labels": t["labels"]} for t in targets_of(batch)]
    expected = theirs([image.double() for image in images_of(batch)], targets)
    assignment = task.assign(batch)
    outputs = ours(images_BCHW.tensors.contiguous(memory_format=torch.channels_last))
    shares = task.loss_shares(outputs, assignment, task.normalizers(assignment))
    for term, loss in expected.items():
        torch.testing.assert_close(shares[TERMS[term]], loss, rtol=1e-10, atol=0.0)


def test_a_batch_without_objects_is_torchvisions(tmp_path: Path) -> None:
    theirs, ours, task = make_twins("retinanet", 5, tmp_path)
    batch = make_batch(SIZES[:2], [0, 0], 5)
    images_BCHW = Normalization(ours.mean, ours.std)(batch.images_BCHW, batch.sizes)
    theirs.train()
    expected = theirs(images_of(batch), targets_of(batch))
    assignment = task.assign(batch)
    shares = task.loss_shares(ours.train()(images_BCHW), assignment, task.normalizers(assignment))
    for term, loss in expected.items():
        torch.testing.assert_close(shares[TERMS[term]], loss, rtol=1e-5, atol=0.0)
