from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from support.boxes_and_grids import grids_of, random_boxes
from support.largest_tensor import LargestTensor
from ziggurat.tasks.detection import atss
from ziggurat.tasks.detection.anchors import Grid
from ziggurat.tasks.detection.assignment import collect_targets
from ziggurat.tasks.detection.atss import AtssAssigner, AtssBoxCoder
from ziggurat.tasks.detection.fcos import centerness
from ziggurat.tasks.detection.retinanet import encode

ASSIGNER, CODER = AtssAssigner(), AtssBoxCoder()
CPU = torch.device("cpu")


def plain_match(boxes: list[list[float]], grids: list[Grid]) -> list[int]:
    """Algorithm 1 of the paper, line by line, for one image."""
    anchors = []  # of all levels: name of the level, centre, side
    for grid in grids:
        for row in range(grid.rows):
            for column in range(grid.columns):
                center = (column * grid.column_step, row * grid.row_step)
                anchors.append((grid.name, center, 8 * grid.stride))
    answers_for, best = [-1] * len(anchors), [-1.0] * len(anchors)
    for number, box in enumerate(boxes):
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        candidates = []
        for grid in grids:
            level = [i for i, anchor in enumerate(anchors) if anchor[0] == grid.name]
            level.sort(key=lambda i: (math.dist(anchors[i][1], middle) ** 2, i))
            candidates += level[:9]
        ious = [plain_iou(box, anchors[i][1], anchors[i][2]) for i in candidates]
        mean = sum(ious) / len(ious)
        squares = sum((iou - mean) ** 2 for iou in ious)
        deviation = math.sqrt(squares / (len(ious) - 1)) if len(ious) > 1 else 0.0
        for i, iou in zip(candidates, ious, strict=True):
            x, y = anchors[i][1]
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if inside and iou >= mean + deviation - 1e-9 and iou > best[i]:
                answers_for[i], best[i] = number, iou
    return answers_for


def plain_iou(box: list[float], center: tuple[float, float], side: float) -> float:
    across = min(box[2], center[0] + side / 2) - max(box[0], center[0] - side / 2)
    down = min(box[3], center[1] + side / 2) - max(box[1], center[1] - side / 2)
    overlap = max(across, 0.0) * max(down, 0.0)
    return overlap / ((box[2] - box[0]) * (box[3] - box[1]) + side * side - overlap)


def match_one(boxes: Tensor, grids: list[Grid]) -> list[int]:
    return ASSIGNER.match(boxes, torch.zeros(len(boxes), dtype=torch.int64), 1, grids)[0].tolist()


@pytest.mark.parametrize(("height", "width"), [(128, 128), (160, 96), (32, 224)])
@pytest.mark.parametrize("levels", [(3, 7), (2, 5), (4, 4), (6, 7)])
def test_the_match_is_algorithm_1(height: int, width: int, levels: tuple[int, int]) -> None:
    """With tiny and huge boxes, on levels of one position to hundreds, with unequal steps of rows and columns."""
    grids = grids_of(height, width, *levels)
    boxes = torch.cat([random_boxes(12, height, width, largest) for largest in (8.0, 40.0, 150.0, 600.0)])
    tiny = torch.tensor([[3.0, 3.0, 3.5, 3.5], [64.0, 16.0, 64.25, 16.25]])
    huge = torch.tensor([[0.0, 0.0, width, height], [-300.0, -200.0, 900.0, 700.0]])
    boxes = torch.cat([boxes, tiny, huge])
    expected = plain_match(boxes.tolist(), grids)
    assert len(set(expected)) > (2 if len(expected) > 10 else 1)
    assert match_one(boxes, grids) == expected


@pytest.mark.parametrize("levels", [(3, 7), (3, 3)])
def test_ties_go_to_the_first_position_and_the_first_object(levels: tuple[int, int]) -> None:
    """Centres on positions and halfway between them, equal IoUs, and every box twice."""
    grids = grids_of(128, 128, *levels)
    boxes = (random_boxes(20, 128, 128, 100.0) / 8).round() * 8
    boxes[:, 2:] += 8
    boxes = torch.cat([boxes, boxes.flip(0)])
    expected = plain_match(boxes.tolist(), grids)
    assert max(expected) < 20
    assert match_one(boxes, grids) == expected


def test_a_hand_worked_level() -> None:
    """One level of stride 8, 5 x 5 positions at 0, 8 ... 32, anchors of 64 pixels; the object is (8, 8, 24, 24).

    The nine nearest to its centre (16, 16) are those at 8, 16 and 24. All their anchors hold the object, so that
    all IoUs are 256 / 4096, the deviation is 0, and each passes; but only (16, 16) lies inside, the others lie on
    its sides.
    """
    grids = [Grid("p3", 5, 5, 8, 8, 8)]
    matched = torch.tensor(match_one(torch.tensor([[8.0, 8.0, 24.0, 24.0]]), grids)).view(5, 5)
    assert (matched >= 0).nonzero().tolist() == [[2, 2]]


def test_images_of_a_microbatch_do_not_see_each_other() -> None:
    grids = grids_of(96, 128)
    of_image = [random_boxes(count, 96, 128, 90.0) for count in (7, 0, 31)]
    matched = ASSIGNER.match(torch.cat(of_image), torch.tensor([0] * 7 + [2] * 31), 3, grids)
    assert (matched[1] == -1).all()
    assert matched[0].tolist() == plain_match(of_image[0].tolist(), grids)
    alone = torch.tensor(plain_match(of_image[2].tolist(), grids))
    assert torch.equal(matched[2], torch.where(alone >= 0, alone + 7, -1))
    nothing = ASSIGNER.match(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 2, grids)
    assert nothing.shape == matched[:2].shape
    assert (nothing == -1).all()


