"""Mistakes lie in the cells where they are."""

import torch

from ziggurat.data.detections import Detections
from ziggurat.metrics.coco import GroundTruth
from ziggurat.metrics.mistakes import detection_mistakes, segmentation_mistakes


def test_missed_objects_and_detections_of_nothing():
    boxes = torch.tensor([[0.0, 0, 10, 10], [90, 40, 100, 50], [40, 40, 60, 60]])
    truth = GroundTruth(boxes, torch.tensor([0, 1, 0]), torch.ones(3), torch.tensor([False, False, True]))
    found = Detections(
        torch.tensor(
            [[0.0, 0, 10, 10], [90, 40, 100, 50], [45, 45, 50, 50], [0, 40, 8, 50], [0, 0, 300, 300]]
        ),
        torch.tensor([0.9, 0.8, 0.7, 0.2, 0.6]),
        torch.tensor([0, 0, 0, 0, 0]),
    )
    cells = detection_mistakes(found, truth, (52, 101), cell=25)
    assert cells.shape == (3, 5)
    expected = torch.zeros(3, 5, dtype=torch.float64)
    expected[1, 3] = 2  # the class is wrong: an object missed, and a detection of nothing
    expected[2, 4] = 1  # its centre lies outside of the image
    assert torch.equal(cells, expected)


def test_wrong_pixels_are_counted_in_every_size():
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((1, 1), (7, 20), (16, 16), (33, 5)):
        predicted = torch.randint(0, 3, (rows, columns), generator=generator, dtype=torch.uint8)
        truth = torch.randint(0, 3, (rows, columns), generator=generator, dtype=torch.uint8)
        truth[torch.rand(rows, columns, generator=generator) < 0.2] = 255
        cells = segmentation_mistakes(predicted, truth, cell=8)
        for row in range(cells.shape[0]):
            for column in range(cells.shape[1]):
                part = (slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
                wrong = (predicted[part] != truth[part]) & (truth[part] != 255)
                assert cells[row, column] == wrong.sum()
        assert cells.sum() == ((predicted != truth) & (truth != 255)).sum()
