from __future__ import annotations

import torch
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from ziggurat.models.fpn import FeaturePyramid
from ziggurat.models.levels import Level, parse_levels
from ziggurat.models.weight_names import torchvision_name

INPUTS = {"p3": Level(5, 8), "p4": Level(6, 16), "p5": Level(7, 32)}
MAPS = {"p3": (13, 22), "p4": (7, 11), "p5": (4, 6)}  # odd sizes: levels are not halves of one another


def random_maps() -> dict[str, torch.Tensor]:
    return {name: torch.rand(2, INPUTS[name].channels, *size) for name, size in MAPS.items()}


def test_it_is_torchvisions() -> None:
    theirs = FeaturePyramidNetwork([5, 6, 7], 8, LastLevelP6P7(8, 8))
    ours = FeaturePyramid(INPUTS, parse_levels("p3-p7"), 8)
    state = {torchvision_name(f"backbone.fpn.{name}"): tensor for name, tensor in theirs.state_dict().items()}
    ours.load_state_dict({name.removeprefix("neck."): tensor for name, tensor in state.items()})
    maps = random_maps()
    expected = list(theirs(maps).values())
    for name, level_BCHW in ours(maps).items():
        torch.testing.assert_close(level_BCHW, expected.pop(0))
        assert ours.levels[name] == Level(8, 2 ** int(name[1]))


def test_it_has_the_levels_that_are_asked_for() -> None:
    for text, sizes in [
        ("p3-p5", [(13, 22), (7, 11), (4, 6)]),
        ("p3-p6", [(13, 22), (7, 11), (4, 6), (2, 3)]),
    ]:
        pyramid = FeaturePyramid(INPUTS, parse_levels(text), 8)
        assert [tuple(level.shape[2:]) for level in pyramid(random_maps()).values()] == sizes
    one = FeaturePyramid({"p5": Level(7, 32)}, ["p5"], 8)
    assert list(one({"p5": torch.rand(1, 7, 4, 6)})) == ["p5"]


def test_it_keeps_channels_last() -> None:
    pyramid = FeaturePyramid(INPUTS, parse_levels("p3-p7"), 8).to(memory_format=torch.channels_last)
    maps = {name: m.contiguous(memory_format=torch.channels_last) for name, m in random_maps().items()}
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in pyramid(maps).values())
