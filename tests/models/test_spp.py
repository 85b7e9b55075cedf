from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.config import ModelConfig
from ziggurat.errors import UserError
from ziggurat.models.classifier import build_classifier
from ziggurat.models.spp import SpatialPyramidPooling, parse_bins

SIZES = [(13, 13), (12, 7), (4, 4), (3, 9), (2, 1), (1, 1)]


def slow_reference(map_CHW: Tensor, bins: list[int]) -> list[float]:
    """Each bin of each grid, position by position."""
    channels, height, width = map_CHW.shape
    values = []
    for n in bins:
        for channel in range(channels):
            for i in range(n):
                for j in range(n):
                    inside = [
                        float(map_CHW[channel, y, x])
                        for y in range(height)
                        for x in range(width)
                        # the bin from i/n to (i+1)/n of the map, and every position that it touches
                        if (y + 1) * n > i * height and y * n < (i + 1) * height
                        and (x + 1) * n > j * width and x * n < (j + 1) * width
                    ]  # fmt: skip
                    values.append(max(inside))
    return values


@pytest.mark.parametrize("size", SIZES)
def test_bins_hold_the_largest_values(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *size)
    pooling = SpatialPyramidPooling([4, 2, 1])
    pooled = pooling(maps)
    assert pooled.shape == (2, 3 * pooling.num_bins) == (2, 3 * 21)
    for map_CHW, values in zip(maps, pooled, strict=True):
        assert values.tolist() == slow_reference(map_CHW, [4, 2, 1])
    theirs = [functional.adaptive_max_pool2d(maps, n).flatten(1) for n in (4, 2, 1)]
    assert torch.equal(pooled, torch.cat(theirs, dim=1))


def test_gradients_are_those_of_pytorch() -> None:
    maps = torch.randn(2, 3, 7, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3 * 21, dtype=torch.float64)
    (ours,) = torch.autograd.grad((SpatialPyramidPooling([4, 2, 1])(maps) * weights).sum(), maps)
    pooled = torch.cat([functional.adaptive_max_pool2d(maps, n).flatten(1) for n in (4, 2, 1)], dim=1)
    (theirs,) = torch.autograd.grad((pooled * weights).sum(), maps)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("text", ["", "4,,1", "4,0", "a", "-1", "4 2", "2.5"])
def test_bins_must_be_positive_numbers(text: str) -> None:
    with pytest.raises(UserError, match="positive numbers with commas between, such as 4,2,1: got"):
        parse_bins(text)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "vit_tiny_patch16_224"])
def test_images_of_any_size_feed_one_layer(backbone: str) -> None:
    config = ModelConfig(name=f"spp-{backbone}", spp_bins="3,1")
    model = build_classifier(config, num_classes=4).eval()
    channels = model.body.backbone.levels[model.body.level].channels
    assert model.body.predictor.in_features == channels * 10
    for size in [(64, 64), (33, 90), (5, 7)]:
        assert model(torch.rand(2, 3, *size))["logits"].shape == (2, 4)


def test_the_coarsest_level_is_pooled() -> None:
    for name, level, stride in [("resnet10t", "p5", 32), ("vit_tiny_patch16_224", "p4", 16)]:
        model = build_classifier(ModelConfig(name=f"spp-{name}"), num_classes=4)
        assert (model.body.level, model.size_multiple) == (level, stride)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("spp-resnt18", "unknown backbone 'resnt18': did you mean 'resnet18'"),
        ("spp-mixer_b16_224", "cannot return maps of several scales for images of any size"),
    ],
)
def test_backbones_that_do_not_fit_are_said(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_classifier(ModelConfig(name=name), num_classes=4)
