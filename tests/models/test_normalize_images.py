"""Of `models/images.py`; another module of that name has its tests beside it."""

from __future__ import annotations

import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ziggurat.models.images import Normalization

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
normalize = Normalization(MEAN, STD)
SIZES = [(32, 50), (32, 64), (32, 32)]


def test_the_bits_are_torchvisions() -> None:
    images = torch.randint(0, 256, (3, 3, 32, 64), dtype=torch.uint8)  # also in the padding
    transform = GeneralizedRCNNTransform(32, 64, list(MEAN), list(STD))
    expected, _ = transform([i[:, :h, :w] / 255 for i, (h, w) in zip(images, SIZES, strict=True)])
    assert torch.equal(normalize(images, SIZES), expected.tensors)


def test_the_memory_format_is_kept_and_the_input_is_not_touched() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    last = images.contiguous(memory_format=torch.channels_last)
    sizes = [(8, 6), (5, 8)]
    normalized = normalize(last, sizes)
    assert normalized.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalized, normalize(images, sizes))
    assert torch.equal(last, images)
    assert (normalized[0, :, :, 6:] == 0).all()
    assert (normalized[1, :, 5:] == 0).all()


def test_samples_of_their_own_type_are_zero_where_there_is_nothing() -> None:
    images = 1000 + 50 * torch.randn(2, 5, 8, 8)
    images[0, 2, 3, 4] = torch.nan
    mean, std = tuple(range(990, 995)), tuple(range(40, 45))
    normalized = Normalization(mean, std, 1.0)(images, [(8, 8), (8, 6)])
    expected = (images - torch.tensor(mean).view(5, 1, 1)) / torch.tensor(std).view(5, 1, 1)
    expected[0, 2, 3, 4] = 0
    expected[1, :, :, 6:] = 0
    assert torch.equal(normalized, expected)
