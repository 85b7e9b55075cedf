"""How good each image's prediction is, by hand."""

import pytest
import torch

from support.scenes import found, truth
from ziggurat.metrics.quality import classification_quality, detection_quality
from ziggurat.report.quality import MAX_TIED, best_and_worst

BOX, OTHER, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)


@pytest.mark.parametrize(
    ("objects", "detections", "expected"),
    [
        (truth(), found(), 1.0),
        (truth((*BOX, 0)), found(), 0.0),
        (truth(), found((*BOX, 0.9, 0)), 0.0),
        (truth((*BOX, 0)), found((*BOX, 0.9, 0)), 1.0),
        (truth((*BOX, 0)), found((*BOX, 0.29, 0)), 0.0),  # too unsure to be shown
        (truth((*BOX, 0)), found((*BOX, 0.9, 1)), 0.0),
        (truth((*BOX, 0), (*OTHER, 1)), found((*BOX, 0.9, 0)), 2 / 3),
        (truth((*BOX, 0), (*OTHER, 1)), found((*BOX, 0.9, 0), (*OTHER, 0.8, 1), (*FAR, 0.7, 0)), 4 / 5),
        (truth((*BOX, 0, True)), found((*BOX, 0.9, 0)), 1.0),  # a crowd is nothing to find, and nothing wrong
    ],
)
def test_f1_of_an_image(objects, detections, expected):
    assert detection_quality([objects], [detections]).tolist() == pytest.approx([expected])


def test_the_probability_of_the_true_class():
    probabilities = torch.tensor([[0.2, 0.8], [0.7, 0.3], [float("nan"), float("nan")]])
    quality = classification_quality(probabilities, torch.tensor([1, 1, 0]))
    assert quality.tolist() == pytest.approx([0.8, 0.3, 0])


def test_the_best_and_the_worst_in_order():
    quality = torch.tensor([0.4, 0.1, 0.9, 0.5, 0.8])
    assert best_and_worst(quality, lambda index: 0, 2) == ([2, 4], [1, 0])


def test_of_equal_images_the_richest_and_then_the_first():
    quality = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.9, 0.0, 0.0, 0.0])
    richness = [0, 5, 0, 7, 9, 2, 2, 3]
    assert best_and_worst(quality, richness.__getitem__, 3) == ([3, 1, 0], [7, 5, 6])


def test_few_images_are_shared_out():
    assert best_and_worst(torch.tensor([0.5]), lambda index: 0, 8) == ([0], [0])
    assert best_and_worst(torch.tensor([0.5, 0.5]), lambda index: 0, 8) == ([0], [1])
    best, worst = best_and_worst(torch.arange(7).double(), lambda index: 0, 8)
    assert (best, worst) == ([6, 5, 4], [0, 1, 2])


def test_not_every_one_of_many_equal_images_is_looked_at():
    seen = []
    best_and_worst(torch.ones(1000), lambda index: seen.append(index) or 0, 8)
    assert len(seen) == 2 * MAX_TIED
