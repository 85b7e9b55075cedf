"""From a model's configuration to the model: names compose."""

from __future__ import annotations

import warnings
from functools import cache

import torch

from ziggurat.config import ModelConfig, bands_of
from ziggurat.errors import UserError, nearest
from ziggurat.models.atss import AtssHead
from ziggurat.models.backbone import TIMM_ERRORS, Backbone, create_backbone, image_statistics
from ziggurat.models.bifpn import BiFpn
from ziggurat.models.classifier import build_classifier
from ziggurat.models.depthwise import speed_up_depthwise
from ziggurat.models.detector import Detector
from ziggurat.models.families import FAMILIES, Family
from ziggurat.models.families import register_family as register_family  # after which ours are registered
from ziggurat.models.fcos import FcosHead
from ziggurat.models.fpn import FeaturePyramid
from ziggurat.models.images import IMAGENET
from ziggurat.models.levels import parse_levels
from ziggurat.models.listed import classifier_names, detector_names, is_multi_branch, segmenter_names
from ziggurat.models.norm import replace_norms
from ziggurat.models.pafpn import PathAggregation
from ziggurat.models.pnn import PnnPyramid
from ziggurat.models.retinanet import RetinaNetHead
from ziggurat.models.segmenter import build_segmenter
from ziggurat.models.vision import VisionModel
from ziggurat.torch_internals.default_group import default_group_hidden

HEADS: dict[str, type[FcosHead] | type[RetinaNetHead] | type[AtssHead]] = {
    "fcos": FcosHead,
    "retinanet": RetinaNetHead,
    "atss": AtssHead,
}
NECKS: dict[str, type[FeaturePyramid] | type[PathAggregation] | type[BiFpn]] = {
    "fpn": FeaturePyramid,
    "pafpn": PathAggregation,
    "bifpn": BiFpn,
}
CLASSIFIERS = ("spp", "pyramidnet")  # first words of names
GRAMMAR = (
    "a detector is HEAD-BACKBONE-NECK, such as fcos-resnet50-fpn, or HEAD-pnn; a classifier is timm:NAME, "
    "spp-BACKBONE, pnn, or pyramidnet-DEPTH-ALPHA; a segmenter is smp:DECODER/ENCODER"
)


def family_of(name: str) -> Family:
    """Return the family of a model, by its name; those that were registered last are asked first.

    Raises:
        UserError: If the name is of no known form.
    """
    for family in reversed(list(FAMILIES.values())):
        if family.recognises(name):
            return family
    raise UserError(f"unknown model.name '{name}': {GRAMMAR}")


def task_of(name: str) -> str:
    """Return the name of the task that a model is for, by the model's name.

    Raises:
        UserError: If the name is of no known form.

    Example:
        >>> task_of("spp-resnet18"), task_of("atss-pnn"), task_of("smp:fpn/resnet18")
        ('classify', 'detect', 'segment')
    """
    return family_of(name).task


def build_model(config: ModelConfig, num_classes: int) -> VisionModel:
    """Build a model with random weights (drawn from PyTorch's global generator).

    Args:
        config: Its name and parameters; its `weights` are not loaded here.
        num_classes: Classes; a detector's without a background.

    Raises:
        UserError: If a part of the name is unknown (with the nearest name), or a setting does not fit it.

    Example:
        >>> build_model(ModelConfig(name="spp-resnet10t"), num_classes=3).task
        'classify'
    """
    with default_group_hidden():  # a layer that looks for other processes while it is made finds none
        return family_of(config.name).build(config, num_classes)


