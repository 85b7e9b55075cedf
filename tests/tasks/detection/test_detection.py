from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from support.targets import stack_targets
from support.torchvision_twins import make_batch, split_objects
from ziggurat.config import DecodeConfig, LossConfig, ModelConfig, RunConfig
from ziggurat.data.batch import Microbatch
from ziggurat.models.build import build_model
from ziggurat.models.detector import Detector
from ziggurat.models.images import Normalization
from ziggurat.tasks.detection.atss import AtssBoxCoder
from ziggurat.tasks.detection.fcos import centerness
from ziggurat.tasks.registry import make_task

HEADS = ["fcos", "retinanet", "atss"]
NORMALIZERS = ["positives", "images"]
SIZES = [(64, 96), (64, 80), (50, 96), (64, 96)]


def small_model(head: str, norm: str = "batch") -> Detector:
    config = ModelConfig(name=f"{head}-test_resnet-fpn", channels=16, head_depth=1, norm=norm)
    model = build_model(config, num_classes=3)
    with torch.no_grad():  # a new head answers the same everywhere
        for parameter in model.head.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def piece(batch: Microbatch, first: int, last: int) -> Microbatch:
    part = slice(first, last)
    targets = stack_targets(split_objects(batch)[part], 0, 0)
    return replace(batch, images_BCHW=batch.images_BCHW[part], sizes=batch.sizes[part], targets=targets)


def images_of(batch: Microbatch, model: Detector) -> Tensor:
    return Normalization(model.mean, model.std)(batch.images_BCHW, batch.sizes)


def gradients_of(model: Detector) -> dict[str, Tensor]:
    gradients = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        gradients[name] = parameter.grad.clone()
    model.zero_grad()
    return gradients


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("counts", [[40, 1, 0, 2], [0, 0, 30, 1], [0, 0, 0, 0]])
def test_shares_of_parts_are_the_loss_of_the_whole(head: str, normalizer: str, counts: list[int]) -> None:
    """Also where the parts hold very different numbers of objects, or none."""
    model = small_model(head, norm="group").double()  # no batch statistics: the images are independent
    task = make_task(model, RunConfig(loss=LossConfig(normalizer=normalizer, box_weight=2.0)))
    own = ("centerness",) if head == "atss" and normalizer == "positives" else ()
    assert task.normalizer_names == (normalizer, *own)
    batch = make_batch(SIZES, counts, num_classes=3)
    parts = [piece(batch, 0, 1), piece(batch, 1, 4)]

    assignment = task.assign(batch)
    totals = task.normalizers(assignment)
    whole = task.loss_shares(model(images_of(batch, model).double()), assignment, totals)
    sum(whole.values()).backward()
    expected = gradients_of(model)

    assignments = [task.assign(part) for part in parts]
    sums = sum(task.normalizers(one) for one in assignments)
    assert sums[0] == totals[0]  # a count
    torch.testing.assert_close(sums, totals, rtol=1e-12, atol=0.0)
    shares = []
    for part, one in zip(parts, assignments, strict=True):
        shares.append(task.loss_shares(model(images_of(part, model).double()), one, totals))
        sum(shares[-1].values()).backward()
    for term in task.term_names:
        torch.testing.assert_close(sum(share[term] for share in shares), whole[term], rtol=1e-10, atol=1e-12)
    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("head", HEADS)
def test_a_microbatch_without_objects_has_gradients_for_every_parameter(head: str) -> None:
    model = small_model(head)
    task = make_task(model, RunConfig())
    batch = make_batch(SIZES[:2], [0, 0], num_classes=3)
    assignment = task.assign(batch)
    for totals in (task.normalizers(assignment), torch.full((len(task.normalizer_names),), 17.0).double()):
        shares = task.loss_shares(model(images_of(batch, model)), assignment, totals)
        assert all(share.isfinite() for share in shares.values())
        assert shares["classes"] > 0
        assert shares["boxes"] == 0
        sum(shares.values()).backward()
        assert all(gradient.isfinite().all() for gradient in gradients_of(model).values())


def test_the_box_term_of_atss_is_a_mean_weighted_by_centerness() -> None:
    """Of the global batch, or of each image where every image weighs the same."""
    model = small_model("atss").double().eval()
    batch = make_batch(SIZES, [5, 0, 30, 1], num_classes=3)
    outputs = model(images_of(batch, model).double())
    losses = []  # image, weight and loss of each positive
    task = make_task(model, RunConfig())
    assignment, rules = task.assign(batch), AtssBoxCoder()
    for name, level in assignment.levels.items():
        p = level.positives
        values = {term: outputs[name][term][p.image, :, p.row, p.column] for term in ("boxes", "centerness")}
        anchors, boxes = level.anchors_xyxy.double(), level.boxes_xyxy.double()
        columns = p.image, centerness(anchors, boxes), rules.losses(values, anchors, boxes)["boxes"]
        losses += list(zip(*(column.tolist() for column in columns), strict=True))
    of_image = [[(w, loss) for image, w, loss in losses if image == number] for number in range(4)]
    means = [sum(x[1] for x in one) / max(1.0, sum(x[0] for x in one)) for one in of_image]
    expected = {
        "positives": sum(loss for _, _, loss in losses) / sum(weight for _, weight, _ in losses),
        "images": sum(means) / 4,
    }
    for normalizer, value in expected.items():
        task = make_task(model, RunConfig(loss=LossConfig(normalizer=normalizer, box_weight=3.0)))
        share = task.loss_shares(outputs, assignment, task.normalizers(assignment))["boxes"]
        assert share.item() == pytest.approx(3 * value, rel=1e-9)


