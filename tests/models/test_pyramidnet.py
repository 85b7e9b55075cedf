from __future__ import annotations

import pytest
import torch
from torch import nn

from ziggurat.errors import UserError
from ziggurat.models.pyramidnet import PyramidBlock, PyramidNet, PyramidNetOptions, parse_pyramidnet


def parameters(name: str) -> float:
    with torch.device("meta"):
        model = PyramidNet(parse_pyramidnet(name), num_classes=10)
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("pyramidnet-110-48", 1.7),
        ("pyramidnet-110-4.75-multiplicative", 1.7),
        ("pyramidnet-110-8-multiplicative", 3.8),
        ("pyramidnet-110-27-multiplicative", 28.3),
        ("pyramidnet-200-240-bottleneck", 26.6),
        ("pyramidnet-236-220-bottleneck", 26.8),
        ("pyramidnet-272-200-bottleneck", 26.0),
    ],
)
def test_parameters_are_those_of_the_paper(name: str, millions: float) -> None:
    """To the digit that its tables print."""
    assert round(parameters(name), 1) == millions


@pytest.mark.parametrize(
    ("name", "printed", "counted"),
    [
        ("pyramidnet-110-84", 3.8, 3.855054),
        ("pyramidnet-110-270", 28.3, 28.485477),
        ("pyramidnet-164-270-bottleneck", 27.0, 27.216021),
    ],
)
def test_parameters_are_close_to_those_of_the_paper(name: str, printed: float, counted: float) -> None:
    """The paper prints less, by up to 1.5 %; with an alpha of 270 every block has 5 channels more than the one before,
    so that nothing is rounded, and other programs count what we count."""
    assert parameters(name) == pytest.approx(printed, rel=0.015)
    assert parameters(name) == counted


@pytest.mark.parametrize(
    "name", ["pyramidnet-20-10", "pyramidnet-20-10-bottleneck", "pyramidnet-14-2.5-multiplicative"]
)
def test_parameters_are_those_of_the_layers_by_hand(name: str) -> None:
    options = parse_pyramidnet(name)
    total, inputs = 3 * 16 * 9 + 2 * 16, 16
    for channels in options.channels():
        if options.bottleneck:
            total += 2 * inputs + inputs * channels + 2 * channels + 9 * channels**2 + 2 * channels
            total += 4 * channels**2 + 2 * 4 * channels
        else:
            total += 2 * inputs + 9 * inputs * channels + 2 * channels + 9 * channels**2 + 2 * channels
        inputs = channels * (4 if options.bottleneck else 1)
    total += 2 * inputs + 10 * inputs + 10
    assert parameters(name) * 1e6 == pytest.approx(total)


def test_channels_grow_by_a_difference_or_by_a_factor() -> None:
    assert PyramidNetOptions(20, 12).channels() == [17, 18, 20, 21, 22, 24, 25, 26, 28]
    factor = PyramidNetOptions(20, 8, multiplicative=True).channels()
    assert factor == [20, 25, 32, 40, 50, 64, 80, 101, 128]  # 16 * 8 ** (k / 9)
    assert PyramidNetOptions(29, 12, bottleneck=True).channels() == [17, 18, 20, 21, 22, 24, 25, 26, 28]


def test_the_shortcut_is_the_input_averaged_and_padded_with_zeros() -> None:
    block = PyramidBlock(4, 6, stride=2, bottleneck=False)
    nn.init.zeros_(block.body[-1].weight)  # nothing is left but the shortcut
    level = torch.arange(4 * 3 * 5.0).view(1, 4, 3, 5)
    short = block(level)
    assert short.shape == (1, 6, 2, 3)
    assert short[0, 0].tolist() == [[3, 5, 6.5], [10.5, 12.5, 14]]  # the last row and column stand alone
    assert short[0, 4:].abs().max() == 0


def test_a_block_has_the_layers_of_figure_6_d() -> None:
    kinds = [type(layer).__name__ for layer in PyramidBlock(4, 6, 1, bottleneck=False).body]
    assert kinds == ["BatchNorm2d", "Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d"]
    bottleneck = PyramidBlock(4, 6, 2, bottleneck=True)
    windows = [(c.kernel_size, c.stride, c.out_channels) for c in bottleneck.body if isinstance(c, nn.Conv2d)]
    assert windows == [((1, 1), (1, 1), 6), ((3, 3), (2, 2), 6), ((1, 1), (1, 1), 24)]


@pytest.mark.parametrize(
    "name", ["pyramidnet-8-6", "pyramidnet-11-6-bottleneck", "pyramidnet-8-3-multiplicative"]
)
def test_images_of_any_size_can_be_classified(name: str) -> None:
    model = PyramidNet(parse_pyramidnet(name), num_classes=5)
    for size in [(32, 32), (33, 21), (1, 2)]:
        assert model(torch.rand(2, 3, *size)).shape == (2, 5)
    assert len(model.blocks) == 3
    assert [block.stride for block in model.blocks] == [1, 2, 2]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pyramidnet-112-48", "basic blocks must be 6 n \\+ 2: got 112 .* the nearest is 110"),
        (
            "pyramidnet-115-48-bottleneck",
            "bottleneck blocks must be 9 n \\+ 2: got 115 .* the nearest is 119",
        ),
        ("pyramidnet-2-48", "got 2 .* the nearest is 8"),
        ("pyramidnet-110-0", "alpha of a pyramidnet must exceed 0: got 0"),
        ("pyramidnet-110-1-multiplicative", "alpha of a pyramidnet must exceed 1: got 1"),
        ("pyramidnet-111-0", "2 faults"),
        ("pyramidnet-110", "must be pyramidnet-DEPTH-ALPHA with the endings -bottleneck and -multiplicative"),
        ("pyramidnet-110-48-additive", "must be pyramidnet-DEPTH-ALPHA"),
        ("pyramidnet-110-48-bottleneck-bottleneck", "must be pyramidnet-DEPTH-ALPHA"),
    ],
)
def test_what_is_no_pyramidnet_is_said(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_pyramidnet(name)
