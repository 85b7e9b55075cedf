from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork

from ziggurat.errors import UserError
from ziggurat.models.fpn import FeaturePyramid
from ziggurat.models.levels import Level, parse_levels
from ziggurat.models.pafpn import PathAggregation

INPUTS = {"p2": Level(4, 4), "p3": Level(5, 8), "p4": Level(6, 16), "p5": Level(7, 32)}
MAPS = {"p2": (25, 43), "p3": (13, 22), "p4": (7, 11), "p5": (4, 6)}  # odd sizes


def random_maps(first: str = "p2") -> dict[str, Tensor]:
    return {n: torch.rand(2, INPUTS[n].channels, *size).double() for n, size in MAPS.items() if n >= first}


def inputs_from(first: str) -> dict[str, Level]:
    return {name: level for name, level in INPUTS.items() if name >= first}


def convolve(x: Tensor, state: dict[str, Tensor], name: str, stride: int) -> Tensor:
    """A convolution of 3 x 3 as a sum over its nine taps, as the definition has it."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    rows, columns = (-(-extent // stride) for extent in x.shape[-2:])
    padded = functional.pad(x, (1, 1, 1, 1))
    result = bias[None, :, None, None].expand(len(x), -1, rows, columns).clone()
    for i in range(3):
        for j in range(3):
            tap = padded[
                :, :, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride
            ]
            result = result + torch.einsum("bchw,oc->bohw", tap, weight[:, :, i, j])
    return result


def plain_pyramid(maps: dict[str, Tensor], neck: PathAggregation, depth: int) -> dict[str, Tensor]:
    """The first path by torchvision, the second by section 3.1 of the paper."""
    state = neck.state_dict()
    for repeat in range(depth):
        first_path = FeaturePyramidNetwork([one.shape[1] for one in maps.values()], 8).double()
        names = list(maps)
        theirs = {}
        for number, name in enumerate(names):
            for part, block in (("lateral", "inner_blocks"), ("smooth", "layer_blocks")):
                for kind in ("weight", "bias"):
                    theirs[f"{block}.{number}.0.{kind}"] = state[f"top_down.{repeat}.{part}.{name}.{kind}"]
        first_path.load_state_dict(theirs)
        p = first_path(maps)
        n = {names[0]: p[names[0]]}
        for finer, coarser in itertools.pairwise(names):
            down = convolve(n[finer], state, f"bottom_up.{repeat}.reduce.{coarser}", 2).clamp(min=0)
            n[coarser] = convolve(p[coarser] + down, state, f"bottom_up.{repeat}.smooth.{coarser}", 1).clamp(
                min=0
            )
        maps = n
    if "p6" in neck.levels:
        maps["p6"] = convolve(maps["p5"], state, "extra.p6", 2)
    if "p7" in neck.levels:
        maps["p7"] = convolve(maps["p6"].clamp(min=0), state, "extra.p7", 2)
    return maps


@pytest.mark.parametrize(
    ("levels", "depth"), [("p3-p7", 0), ("p2-p6", 1), ("p3-p5", 2), ("p2-p7", 3), ("p5-p6", 0)]
)
def test_it_is_the_papers(levels: str, depth: int) -> None:
    names = parse_levels(levels)
    neck = PathAggregation(inputs_from(names[0]), names, 8, depth).double()
    maps = random_maps(names[0])
    for one in maps.values():
        one.requires_grad_()
    found, expected = neck(maps), plain_pyramid(maps, neck, max(1, depth))
    assert list(found) == list(expected) == names
    for name in names:
        assert neck.levels[name] == Level(8, 2 ** int(name[1]))
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-12)
    weights = {name: torch.randn_like(one) for name, one in found.items()}
    gradients = [
        torch.autograd.grad(sum((one[n] * weights[n]).sum() for n in names), list(maps.values()))
        for one in (found, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_gradients_reach_every_parameter_and_channels_last_stays() -> None:
    neck = PathAggregation(inputs_from("p3"), parse_levels("p3-p7"), 8, 2).double()
    neck = neck.to(memory_format=torch.channels_last)
    maps = {n: m.contiguous(memory_format=torch.channels_last) for n, m in random_maps("p3").items()}
    pyramid = neck(maps)
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in pyramid.values())
    sum(one.sum() for one in pyramid.values()).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_input_is_left_as_it_was() -> None:
    maps = random_maps("p3")
    names = list(maps)
    PathAggregation(inputs_from("p3"), parse_levels("p3-p7"), 8).double()(maps)
    assert list(maps) == names


def test_a_plain_pyramid_is_not_repeated() -> None:
    assert FeaturePyramid(inputs_from("p3"), parse_levels("p3-p7"), 8, depth=1).extra.keys() == {"p6", "p7"}
    with pytest.raises(UserError, match=r"neck_depth must be 0 or 1 for the neck fpn.*got 2"):
        FeaturePyramid(inputs_from("p3"), parse_levels("p3-p7"), 8, depth=2)
