"""Which images are shown."""

import torch

from ziggurat.report.choosing import MAX_TIED, best_and_worst


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
