from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou

from support.boxes_and_grids import grids_of, random_boxes
from support.largest_tensor import LargestTensor
from ziggurat.tasks.detection import retinanet
from ziggurat.tasks.detection.anchors import Grid, anchors_at
from ziggurat.tasks.detection.retinanet import RetinaNetAssigner, RetinaNetBoxCoder, encode

ASSIGNER, CODER_OF_OURS = RetinaNetAssigner(), RetinaNetBoxCoder()
CODER = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))


def all_anchors(grids: list[Grid]) -> Tensor:
    anchors = []
    for grid in grids:
        base = ASSIGNER.base_anchors(grid.stride, torch.device("cpu"))
        parts = torch.cartesian_prod(*map(torch.arange, (grid.rows, grid.columns, len(base))))
        anchors.append(anchors_at(grid, base, *parts.unbind(1)))
    return torch.cat(anchors)


def torchvisions_match(boxes: Tensor, grids: list[Grid]) -> Tensor:
    return Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(boxes, all_anchors(grids)))


@pytest.mark.parametrize(("height", "width"), [(128, 128), (160, 288)])
def test_the_match_is_torchvisions(height: int, width: int) -> None:
    grids = grids_of(height, width)
    boxes = torch.cat([random_boxes(40, height, width, largest) for largest in (30.0, 120.0, 600.0)])
    expected = torchvisions_match(boxes, grids)
    assert {-2, -1} < set(expected.tolist())
    assert torch.equal(ASSIGNER.match(boxes, torch.zeros(120, dtype=torch.int64), 1, grids)[0], expected)


@pytest.mark.parametrize("elements", [1, 30_000, 1 << 20])
def test_ties_are_torchvisions_in_chunks_of_any_size(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retinanet, "CHUNK_ELEMENTS", elements)
    grids = grids_of(128, 128)
    boxes = random_boxes(30, 128, 128, 100.0).round()
    boxes[:, 2:] += 1
    boxes = torch.cat([boxes, boxes.flip(0)])  # every box twice
    expected = torchvisions_match(boxes, grids)
    assert torch.equal(ASSIGNER.match(boxes, torch.zeros(60, dtype=torch.int64), 1, grids)[0], expected)


def test_images_of_a_microbatch_do_not_see_each_other() -> None:
    grids = grids_of(96, 128)
    of_image = [random_boxes(count, 96, 128, 90.0) for count in (7, 0, 31)]
    matched = ASSIGNER.match(torch.cat(of_image), torch.tensor([0] * 7 + [2] * 31), 3, grids)
    assert (matched[1] == -1).all()
    assert torch.equal(matched[0], torchvisions_match(of_image[0], grids))
    alone = torchvisions_match(of_image[2], grids)
    assert torch.equal(matched[2], torch.where(alone >= 0, alone + 7, alone))


def test_memory_does_not_grow_with_the_objects() -> None:
    grids = grids_of(256, 256)
    anchors = 9 * sum(map(len, grids))
    boxes = random_boxes(1000, 256, 256, 100.0)
    with LargestTensor() as largest:
        ASSIGNER.match(boxes, torch.zeros(1000, dtype=torch.int64), 1, grids)
    assert largest.elements <= retinanet.CHUNK_ELEMENTS < 1000 * anchors / 10


def test_encoding_and_decoding_are_torchvisions() -> None:
    anchors = all_anchors(grids_of(96, 96))
    boxes = random_boxes(len(anchors), 96, 96, 90.0)
    deltas = encode(boxes, anchors)
    torch.testing.assert_close(deltas, CODER.encode_single(boxes, anchors), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(CODER_OF_OURS.decode(deltas, anchors), boxes, rtol=0.0, atol=1e-3)
    wild = 10 * torch.randn(len(anchors), 4)
    torch.testing.assert_close(CODER_OF_OURS.decode(wild, anchors), CODER.decode_single(wild, anchors))
