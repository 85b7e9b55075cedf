from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import FCOS
from torchvision.models.detection._utils import BoxLinearCoder

from support.boxes_and_grids import grids_of, random_boxes
from support.largest_tensor import LargestTensor
from ziggurat.tasks.detection import fcos
from ziggurat.tasks.detection.anchors import Grid, anchors_at
from ziggurat.tasks.detection.fcos import FcosAssigner, FcosBoxCoder, centerness

ASSIGNER, CODER = FcosAssigner(), FcosBoxCoder()


def all_anchors(grids: list[Grid]) -> Tensor:
    anchors = []
    for grid in grids:
        row, column = torch.cartesian_prod(torch.arange(grid.rows), torch.arange(grid.columns)).unbind(1)
        base = ASSIGNER.base_anchors(grid.stride, row.device)
        anchors.append(anchors_at(grid, base, row, column, torch.zeros_like(row)))
    return torch.cat(anchors)


def torchvisions_match(boxes: Tensor, grids: list[Grid]) -> Tensor:
    """Return what torchvision's own code matches, out of the middle of its loss."""
    head = SimpleNamespace(compute_loss=lambda targets, outputs, anchors, matched: matched[0])
    model = SimpleNamespace(center_sampling_radius=1.5, head=head)
    targets = [{"boxes": boxes, "labels": torch.zeros(len(boxes), dtype=torch.int64)}]
    return FCOS.compute_loss(model, targets, {}, [all_anchors(grids)], [len(grid) for grid in grids])


@pytest.mark.parametrize(("height", "width"), [(256, 256), (160, 416), (288, 800)])
@pytest.mark.parametrize("levels", [(3, 7), (2, 5), (4, 4)])
def test_the_match_is_torchvisions(height: int, width: int, levels: tuple[int, int]) -> None:
    grids = grids_of(height, width, *levels)
    boxes = torch.cat([random_boxes(150, height, width, largest) for largest in (30.0, 120.0, 600.0)])
    expected = torchvisions_match(boxes, grids)
    assert len(expected.unique()) > 50
    image = torch.zeros(len(boxes), dtype=torch.int64)
    assert torch.equal(ASSIGNER.match(boxes, image, 1, grids)[0], expected)


def test_ties_and_whole_pixels_are_matched_as_torchvision_does() -> None:
    grids = grids_of(256, 256)
    boxes = random_boxes(300, 256, 256, 200.0).round()  # many equal areas, sides on positions
    boxes[:, 2:] += 1
    boxes = torch.cat([boxes, boxes.flip(0)])  # every box twice
    image = torch.zeros(len(boxes), dtype=torch.int64)
    assert torch.equal(ASSIGNER.match(boxes, image, 1, grids)[0], torchvisions_match(boxes, grids))


def test_images_of_a_microbatch_do_not_see_each_other() -> None:
    grids = grids_of(128, 192)
    of_image = [random_boxes(count, 128, 192, 90.0) for count in (7, 0, 31)]
    image = torch.tensor([0] * 7 + [2] * 31)
    matched = ASSIGNER.match(torch.cat(of_image), image, 3, grids)
    assert (matched[1] == -1).all()
    assert torch.equal(matched[0], torchvisions_match(of_image[0], grids))
    alone = torchvisions_match(of_image[2], grids)
    assert torch.equal(matched[2], torch.where(alone >= 0, alone + 7, -1))


def test_a_hand_worked_grid() -> None:
    """One level of stride 8, 4 x 4 positions at 0, 8, 16, 24.

    The large object (0, 0, 24, 24) has its centre at 12: positions nearer than 12 pixels to it in x and y are
    those at 8 and 16 (0 and 24 are exactly 12 away). The small one (14, 14, 22, 18) holds only (16, 16).
    """
    grids = [Grid("p3", 4, 4, 8, 8, 8)]
    boxes = torch.tensor([[0.0, 0, 24, 24], [14, 14, 22, 18]])
    matched = ASSIGNER.match(boxes, torch.zeros(2, dtype=torch.int64), 1, grids).view(4, 4)
    assert matched.tolist() == [[-1, -1, -1, -1], [-1, 0, 0, -1], [-1, 0, 1, -1], [-1, -1, -1, -1]]


def test_the_result_does_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = grids_of(256, 256)
    boxes, image = random_boxes(200, 256, 256, 100.0).round(), torch.arange(200) // 100
    whole = ASSIGNER.match(boxes, image, 2, grids)
    for chunk in (1, 7, 64):
        monkeypatch.setattr(fcos, "CHUNK", chunk)
        assert torch.equal(ASSIGNER.match(boxes, image, 2, grids), whole)


def test_memory_does_not_grow_with_boxes_times_positions() -> None:
    grids = grids_of(1024, 1024)
    positions = sum(map(len, grids))
    boxes = random_boxes(2000, 1024, 1024, 300.0)
    with LargestTensor() as largest:
        ASSIGNER.match(boxes, torch.zeros(2000, dtype=torch.int64), 1, grids)
    assert positions > 20_000
    assert largest.elements <= max(positions, 2000 * 6 * 6)  # the product would be 43 million


def test_decoding_inverts_torchvisions_encoding() -> None:
    anchors = all_anchors(grids_of(128, 128))
    boxes = random_boxes(len(anchors), 128, 128, 90.0)
    distances = BoxLinearCoder(normalize_by_size=True).encode(anchors, boxes)
    torch.testing.assert_close(CODER.decode(distances, anchors), boxes, rtol=0.0, atol=1e-4)


def test_centerness_is_one_in_the_middle_and_falls_to_the_sides() -> None:
    anchors = torch.tensor([[4.0, 4, 12, 12], [0, 4, 8, 12]])  # positions (8, 8) and (4, 8)
    boxes = torch.tensor([[0.0, 0, 16, 16]]).expand(2, 4)
    # the second: 4 to the left and 12 to the right, 8 above and below: sqrt(4 / 12 * 8 / 8)
    torch.testing.assert_close(centerness(anchors, boxes), torch.tensor([1.0, (1 / 3) ** 0.5]))
