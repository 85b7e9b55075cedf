"""From a model's configuration to the model."""

from __future__ import annotations

from ziggurat.config import ModelConfig
from ziggurat.errors import UserError, nearest
from ziggurat.models.backbone import create_backbone, image_statistics
from ziggurat.models.depthwise import speed_up_depthwise
from ziggurat.models.detector import Detector
from ziggurat.models.fcos import FcosHead
from ziggurat.models.fpn import FeaturePyramid
from ziggurat.models.levels import parse_levels
from ziggurat.models.retinanet import RetinaNetHead

HEADS: dict[str, type[FcosHead] | type[RetinaNetHead]] = {"fcos": FcosHead, "retinanet": RetinaNetHead}
NECKS = {"fpn": FeaturePyramid}


def parse_name(name: str) -> tuple[str, str, str]:
    """Return the head, backbone and neck of a model's name.

    Raises:
        UserError: If the name does not have three parts, or its head or neck is unknown; lists both.

    Example:
        >>> parse_name("fcos-resnet50-fpn")
        ('fcos', 'resnet50', 'fpn')
    """
    head, _, rest = name.partition("-")
    backbone, _, neck = rest.rpartition("-")
    if not (head and backbone and neck):
        raise UserError(
            f"model.name must be HEAD-BACKBONE-NECK, such as fcos-resnet50-fpn: got '{name}' "
            f"(heads: {', '.join(HEADS)}; necks: {', '.join(NECKS)}; backbones: any timm name)"
        )
    faults = []
    for kind, part, known in (("head", head, list(HEADS)), ("neck", neck, list(NECKS))):
        if part not in known:
            faults.append(f"unknown {kind} '{part}' in model.name '{name}': {nearest(part, known)}")
    if faults:
        raise UserError(faults)
    return head, backbone, neck


def build_model(config: ModelConfig, num_classes: int) -> Detector:
    """Build a detector with random weights (drawn from PyTorch's global generator).

    Args:
        config: Its name and parameters; its `weights` are not loaded here.
        num_classes: Classes, without a background.

    Raises:
        UserError: If head, backbone or neck is unknown (with the nearest name), or the levels are malformed or
            not the backbone's.

    Example:
        >>> model = build_model(ModelConfig(name="fcos-resnet10t-fpn", channels=32), num_classes=3)
        >>> model.level_sizes(256, 320)["p3"]
        (32, 40)
    """
    head, backbone_name, neck = parse_name(config.name)
    names = parse_levels(config.levels)
    backbone = create_backbone(backbone_name, names, config.norm, config.drop_path)
    speed_up_depthwise(backbone)
    pyramid = NECKS[neck](backbone.levels, names, config.channels)
    return Detector(
        backbone,
        pyramid,
        HEADS[head](config.channels, num_classes, config.head_depth),
        num_classes,
        image_statistics(backbone_name),
    )