def test_the_result_does_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = grids_of(256, 256)
    boxes, image = random_boxes(200, 256, 256, 100.0).round(), torch.arange(200) // 100
    whole = ASSIGNER.match(boxes, image, 2, grids)
    for chunk in (1, 7, 64):
        monkeypatch.setattr(atss, "CHUNK", chunk)
        assert torch.equal(ASSIGNER.match(boxes, image, 2, grids), whole)


def test_memory_does_not_grow_with_boxes_times_anchors() -> None:
    grids = grids_of(1024, 1024)
    boxes = random_boxes(2000, 1024, 1024, 300.0)
    with LargestTensor() as largest:
        ASSIGNER.match(boxes, torch.zeros(2000, dtype=torch.int64), 1, grids)
    assert sum(map(len, grids)) > 20_000
    assert largest.elements <= 2000 * 5 * 9 * 4  # the product would be 43 million


def test_losses_are_those_of_the_definition() -> None:
    """GIoU by torchvision's matrix, weighted by centerness, twice; cross-entropy written out."""
    anchors = torch.tensor([[0.0, 0, 64, 64], [32, 16, 96, 80], [-24, -24, 40, 40]], dtype=torch.float64)
    boxes = torch.tensor([[10.0, 4, 50, 60], [30, 30, 90, 88], [2, 1, 30, 44]], dtype=torch.float64)
    values = {
        "boxes": torch.randn(3, 4, dtype=torch.float64),
        "centerness": torch.randn(3, 1, dtype=torch.float64),
    }
    losses = CODER.losses(values, anchors, boxes)
    weight = centerness(anchors, boxes)
    expected = 2 * weight * (1 - generalized_box_iou(CODER.decode(values["boxes"], anchors), boxes).diag())
    torch.testing.assert_close(losses["boxes"], expected, rtol=1e-6, atol=0.0)
    p = values["centerness"].squeeze(1).sigmoid()
    torch.testing.assert_close(losses["centerness"], -(weight * p.log() + (1 - weight) * (1 - p).log()))


def test_decoding_is_by_tenths_of_the_anchor_and_fifths_of_the_logarithm() -> None:
    anchor = torch.tensor([[0.0, 0.0, 64.0, 64.0]]).double()
    shift = torch.tensor([[1.0, -5.0, 5 * math.log(2), 0.0]]).double()  # x + 6.4, y - 32, twice as wide
    found = CODER.decode(shift, anchor)
    torch.testing.assert_close(found, torch.tensor([[38.4 - 64, -32.0, 38.4 + 64, 32.0]]).double())


def test_what_an_object_needs_is_found_where_it_is_assigned() -> None:
    """Outputs that are exactly right have no box loss, and decode to the objects; anchors have eight strides."""
    grids = grids_of(96, 128)
    assert ASSIGNER.base_anchors(8, CPU).tolist() == [[-32.0, -32.0, 32.0, 32.0]]
    boxes = random_boxes(30, 96, 128, 90.0)
    bases = [ASSIGNER.base_anchors(grid.stride, CPU) for grid in grids]
    matched = ASSIGNER.match(boxes, torch.zeros(30, dtype=torch.int64), 1, grids)
    assignment = collect_targets(matched, grids, bases, boxes, torch.zeros(30, dtype=torch.int64))
    for level in assignment.levels.values():
        right = encode(level.boxes_xyxy, level.anchors_xyxy) / torch.tensor([0.1, 0.1, 0.2, 0.2])
        found = CODER.decode(right, level.anchors_xyxy)
        torch.testing.assert_close(found, level.boxes_xyxy, rtol=0.0, atol=1e-3)
        values = {"boxes": right, "centerness": torch.zeros(len(right), 1)}
        assert (CODER.losses(values, level.anchors_xyxy, level.boxes_xyxy)["boxes"] < 1e-3).all()


def test_the_weights_of_the_boxes_are_centernesses() -> None:
    grids = grids_of(96, 128)
    boxes, labels = random_boxes(30, 96, 128, 90.0), torch.zeros(30, dtype=torch.int64)
    image = torch.tensor([0] * 10 + [2] * 20)
    bases = [ASSIGNER.base_anchors(grid.stride, CPU) for grid in grids]
    assignment = collect_targets(ASSIGNER.match(boxes, image, 3, grids), grids, bases, boxes, labels)
    expected = [0.0, 0.0, 0.0]
    for level in assignment.levels.values():
        for number, weight in zip(
            level.positives.image.tolist(),
            centerness(level.anchors_xyxy, level.boxes_xyxy).tolist(),
            strict=True,
        ):
            expected[number] += weight
        overlaps = box_iou(level.anchors_xyxy, level.boxes_xyxy).diag()
        assert (overlaps > 0).all()
    assert expected[1] == 0 < min(expected[0], expected[2])
    found = CODER.box_weights(assignment)
    assert found.dtype is torch.float64
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-5, atol=0.0)


def test_the_score_is_the_geometric_mean() -> None:
    terms = {"classes": torch.zeros(1, 2, 1, 1), "centerness": torch.full((1, 1, 1, 1), math.log(9.0))}
    torch.testing.assert_close(CODER.scores(terms), torch.full((1, 2, 1, 1), math.sqrt(0.5 * 0.9)))
