"""How good the prediction of an image is."""

import pytest
import torch

from support.scenes import found, truth
from ziggurat.metrics.quality import classification_quality, detection_quality

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