def outline_model(config: ModelConfig, num_classes: int) -> VisionModel:
    """Build a model as `build_model` does, without memory for its weights where its parts can be made so.

    Raises:
        UserError: As `build_model`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*no-op.*"
        )  # initialising what has no memory does nothing, and says so
        try:
            with torch.device("meta"):
                return build_model(config, num_classes)
        except (
            UserError,
            *TIMM_ERRORS,
        ):  # it may need values, or be wrong: then this says so in its own words
            pass
    return build_model(config, num_classes)


def parse_name(name: str) -> tuple[str, str, str]:
    """Return the head, backbone and neck of a detector's name; ``pnn`` has no neck.

    Raises:
        UserError: If the name does not have three parts, or its head or neck is unknown; lists both.

    Example:
        >>> parse_name("fcos-resnet50-fpn"), parse_name("fcos-pnn")
        (('fcos', 'resnet50', 'fpn'), ('fcos', 'pnn', ''))
    """
    head, _, rest = name.partition("-")
    backbone, _, neck = ("pnn", "", "") if rest == "pnn" else rest.rpartition("-")
    if not (head and backbone and (neck or rest == "pnn")):
        raise UserError(
            f"model.name must be HEAD-BACKBONE-NECK, such as fcos-resnet50-fpn: got '{name}' "
            f"(heads: {', '.join(HEADS)}; necks: {', '.join(NECKS)}; backbones: any timm name)"
        )
    faults = []
    for kind, part, known in (("head", head, list(HEADS)), ("neck", neck, list(NECKS))):
        if part not in known and not (kind == "neck" and rest == "pnn"):
            faults.append(f"unknown {kind} '{part}' in model.name '{name}': {nearest(part, known)}")
    if faults:
        raise UserError(faults)
    return head, backbone, neck


def build_detector(config: ModelConfig, num_classes: int) -> Detector:
    """Build a detector, see `build_model`.

    Raises:
        UserError: If head, backbone or neck is unknown (with the nearest name), or the levels are malformed or
            not the backbone's.

    Example:
        >>> model = build_detector(ModelConfig(name="fcos-resnet10t-fpn", channels=32), num_classes=3)
        >>> model.level_sizes(256, 320)["p3"]
        (32, 40)
    """
    _, backbone_name, _ = parse_name(config.name)
    names = parse_levels(config.levels)
    if backbone_name == "pnn":
        return assemble_detector(
            config, num_classes, PnnPyramid(config.pnn, names, config.channels, bands_of(config))
        )
    backbone = create_backbone(backbone_name, names, config.norm, config.drop_path, bands_of(config))
    speed_up_depthwise(backbone)
    return assemble_detector(config, num_classes, backbone)


def assemble_detector(config: ModelConfig, num_classes: int, backbone: Backbone | PnnPyramid) -> Detector:
    """Put neck and head on a backbone."""
    head_name, backbone_name, neck_name = parse_name(config.name)
    names = parse_levels(config.levels)
    head = HEADS[head_name](config.channels, num_classes, config.head_depth, names)
    if isinstance(backbone, PnnPyramid):
        return Detector(replace_norms(backbone, config.norm), None, head, num_classes, IMAGENET)
    neck = NECKS[neck_name](backbone.levels, names, config.channels, config.neck_depth, config.norm)
    return Detector(backbone, neck, head, num_classes, image_statistics(backbone_name))


def _outline_detector(config: ModelConfig, num_classes: int) -> Detector:
    """Build a detector that has no memory on a backbone that it shares with others."""
    _, backbone_name, _ = parse_name(config.name)
    if backbone_name == "pnn":
        return build_detector(config, num_classes)
    return assemble_detector(config, num_classes, _shared_backbone(backbone_name, config.levels))


@cache
def _shared_backbone(name: str, levels: str) -> Backbone:
    return create_backbone(name, parse_levels(levels), "batch", 0.0)


def _detector_settings(name: str) -> tuple[str, ...]:
    common = ("model.levels", "model.channels", "model.head_depth", "model.norm")
    if name.endswith("-pnn"):
        return (
            *common,
            *(f"model.pnn.{own}" for own in ("pyramid", "weights", "links", "channels", "depth")),
        )
    return (*common, "model.neck_depth", "model.drop_path")


def _classifier_settings(name: str) -> tuple[str, ...]:
    if name == "pnn":
        return ("model.pnn.", "model.norm")
    if name.startswith("pyramidnet"):
        return ("model.norm",)
    return ("model.norm", "model.drop_path", *(("model.spp_bins",) if name.startswith("spp-") else ()))


def _is_classifier(name: str) -> bool:
    return name == "pnn" or name.startswith("timm:") or name.partition("-")[0] in CLASSIFIERS


# The last one is asked first: whatever else has a hyphen in its name is a detector, or nothing. The classes are those of
# COCO, ImageNet and VOC.
register_family(
    "detector",
    Family(
        task="detect",
        recognises=lambda name: bool(name.partition("-")[2]),
        build=build_detector,
        num_classes=80,
        names=lambda: detector_names(list(HEADS), list(NECKS)),
        outline=_outline_detector,
        settings=_detector_settings,
        has_branches=lambda name: True,
    ),
)
register_family(
    "classifier",
    Family(
        task="classify",
        recognises=_is_classifier,
        build=build_classifier,
        num_classes=1000,
        names=classifier_names,
        settings=_classifier_settings,
        has_branches=is_multi_branch,
    ),
)
register_family(
    "segmenter",
    Family(
        task="segment",
        recognises=lambda name: name.startswith("smp:"),
        build=build_segmenter,
        num_classes=21,
        names=segmenter_names,
        settings=lambda name: ("model.channels", "model.norm", "model.drop_path"),
        has_branches=is_multi_branch,
    ),
)
