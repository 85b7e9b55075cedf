"""Pictures, by their pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from ziggurat.data.batch import Objects
from ziggurat.data.detections import Detections
from ziggurat.visualize.boxes import contact_sheet, draw_comparison, draw_detections
from ziggurat.visualize.colors import class_color

GREY = (90, 90, 90)
ONE = ("tree",)


def blank(height, width):
    return torch.full((3, height, width), 90, dtype=torch.uint8)


def detections(*rows):
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].long())


def is_color(picture, color):
    return (np.asarray(picture) == np.array(color)).all(axis=2)


def test_without_detections_the_picture_is_the_image():
    image = torch.randint(0, 256, (3, 400, 500), dtype=torch.uint8)
    picture = draw_detections(image, detections(), ONE)
    assert np.array_equal(np.asarray(picture), image.permute(1, 2, 0).numpy())


def test_the_box_is_drawn_on_its_own_pixels():
    picture = draw_detections(blank(400, 400), detections((100, 120, 200, 300, 0.9, 0)), ONE)
    colored = is_color(picture, class_color(0))
    rows, columns = colored[130:].any(axis=1).nonzero()[0] + 130, colored[130:].any(axis=0).nonzero()[0]
    assert (rows.max(), columns.min(), columns.max()) == (299, 100, 199)
    assert colored[250, 100:102].all()
    assert not colored[250, 102:198].any()
    assert colored[120, 150]


def test_a_low_score_is_not_drawn():
    box = detections((100, 120, 200, 300, 0.29, 0))
    assert not is_color(draw_detections(blank(400, 400), box, ONE), class_color(0)).any()
    assert is_color(draw_detections(blank(400, 400), box, ONE, min_score=0.2), class_color(0)).any()


def test_lines_grow_with_the_image():
    box = detections((100, 100, 900, 900, 0.9, 0))
    small = is_color(draw_detections(blank(1000, 1000), box, ONE), class_color(0))
    large = is_color(draw_detections(blank(1000, 4000), box, ONE), class_color(0))
    assert (small[500, 100:200].sum(), large[500, 100:200].sum()) == (2, 8)


def test_a_small_image_is_enlarged_with_its_boxes():
    picture = draw_detections(blank(128, 96), detections((10, 40, 30, 80, 0.9, 0)), ONE)
    assert picture.size == (288, 384)
    columns = is_color(picture, class_color(0))[200].nonzero()[0]
    assert (columns.min(), columns.max()) == (30, 89)


def test_boxes_at_and_beyond_the_edge_and_without_area():
    boxes = detections(
        (-5, -5, 400, 400, 0.9, 0),
        (399, 399, 400, 400, 0.9, 0),
        (7, 7, 7, 7, 0.9, 0),
        (500, 500, 600, 600, 0.9, 0),
    )
    assert draw_detections(blank(400, 400), boxes, ONE).size == (400, 400)
    assert draw_detections(blank(1, 1), detections((0, 0, 1, 1, 0.9, 0)), ONE).size == (384, 384)


def test_the_ground_truth_is_a_thin_white_line_over_the_box():
    objects = Objects(torch.tensor([[100.0, 120, 200, 300]]), torch.tensor([0]))
    picture = draw_comparison(blank(400, 400), detections((100, 120, 200, 300, 0.9, 0)), objects, ONE)
    row = np.asarray(picture)[250, 99:103].tolist()
    assert row == [list(GREY), [255] * 3, [0] * 3, list(GREY)]
    only_truth = draw_comparison(blank(400, 400), detections(), objects, ONE)
    assert is_color(only_truth, (255, 255, 255)).sum() == 2 * (100 + 180) - 4


def test_the_classes_are_named_if_there_are_several():
    box = detections((100, 120, 200, 300, 0.9, 1))
    one = draw_detections(blank(400, 400), detections((100, 120, 200, 300, 0.9, 0)), ONE)
    two = draw_detections(blank(400, 400), box, ("tree", "a class with a long name"))
    assert is_color(two, class_color(1)).sum() > is_color(one, class_color(0)).sum() + 500


def test_colors_of_neighbouring_classes_differ():
    colors = np.array([class_color(label) for label in range(30)])
    assert len(np.unique(colors, axis=0)) == 30
    distance = np.abs(colors[:10, None] - colors[None, :10]).sum(axis=2)[~np.eye(10, dtype=bool)]
    assert distance.min() > 60


def test_a_contact_sheet_holds_every_picture_row_by_row():
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    pictures = [Image.new("RGB", (30, 20), color) for color in colors]
    sheet = contact_sheet([*pictures[:2], pictures[2].resize((10, 20))], columns=2, gap=4)
    assert sheet.size == (4 + 2 * 34, 4 + 2 * 24)
    pixels = np.asarray(sheet)
    assert pixels[5, 5].tolist() == [255, 0, 0]
    assert pixels[5, 39].tolist() == [0, 255, 0]
    assert pixels[29, 5].tolist() == [255] * 3  # the narrow picture lies in the middle
    assert pixels[29, 15].tolist() == [0, 0, 255]
    assert contact_sheet(pictures[:1], columns=5, gap=0).size == (30, 20)


def test_a_contact_sheet_of_nothing():
    with pytest.raises(ValueError, match="got 0 and 2"):
        contact_sheet([], columns=2)
