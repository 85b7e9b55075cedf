"""Which parameters are decayed, and at which learning rate: the groups of an optimizer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from ziggurat.config import TrainConfig
from ziggurat.errors import UserError

# Where a model has the part that is trained before: detectors, spp, segmenters.
BACKBONES = ("backbone", "body.backbone", "body.encoder")

# Parameters that say where something is, or stand for an image: a decay would pull them to one value.
# timm, torchvision and transformers: pos_embed, pos_embedding, absolute_pos_embed, pos_embed_win, position_embeddings,
# relative_position_bias_table, rel_pos_h, cls_token, class_token, dist_token, reg_token, register_tokens, mask_token
PLACES = re.compile(
    r"(.*_)?(rel_pos_[hw]|(pos|position|positional)_(embed|embedding|embeddings|bias)(_.*)?"
    r"|relative_position_bias_table|attention_biases|(cls|class|dist|reg|register|mask)_tokens?)"
)


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Return the trained parameters in groups, each with its decay.

    Not decayed are parameters with one dim or none (biases, norms), position embeddings and class tokens, and what a
    module of the model names in ``no_weight_decay()``, as timm's networks do. The groups of the backbone come last, and
    only if it has a learning rate of its own; their ``lr_scale`` is its factor.

    Raises:
        UserError: If ``train.backbone_lr`` is given for a model that has nothing but a backbone, or none.
    """
    spared = set(spared_names(model))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    backbone = backbone_names(model) if config.backbone_lr != 1 else set()
    if config.backbone_lr != 1 and not 0 < len(backbone.intersection(names)) < len(names):
        raise UserError(
            f"train.backbone_lr={config.backbone_lr} has no effect: the trained parameters of {type(model).__name__} are "
            "not of a backbone and a head; leave it out, or scale train.lr"
        )
    parameters = dict(model.named_parameters())
    groups: list[dict[str, Any]] = []
    for is_backbone in (False, True):
        own = [name for name in names if (name in backbone) == is_backbone]
        decayed = [name for name in own if parameters[name].ndim > 1 and name not in spared]
        others = set(own).difference(decayed)
        scale = {"lr_scale": config.backbone_lr, "lr": config.lr * config.backbone_lr} if is_backbone else {}
        groups += [
            {"params": [parameters[name] for name in decayed], "weight_decay": config.weight_decay, **scale},
            {"params": [parameters[name] for name in own if name in others], "weight_decay": 0.0, **scale},
        ]
    return [group for group in groups if group["params"]]


def spared_names(model: nn.Module) -> Iterator[str]:
    """Yield the names of parameters that are not decayed whatever their dims are."""
    for prefix, module in model.named_modules():
        listed = getattr(module, "no_weight_decay", None)
        if callable(listed):
            yield from (f"{prefix}.{name}" if prefix else name for name in listed())
    modules = dict(model.named_modules())
    for name, _ in model.named_parameters():
        owner, _, last = name.rpartition(".")
        # an embedding's table goes by the name of its module
        called = owner.rpartition(".")[2] if isinstance(modules[owner], nn.Embedding) else last
        if PLACES.fullmatch(called):
            yield name


def backbone_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters of a model's backbone: of a classifier, all but the layers of its classes."""
    names = [name for name, _ in model.named_parameters()]
    for backbone in BACKBONES:
        found = {name for name in names if name.startswith(f"{backbone}.")}
        if found:
            return found
    heads = tuple(f"{layer}." for layer in getattr(model, "class_layers", ()))
    return {name for name in names if heads and not name.startswith(heads)}