def test_normalizers_count_positives_or_images() -> None:
    batch = make_batch(SIZES, [5, 0, 3, 1], num_classes=3)
    for head, default in (("fcos", "positives"), ("retinanet", "images")):
        model = small_model(head)
        task = make_task(model, RunConfig())
        assert task.normalizer_names == (default,)
        assignment = task.assign(batch)
        total = assignment.positives.sum().item() if default == "positives" else 4
        assert task.normalizers(assignment).tolist() == [total]
        assert task.normalizers(assignment).dtype is torch.float64


@pytest.mark.parametrize("head", HEADS)
def test_under_autocast_losses_and_boxes_are_float32(head: str) -> None:
    model = small_model(head).to(memory_format=torch.channels_last)
    task = make_task(model, RunConfig(decode=DecodeConfig(score_threshold=0.01)))
    batch = make_batch(SIZES, [5, 0, 3, 1], num_classes=3)
    assignment = task.assign(batch)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images_of(batch, model).contiguous(memory_format=torch.channels_last))
        shares = task.loss_shares(outputs, assignment, task.normalizers(assignment))
        found = task.detections(outputs, batch.sizes)
    assert outputs["p3"]["boxes"].dtype is torch.bfloat16
    assert all(share.dtype is torch.float32 for share in shares.values())
    assert all(one.boxes_xyxy.dtype is one.scores.dtype is torch.float32 for one in found)
    exact = {n: {t: v.detach().float() for t, v in terms.items()} for n, terms in outputs.items()}
    expected = task.loss_shares(exact, assignment, task.normalizers(assignment))
    for term, share in shares.items():
        torch.testing.assert_close(share.detach(), expected[term])
    sum(shares.values()).backward()
    assert all(gradient.isfinite().all() for gradient in gradients_of(model).values())


@pytest.mark.parametrize("head", HEADS)
def test_detections_are_within_each_image_and_obey_the_limits(head: str) -> None:
    model = small_model(head).eval()
    limits = DecodeConfig(score_threshold=0.02, nms_threshold=0.7, candidates=50, max_detections=20)
    task = make_task(model, RunConfig(decode=limits))
    batch = make_batch(SIZES, [0] * 4, num_classes=3)
    with torch.no_grad():
        outputs = model(images_of(batch, model))
    found = task.detections(outputs, batch.sizes)
    for (rows, columns), one in zip(SIZES, found, strict=True):
        assert 0 < len(one) <= 20
        assert one.boxes_xyxy.min() >= 0
        assert one.boxes_xyxy[:, 2].max() <= columns
        assert one.boxes_xyxy[:, 3].max() <= rows
        assert one.scores.min() > 0.02
        assert (one.scores.diff() <= 0).all()
        assert one.labels.max() < 3
    # an image's detections do not depend on those beside it
    alone = {name: {term: v[1:2] for term, v in terms.items()} for name, terms in outputs.items()}
    (again,) = task.detections(alone, batch.sizes[1:2])
    assert torch.equal(again.boxes_xyxy, found[1].boxes_xyxy)


def test_of_equal_scores_the_earlier_position_is_a_candidate() -> None:
    model = small_model("fcos").eval()
    task = make_task(model, RunConfig(decode=DecodeConfig(candidates=3, nms_threshold=1.0)))
    outputs = {
        name: {
            "classes": torch.full((1, 3, rows, columns), -20.0),
            "boxes": torch.ones(1, 4, rows, columns),
            "centerness": torch.zeros(1, 1, rows, columns),
        }
        for name, (rows, columns) in model.level_sizes(64, 64).items()
    }
    outputs["p3"]["classes"][:] = 2.0  # 64 positions of three classes, all equal
    (found,) = task.detections(outputs, [(64, 64)])
    assert found.labels.tolist() == [0, 1, 2]
    assert found.boxes_xyxy.tolist() == [[0, 0, 8, 8]] * 3
    assert (found.num_cut, found.candidates_cut) == (64 * 3 - 3, 64 * 3 - 3)
    assert found.best_cut == found.scores[-1]
    assert task.cut_off(found).limit == "decode.candidates"
    task = make_task(model, RunConfig(decode=DecodeConfig(max_detections=2, nms_threshold=1.0)))
    (found,) = task.detections(outputs, [(64, 64)])
    assert (found.num_cut, found.candidates_cut) == (64 * 3 - 2, 0)
    assert task.cut_off(found).limit == "decode.max_detections"


@pytest.mark.parametrize("head", HEADS)
def test_nothing_is_found_where_nothing_scores(head: str) -> None:
    model = small_model(head).eval()
    task = make_task(model, RunConfig(decode=DecodeConfig(score_threshold=1.0)))
    batch = make_batch(SIZES[:2], [0, 0], num_classes=3)
    with torch.no_grad():
        found = task.detections(model(images_of(batch, model)), batch.sizes)
    assert [len(one) for one in found] == [0, 0]
