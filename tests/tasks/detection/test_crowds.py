"""Very many boxes: what remains is what comparing all with all leaves, in the same order."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from ziggurat.config import DecodeConfig
from ziggurat.data.detections import Detections
from ziggurat.data.extents import Region
from ziggurat.data.tiles import tile_grid
from ziggurat.tasks.detection import crowds, suppression
from ziggurat.tasks.detection.merging import best_room, inner_borders, merge_tiles
from ziggurat.tasks.detection.suppression import suppress


def drawn(kind: str, seed: int, count: int) -> Tensor:
    """Return boxes of a kind of scene."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    low, size = 300 * rand(count, 2), 4 + 40 * rand(count, 2)
    if kind == "of all sizes":
        size = torch.exp2(-6 + 18 * rand(count, 1)) * (0.5 + rand(count, 2))
    elif kind == "long and thin":
        size = torch.exp2(10 * rand(count, 2))
    elif kind == "upon each other":
        low, size = 20 * rand(count, 2), 100 + 4 * rand(count, 2)
    elif kind == "whole numbers":  # many pairs of the threshold's very IoU
        low, size = (300 * rand(count, 2)).floor(), 1 + (6 * rand(count, 2)).floor()
    elif kind == "empty and far away":
        low, size = 1e9 * (rand(count, 2) - 0.5), 1e8 * (rand(count, 2) - 0.3).clamp(min=0)
    return torch.cat([low, low + size], dim=1)


KINDS = ("common", "of all sizes", "long and thin", "upon each other", "whole numbers", "empty and far away")


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_what_remains_is_what_torchvision_keeps(
    kind: str, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowds, "PAIRS", 500)
    for seed, block in enumerate((7, 100)):
        monkeypatch.setattr(crowds, "BLOCK", block)
        boxes = drawn(kind, seed, 250)
        scores = torch.linspace(1, 0, len(boxes))
        expected = nms(boxes, scores, threshold)
        assert torch.equal(crowds.suppress_crowd(boxes, scores, threshold), expected)


def test_a_large_class_is_suppressed_as_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, generator = drawn("common", 1, 3000), torch.Generator().manual_seed(1)
    scores = (20 * torch.rand(len(boxes), generator=generator)).round() / 20  # many are equal
    found = Detections(boxes, scores, torch.arange(len(boxes)) % 3)
    expected = suppress(found, 0.5, 500)
    monkeypatch.setattr(suppression, "CROWD", 100)
    remaining = suppress(found, 0.5, 500)
    assert remaining.num_cut == expected.num_cut > 0
    for name in ("boxes_xyxy", "scores", "labels"):
        assert torch.equal(getattr(remaining, name), getattr(expected, name))


def test_nothing_remains_of_nothing() -> None:
    assert crowds.suppress_crowd(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


def merge_slowly(
    tiles: list[Region], found: list[Detections], margin: float, decode: DecodeConfig
) -> Detections:
    """Return what `merge_tiles` does, comparing each box with each tile, and each with each box of its class."""
    borders, parts = inner_borders(tiles), []
    for number, (tile, one) in enumerate(zip(tiles, found, strict=True)):
        boxes = one.boxes_xyxy + torch.tensor([tile.left, tile.top] * 2)
        before = boxes[:, None, :2] - borders[None, :, :2]
        room = torch.cat([before, borders[None, :, 2:] - boxes[:, None, 2:]], dim=2).amin(dim=2)
        whole = (room[:, number] >= margin) | (room.amax(dim=1) < 2 * margin)
        parts.append((boxes[whole], one.scores[whole], one.labels[whole]))
    boxes, scores, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    order = scores.argsort(descending=True, stable=True)
    kept: list[int] = []
    for label in labels.unique():
        of_class = order[labels[order] == label]
        kept += of_class[nms(boxes[of_class], scores[of_class], decode.nms_threshold)].tolist()
    rank = order.argsort()
    chosen = torch.tensor(sorted(kept, key=lambda index: int(rank[index])), dtype=torch.int64)
    return Detections(boxes[chosen], scores[chosen], labels[chosen])


@pytest.mark.parametrize(
    ("extent", "overlap"), [((300, 300), 0.25), ((64, 500), 0.5), ((700, 64), 0.1), ((200, 333), 0.7)]
)
def test_merging_is_that_of_all_with_all(
    extent: tuple[int, int], overlap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suppression, "FEW", 0)  # that one computes in float64
    monkeypatch.setattr(suppression, "CROWD", 50)
    tiles = tile_grid(extent, (64, 64), overlap)
    generator = torch.Generator().manual_seed(5)
    found = []
    for tile in tiles:
        low = 60 * torch.rand(30, 2, generator=generator)
        boxes = torch.cat([low, low + 1 + 30 * torch.rand(30, 2, generator=generator)], dim=1)
        boxes = boxes.clamp(max=torch.tensor([tile.width, tile.height] * 2))
        scores = torch.rand(30, generator=generator)
        found.append(Detections(boxes, scores, torch.randint(0, 2, (30,), generator=generator)))
    margin, decode = overlap * 64 / 8, DecodeConfig(nms_threshold=0.4)
    merged, expected = (merge(tiles, found, margin, decode) for merge in (merge_tiles, merge_slowly))
    assert len(merged) < 30 * len(tiles)
    for name in ("boxes_xyxy", "scores", "labels"):
        assert torch.equal(getattr(merged, name), getattr(expected, name))
    borders = inner_borders(tiles)
    before = merged.boxes_xyxy[:, None, :2] - borders[None, :, :2]
    room = torch.cat([before, borders[None, :, 2:] - merged.boxes_xyxy[:, None, 2:]], dim=2).amin(dim=2)
    assert torch.equal(best_room(merged.boxes_xyxy, borders), room.amax(dim=1))


def test_fifty_thousand_boxes_take_a_moment() -> None:
    """All with all would be 1.25 thousand million pairs."""
    generator = torch.Generator().manual_seed(2)
    low = 8000 * torch.rand(50_000, 2, generator=generator)
    boxes = torch.cat([low, low + 20 + 10 * torch.rand(50_000, 2, generator=generator)], dim=1)
    found = Detections(boxes, torch.rand(50_000, generator=generator), torch.zeros(50_000, dtype=torch.int64))
    begin = time.process_time()
    remaining = suppress(found, 0.5, None)
    assert 30_000 < len(remaining) < 50_000
    assert time.process_time() - begin < 20
