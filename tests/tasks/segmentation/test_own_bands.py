"""Labels of a resized image go back to the image's own pixels band by band."""

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode, functional

from ziggurat.data.dataset import ImageRecord
from ziggurat.data.views import View
from ziggurat.tasks.segmentation import decoding
from ziggurat.tasks.segmentation.decoding import own_bands, to_own_pixels


@pytest.mark.parametrize("resized", [(7, 9), (40, 60), (64, 80), (20, 200), (1, 1)])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_bands_are_those_of_the_whole(resized, rows, monkeypatch):
    extent = (40, 60)
    monkeypatch.setattr(decoding, "BAND_PIXELS", 5 * extent[1])
    labels = torch.randint(0, 9, resized, generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    expected = functional.resize(labels[None], list(extent), InterpolationMode.NEAREST_EXACT)[0]
    bands = list(own_bands(labels.split(rows), resized, extent))
    assert torch.equal(torch.cat(bands), expected)
    assert max(map(len, bands)) <= 5
    whole = to_own_pixels(labels, View(resized, ()), ImageRecord("a.png", 1, *extent))
    assert torch.equal(whole, expected)
