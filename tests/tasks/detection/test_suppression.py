from __future__ import annotations

import torch
from torchvision.ops import batched_nms

from ziggurat.data.detections import Detections
from ziggurat.tasks.detection.packing import pack, unpack
from ziggurat.tasks.detection.suppression import suppress


def random_detections(count: int, num_classes: int) -> Detections:
    low = 100 * torch.rand(count, 2)
    boxes = torch.cat([low, low + 5 + 30 * torch.rand(count, 2)], dim=1)
    return Detections(boxes, torch.rand(count), torch.randint(0, num_classes, (count,)))


def test_what_remains_is_what_torchvision_keeps() -> None:
    for count, num_classes in [(50, 1), (400, 7), (3000, 20)]:
        found = random_detections(count, num_classes)
        keep = batched_nms(found.boxes_xyxy, found.scores, found.labels, 0.5)
        assert len(keep) < count
        remaining = suppress(found, 0.5, count)
        assert torch.equal(remaining.boxes_xyxy, found.boxes_xyxy[keep])
        assert torch.equal(remaining.scores, found.scores[keep])
        assert torch.equal(remaining.labels, found.labels[keep])
        assert torch.equal(suppress(found, 0.5, 9).scores, found.scores[keep[:9]])


def test_of_equal_scores_the_earlier_wins() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [0, 0, 10, 10]])
    found = Detections(boxes, torch.full((4,), 0.5), torch.tensor([0, 0, 0, 1]))
    remaining = suppress(found, 0.5, 10)
    assert remaining.boxes_xyxy.tolist() == boxes[[0, 2, 3]].tolist()  # the last is of another class
    assert remaining.labels.tolist() == [0, 0, 1]
    assert len(suppress(found, 0.5, 1)) == 1


def test_what_the_limit_cuts_off_is_counted() -> None:
    """Not what overlaps something better; with the best score of it, and what was cut off before."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [80, 0, 90, 10]])
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.zeros(4, dtype=torch.int64))
    for limit, number, best in ((None, 0, 0.0), (3, 0, 0.0), (2, 1, 0.6), (1, 2, 0.7)):
        remaining = suppress(found, 0.5, limit)
        assert (remaining.num_cut, round(remaining.best_cut, 5)) == (number, best)
    again = suppress(suppress(found, 0.5, 2), 0.5, 1)
    assert (len(again), again.num_cut, round(again.best_cut, 5)) == (1, 2, 0.7)
    assert unpack(pack([again, found]))[0].num_cut == 2


def test_nothing_remains_of_nothing() -> None:
    assert len(suppress(random_detections(0, 3), 0.5, 10)) == 0
