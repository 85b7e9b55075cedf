"""effdet's detectors, on narrow backbones of timm: https://github.com/rwightman/efficientdet-pytorch."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from sweep.third_party.entry import Entry, Package, attributes

effdet = Package("effdet")
SIDE = 128


def _build(name: str, **named: Any) -> nn.Module:
    """Return a detector without what decodes its answers, with one repeat of each part."""
    config = effdet.get_efficientdet_config(name)
    config.image_size = (SIDE, SIDE)
    config.num_classes, config.fpn_channels, config.fpn_cell_repeats, config.box_class_repeats = 3, 16, 1, 1
    for key, value in named.items():
        config[key] = value
    network: nn.Module = effdet.EfficientDet(config, pretrained_backbone=False)
    return network


NETWORKS = {
    name: Entry(partial(_build, model, **named), (2, 3, SIDE, SIDE))
    for name, (model, named) in {
        "efficientdet_d0": ("efficientdet_d0", {}),
        "efficientdet_lite0": ("efficientdet_lite0", {}),
        "tf_efficientdet_d0": ("tf_efficientdet_d0", {}),
        "tf_efficientdet_lite0": ("tf_efficientdet_lite0", {}),
        "efficientdet_q0": ("efficientdet_q0", {}),
        "efficientdet_quad": ("efficientdet_d0", {"fpn_name": "bifpn_attn"}),
        "efficientdet_pan": ("efficientdet_d0", {"fpn_name": "pan_fa"}),
        "efficientdet_mobilenet": (
            "efficientdet_d0",
            {"backbone_name": "mobilenetv3_small_050", "backbone_indices": None},
        ),
    }.items()
}
__getattr__ = attributes(NETWORKS)
