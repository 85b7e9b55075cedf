"""What can be built: the models of our own, by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ziggurat.config import ModelConfig
from ziggurat.models.build import family_of
from ziggurat.models.families import FAMILIES

PLANS = ["dp", "sp", "pp", "tp", "fsdp"]  # of every model here


def list_models(text: str = "") -> Iterator[dict[str, Any]]:
    """Yield ``name``, ``task``, ``parameters`` and ``plans`` of each model whose name holds `text`.

    The models are built without memory for their weights; the number of classes is that of COCO, ImageNet or VOC. Any
    axis of a product may be refused for images that are too small for it.
    """
    for name in model_names():
        if text in name:
            parameters = sum(parameter.numel() for parameter in _build(name).parameters())
            yield {
                "name": name,
                "task": family_of(name).task,
                "parameters": parameters,
                "plans": plans_of(name),
            }


def plans_of(name: str) -> list[str]:
    """Return the axes of a plan that a listed model can be spread over.

    ``lp`` is for networks with branches by their form: heads on the levels of a pyramid, image pyramids, HRNet. It takes
    any other whose branches are large enough when they are measured.
    """
    return [*PLANS, "lp"] if family_of(name).has_branches(name) else list(PLANS)


def model_names() -> list[str]:
    """Return the name of every model that is listed."""
    return [name for family in FAMILIES.values() for name in family.names()]


def num_classes_of(name: str) -> int:
    """Return the classes that a model is listed and verified with."""
    return family_of(name).num_classes


def _build(name: str) -> nn.Module:
    config, family = ModelConfig(name=name), family_of(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # initialising what has no memory does nothing, and says so
        with torch.device("meta"):
            return (family.outline or family.build)(config, family.num_classes)
