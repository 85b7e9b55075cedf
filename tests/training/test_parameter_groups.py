"""Which parameters are decayed, and how fast the backbone learns."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from ziggurat.config import ModelConfig, TrainConfig
from ziggurat.errors import UserError
from ziggurat.models.build import build_model
from ziggurat.training.optimization import make_optimizer, set_learning_rate
from ziggurat.training.parameter_groups import PLACES, backbone_names, parameter_groups


def names_of(model: nn.Module, parameters: list[nn.Parameter]) -> list[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in parameters]


def built(name: str) -> nn.Module:
    with torch.device("meta"):
        return build_model(ModelConfig(name=name, channels=64), 3)


@pytest.mark.parametrize(
    "name",
    [
        "fcos-resnet18-fpn",
        "atss-resnet18-bifpn",
        "timm:test_resnet",
        "timm:convnext_atto",
        "pnn",
        "smp:unet/resnet18",
    ],
)
def test_the_groups_of_convolutional_models_are_what_they_were(name: str) -> None:
    """Weights with more than one dim, then all others, each in the order of the model: bits rest on it."""
    model = built(name)
    trained = list(model.parameters())
    many, few = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    groups = parameter_groups(model, TrainConfig(weight_decay=0.3))
    assert [(g["weight_decay"], sorted(g)) for g in groups] == [
        (0.3, ["params", "weight_decay"]),
        (0.0, ["params", "weight_decay"]),
    ]
    for group, expected in zip(groups, (many, few), strict=True):
        assert all(one is other for one, other in zip(group["params"], expected, strict=True))


@pytest.mark.parametrize(
    ("name", "spared"),
    [
        ("timm:vit_tiny_patch16_224", {"body.pos_embed", "body.cls_token"}),
        ("timm:deit_tiny_distilled_patch16_224", {"body.pos_embed", "body.cls_token", "body.dist_token"}),
    ],
)  # fmt: skip
def test_position_embeddings_and_tokens_are_not_decayed(name: str, spared: set[str]) -> None:
    model = built(name)
    decayed, others = parameter_groups(model, TrainConfig())
    found = {n for n in names_of(model, others["params"]) if dict(model.named_parameters())[n].ndim > 1}
    assert found == spared
    assert not spared.intersection(names_of(model, decayed["params"]))


def test_every_list_of_a_submodule_counts() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.table = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
            self.position_embeddings = nn.Embedding(3, 2)

        def no_weight_decay(self) -> set[str]:
            return {"scale"}

    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(Listed()))
    decayed, others = parameter_groups(model, TrainConfig())
    assert names_of(model, decayed["params"]) == ["0.weight", "1.0.table"]
    assert names_of(model, others["params"]) == ["0.bias", "1.0.scale", "1.0.position_embeddings.weight"]


def test_timms_own_lists_are_followed() -> None:
    for name in ("swin_tiny_patch4_window7_224", "beit_base_patch16_224", "cait_xxs24_224"):
        with torch.device("meta"):
            model = timm.create_model(name)
        decayed = set(names_of(model, parameter_groups(model, TrainConfig())[0]["params"]))
        assert not decayed.intersection(model.no_weight_decay())
        assert not [n for n in decayed if "relative_position_bias_table" in n or "pos_embed" in n]


@pytest.mark.parametrize(
    "name",
    [
        "pos_embed",
        "pos_embedding",
        "absolute_pos_embed",
        "pos_embed_win",
        "position_embeddings",
        "relative_position_bias_table",
        "rel_pos_h",
        "cls_token",
        "class_token",
        "register_tokens",
        "mask_token",
    ],
)
def test_names_of_places(name: str) -> None:
    assert PLACES.fullmatch(name)


@pytest.mark.parametrize(
    "name",
    [
        "weight",
        "token_mixer",
        "tokens",
        "pos_block",
        "composite",
        "patch_embed",
        "level_embed_conv",
        "expos_embedder",
    ],
)
def test_names_of_others(name: str) -> None:
    assert not PLACES.fullmatch(name)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("fcos-resnet18-fpn", "backbone."),
        ("timm:test_resnet", "body."),
        ("spp-resnet18", "body.backbone."),
        ("smp:unet/resnet18", "body.encoder."),
    ],
)
def test_the_backbone_has_a_learning_rate_of_its_own(name: str, first: str) -> None:
    model = built(name)
    config = TrainConfig(backbone_lr=0.1, lr=2.0)
    backbone = backbone_names(model)
    assert backbone
    assert all(n.startswith(first) for n in backbone)
    optimizer = make_optimizer(model, config)
    set_learning_rate(optimizer, 1.0)
    rates = {n: g["lr"] for g in optimizer.param_groups for n in names_of(model, g["params"])}
    assert rates == {n: 0.1 if n in backbone else 1.0 for n, _ in model.named_parameters()}
    assert optimizer.param_groups[0]["lr"] == 1.0, "what the log says is the learning rate of the head"
    decays = {n: g["weight_decay"] for g in optimizer.param_groups for n in names_of(model, g["params"])}
    assert decays == {n: config.weight_decay if p.ndim > 1 else 0.0 for n, p in model.named_parameters()}


def test_a_model_of_one_part_is_refused() -> None:
    with pytest.raises(UserError, match="has no effect"):
        parameter_groups(nn.Linear(2, 2), TrainConfig(backbone_lr=0.1))


def test_the_second_beta() -> None:
    (group,) = make_optimizer(nn.Linear(2, 2, bias=False), TrainConfig(beta2=0.99)).param_groups
    assert group["betas"] == (0.9, 0.99)
