"""Scenes of many objects stay readable: thin lines, no label upon another object, a legend instead."""

import numpy as np
import pytest
import torch

from ziggurat.data.batch import Objects
from ziggurat.data.detections import Detections
from ziggurat.visualize import crowding
from ziggurat.visualize.boxes import draw_comparison, draw_detections, draw_objects
from ziggurat.visualize.colors import class_color

CLASSES = ("oak", "pine")


def blank(height, width):
    return torch.full((3, height, width), 90, dtype=torch.uint8)


def grid(rows, columns, pitch, side, scores=0.9):
    """Return objects of this side, this far apart, of both classes in turn."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    corner = 30 + pitch * torch.stack([x, y], dim=-1).view(-1, 2).float()
    labels = torch.arange(len(corner)) % 2
    return Detections(torch.cat([corner, corner + side], dim=1), torch.full((len(corner),), scores), labels)


def colored(picture, label=0):
    return (np.asarray(picture) == np.array(class_color(label))).all(axis=2)


@pytest.mark.parametrize(("pitch", "side"), [(24, 20), (18, 16), (12, 10), (9, 8)])
def test_crowded_objects_are_not_written_upon(pitch, side):
    found = grid(20, 20, pitch, side)
    height = 60 + 20 * pitch
    picture = draw_detections(blank(max(height, 384), max(height, 384)), found, CLASSES)
    inner = np.asarray(picture)
    for x1, y1, x2, y2 in found.boxes_xyxy.int().tolist():
        assert (inner[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] == 90).all()  # a line of one pixel, and nothing in it
    legend = inner[max(height, 384) :]
    assert legend.size
    assert colored(legend, 0).sum() > 50 < colored(legend, 1).sum()


@pytest.mark.parametrize("pairs", [1, 1000, 1 << 30])
def test_how_many_are_compared_at_once_is_of_no_matter(pairs, monkeypatch):
    generator = np.random.default_rng(4)
    for count in (9, 60, 300):
        low = generator.uniform(0, 900, (count, 2))
        boxes, labels = np.hstack([low, low + 20]), np.hstack([low - 12, low + np.array((60, 0))])
        expected = crowding.is_crowded(boxes, labels)
        with monkeypatch.context() as patch:
            patch.setattr(crowding, "PAIRS", pairs)
            assert crowding.is_crowded(boxes, labels) == expected


def test_of_one_class_there_is_no_legend():
    found = grid(20, 20, 18, 16)
    one = Detections(found.boxes_xyxy, found.scores, torch.zeros_like(found.labels))
    assert draw_detections(blank(450, 450), one, ("tree",)).size == (450, 450)


def test_few_or_distant_objects_are_named():
    for found in (grid(2, 2, 40, 20), grid(10, 4, 100, 40)):
        picture = draw_detections(blank(1100, 600), found, CLASSES)
        assert picture.size == (600, 1100)
        plain = draw_detections(blank(1100, 600), found, ("", ""))
        assert colored(picture).sum() > colored(plain).sum()


@pytest.mark.parametrize(("side", "line"), [(16, 1), (40, 2), (100, 5), (400, 20)])
def test_lines_are_of_the_object_and_not_of_the_panorama(side, line):
    boxes = torch.tensor([[500.0, 500, 500 + side, 500 + side]])
    found = Detections(boxes, torch.tensor([0.9]), torch.tensor([0]))
    row = colored(draw_detections(blank(1200, 10_000), found, ("tree",)))[500 + side // 2]
    assert row[490 : 500 + side // 2].sum() == line


def test_a_picture_for_a_sheet_is_made_small_before_it_is_drawn_on():
    found = grid(20, 20, 50, 40)
    objects = Objects(found.boxes_xyxy, found.labels)
    picture = draw_comparison(blank(1100, 1100), found, objects, ("a", "b"), scale=0.25)
    assert picture.width == 275
    row = colored(picture, 0)[round(0.25 * 50)]
    assert 0 < row.sum() <= 2 * 20  # lines of one pixel, not of a quarter


def test_annotated_objects_are_named_by_class():
    objects = Objects(torch.tensor([[50.0, 60, 150, 160]]), torch.tensor([1]))
    picture = draw_objects(blank(400, 400), objects, CLASSES)
    assert (
        colored(picture, 1).sum() > colored(draw_objects(blank(400, 400), objects, ("", "")), 1).sum() > 300
    )
    nothing = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert (np.asarray(draw_objects(blank(400, 400), nothing, CLASSES)) == 90).all()
