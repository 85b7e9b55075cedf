"""What can be built: the models of our own, by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import nn

from ziggurat.config import ModelConfig
from ziggurat.models.backbone import Backbone, create_backbone
from ziggurat.models.build import HEADS, NECKS, assemble_detector, build_model, task_of
from ziggurat.models.levels import parse_levels
from ziggurat.models.segmenter import DECODERS

# A few of timm's networks, small to large; every other one that gives features is built by its name as well.
BACKBONES = (
    "resnet18", "resnet50", "resnet101", "tf_efficientnet_lite0", "mobilenetv3_large_100", "convnext_tiny",
    "regnety_016", "hrnet_w18", "pvt_v2_b0", "pvt_v2_b2", "swin_tiny_patch4_window7_224",
)  # fmt: skip
PYRAMIDNETS = (
    "pyramidnet-110-48", "pyramidnet-110-270", "pyramidnet-164-270-bottleneck", "pyramidnet-110-27-multiplicative",
)  # fmt: skip
ENCODERS = ("resnet34", "mobilenet_v2")
TRANSFORMERS = ("vit_tiny_patch16_224", "vit_base_patch16_224")  # what the decoder dpt takes
NUM_CLASSES = {"detect": 80, "classify": 1000, "segment": 21}  # COCO, ImageNet, VOC
PLANS = ["dp", "sp", "pp", "tp", "fsdp"]  # of every model here
MULTI_BRANCH = ("pnn", "hrnet")  # backbones and classifiers whose branches lp computes at the same time


def list_models(text: str = "") -> Iterator[dict[str, Any]]:
    """Yield ``name``, ``task``, ``parameters`` and ``plans`` of each model whose name holds `text`.

    The models are built without memory for their weights; the number of classes is that of COCO, ImageNet or VOC. Any
    axis of a product may be refused for images that are too small for it.
    """
    for name in model_names():
        if text in name:
            parameters = sum(parameter.numel() for parameter in _build(name).parameters())
            yield {"name": name, "task": task_of(name), "parameters": parameters, "plans": plans_of(name)}


def plans_of(name: str) -> list[str]:
    """Return the axes of a plan that a listed model can be spread over.

    ``lp`` is for networks with branches by their form: heads on the levels of a pyramid, image pyramids, HRNet. It takes
    any other whose branches are large enough when they are measured.
    """
    has_branches = task_of(name) == "detect" or any(kind in name for kind in MULTI_BRANCH)
    return [*PLANS, "lp"] if has_branches else list(PLANS)


def model_names() -> list[str]:
    """Return the name of every model that is listed."""
    detectors = [f"{head}-{backbone}-{neck}" for head in HEADS for neck in NECKS for backbone in BACKBONES]
    detectors += [f"{head}-pnn" for head in HEADS]
    classifiers = ["pnn", *PYRAMIDNETS, *(f"{kind}{b}" for kind in ("spp-", "timm:") for b in BACKBONES)]
    segmenters = [
        f"smp:{decoder}/{encoder}"
        for decoder in DECODERS
        for encoder in (TRANSFORMERS if decoder == "dpt" else ENCODERS)
    ]
    return detectors + classifiers + segmenters


def _build(name: str) -> nn.Module:
    config = ModelConfig(name=name)
    num_classes = NUM_CLASSES[task_of(name)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # initialising what has no memory does nothing, and says so
        if task_of(name) == "detect" and not name.endswith("-pnn"):
            backbone = _backbone(name.split("-")[1], config.levels)  # no name of ours holds a hyphen
            with torch.device("meta"):
                return assemble_detector(config, num_classes, backbone)
        with torch.device("meta"):
            return build_model(config, num_classes)


@cache
def _backbone(name: str, levels: str) -> Backbone:
    with torch.device("meta"):
        return create_backbone(name, parse_levels(levels), "batch", 0.0)
