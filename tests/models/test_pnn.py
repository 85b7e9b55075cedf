from __future__ import annotations

from dataclasses import asdict
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ziggurat.config import PnnConfig
from ziggurat.models.image_pyramid import gaussian_pyramid
from ziggurat.models.levels import Level, parse_levels
from ziggurat.models.norm import replace_norms
from ziggurat.models.pnn import PnnClassifier, PnnPyramid, PnnTrunk

SMALL = {"channels": 4, "stages": 2, "depth": 1, "hidden": 8}
OPTIONS = [
    PnnConfig(levels=levels, pyramid=pyramid, weights=weights, links=links, **SMALL)
    for (levels, pyramid), weights, links in product(
        [(3, "gaussian"), (2, "laplacian"), (1, "gaussian")],
        ["shared", "separate"],
        ["both", "up", "down", "none"],
    )
]


def name_of(config: PnnConfig) -> str:
    return "-".join(str(value) for value in asdict(config).values())


@pytest.mark.parametrize("config", OPTIONS, ids=name_of)
def test_every_option_gives_logits_of_every_level_and_gradients_to_every_parameter(config: PnnConfig) -> None:
    model = PnnClassifier(config, num_classes=5)
    outputs = model(torch.rand(2, 3, 29, 37))
    assert list(outputs) == ["logits", *model.level_names]
    assert len(model.level_names) == config.levels
    assert all(logits.shape == (2, 5) for logits in outputs.values())
    sum(logits.square().sum() for logits in outputs.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("config", [PnnConfig(**SMALL), PnnConfig(weights="shared", **SMALL)], ids=name_of)
def test_in_evaluation_images_do_not_see_their_neighbours(config: PnnConfig) -> None:
    model = PnnClassifier(config, num_classes=5).double()
    images = torch.rand(3, 3, 30, 21, dtype=torch.float64)
    model(images)  # running statistics
    together = model.eval()(images)
    for number in range(3):
        for name, logits in model(images[number : number + 1]).items():
            torch.testing.assert_close(logits[0], together[name][number], rtol=0.0, atol=1e-12)


def slow_trunk(model: PnnTrunk, images: Tensor, links: str) -> list[Tensor]:
    """The levels one by one, with separate weights; links as the configuration's docstring says."""
    maps = gaussian_pyramid(images, model.num_levels)
    for stage in model.stages:
        made = []
        for number, level in enumerate(maps):
            for convolution, norm in zip(stage.convolutions[number], stage.norms[number], strict=True):
                level = functional.relu(norm(convolution(level)))
            rows, columns = level.shape[2:]
            level = functional.pad(level, (0, columns % 2, 0, rows % 2))  # not negative: zeros never win
            made.append(functional.max_pool2d(level, 2))
        maps = [level.clone() for level in made]
        for fine in range(len(made) - 1):
            rows, columns = made[fine].shape[2:]
            if links in ("down", "both"):
                message = stage.down[fine](made[fine + 1])
                maps[fine] += message.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :rows, :columns]
            if links in ("up", "both"):
                padded = functional.pad(made[fine], (0, columns % 2, 0, rows % 2))
                maps[fine + 1] += stage.up[fine](functional.max_pool2d(padded, 2))
    return maps


@pytest.mark.parametrize("links", ["both", "up", "down", "none"])
def test_stages_and_links_are_those_of_a_slow_reference(links: str) -> None:
    model = PnnTrunk(PnnConfig(channels=4, depth=2, links=links), num_levels=3, num_stages=2).double()
    images = torch.rand(2, 3, 27, 38, dtype=torch.float64)
    expected = slow_trunk(model, images, links)
    for number, (level, one) in enumerate(zip(model(images), expected, strict=True)):
        assert level.shape == (2, 8, -(-27 // 2 ** (2 + number)), -(-38 // 2 ** (2 + number)))
        torch.testing.assert_close(level, one)


def test_shared_weights_are_those_of_one_level_and_norms_are_not_shared() -> None:
    counts = {}
    for weights, levels in [("shared", 1), ("shared", 3), ("separate", 3)]:
        config = PnnConfig(weights=weights, levels=levels, links="none", **SMALL)
        model = PnnClassifier(config, num_classes=5)
        trained = {name: parameter.numel() for name, parameter in model.named_parameters()}
        norms = sum(count for name, count in trained.items() if name.startswith("trunk") and "norms" in name)
        fusion = sum(count for name, count in trained.items() if "fusion" in name)
        counts[weights, levels] = sum(trained.values()) - norms - fusion, norms
    one, norms = counts["shared", 1]
    assert counts["shared", 3] == (one, 3 * norms)
    assert counts["separate", 3] == (3 * one, 3 * norms)


def test_with_shared_weights_a_coarse_level_sees_what_a_finer_one_sees_of_the_smaller_image() -> None:
    config = PnnConfig(weights="shared", links="none", levels=2, **SMALL)
    model = PnnClassifier(config, num_classes=5).eval()
    images = torch.rand(2, 3, 32, 48)
    smaller = gaussian_pyramid(images, 2)[1]
    assert torch.equal(model(images)["level1"], model(smaller)["level0"])


@pytest.mark.parametrize("text", ["p2-p4", "p3-p7", "p5"])
@pytest.mark.parametrize("weights", ["shared", "separate"])
def test_a_detectors_levels_have_their_strides(text: str, weights: str) -> None:
    names = parse_levels(text)
    model = PnnPyramid(PnnConfig(weights=weights, channels=2, depth=1, stages=7, levels=1), names, channels=6)
    assert model.levels == {name: Level(6, 2 ** int(name[1])) for name in names}
    for rows, columns in [(64, 96), (128, 32), (40, 49)]:
        maps = model(torch.rand(2, 3, rows, columns))
        assert list(maps) == names
        for name, level in maps.items():
            stride = model.levels[name].stride
            assert level.shape == (2, 6, -(-rows // stride), -(-columns // stride))
    sum(level.square().sum() for level in maps.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_level_sees_an_object_where_it_lies() -> None:
    """A map's position answers for the pixels that the stride says."""
    model = PnnPyramid(PnnConfig(channels=4, depth=1, links="none"), parse_levels("p3-p5"), channels=6).eval()
    images = torch.zeros(1, 3, 256, 256)
    empty = model(images)
    images[:, :, 160:176, 96:112] = 1.0
    for name, level in model(images).items():
        stride = model.levels[name].stride
        changed = (level - empty[name]).detach().abs().sum(dim=1)[0]
        weights = changed / changed.sum()
        row, column = (
            float((weights.sum(dim=dim) * torch.arange(len(weights)).add(0.5) * stride).sum())
            for dim in (1, 0)
        )
        assert abs(row - 168) < stride
        assert abs(column - 104) < stride


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_its_norms_can_be_replaced(norm: str) -> None:
    model = PnnClassifier(PnnConfig(**SMALL), num_classes=5)
    replace_norms(model, norm)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    outputs = model(torch.rand(1, 3, 4, 4))  # one image, one position: no matter without batch statistics
    sum(logits.sum() for logits in outputs.values()).backward()


def test_it_keeps_channels_last_and_runs_in_bf16() -> None:
    model = PnnPyramid(PnnConfig(**SMALL), parse_levels("p3-p5"), channels=6).to(
        memory_format=torch.channels_last
    )
    images = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        for level in model(images).values():
            assert level.dtype is torch.bfloat16
            assert level.is_contiguous(memory_format=torch.channels_last)
