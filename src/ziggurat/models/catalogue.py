"""What can be built: the models of our own, by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ziggurat.config import ModelConfig
from ziggurat.models.build import HEADS, NECKS, build_model

# A few of timm's backbones, small to large; every other one that gives features is built by its name as well.
BACKBONES = (
    "resnet18", "resnet50", "resnet101", "tf_efficientnet_lite0", "mobilenetv3_large_100", "convnext_tiny",
    "regnety_016", "pvt_v2_b0", "pvt_v2_b2", "swin_tiny_patch4_window7_224",
)  # fmt: skip


def list_models(text: str = "") -> Iterator[dict[str, Any]]:
    """Yield ``name``, ``task``, ``parameters`` and ``plans`` of each model whose name holds `text`."""
    for head in HEADS:
        for neck in NECKS:
            for backbone in BACKBONES:
                name = f"{head}-{backbone}-{neck}"
                if text in name:
                    model = build_model(ModelConfig(name=name), num_classes=80)
                    count = sum(parameter.numel() for parameter in model.parameters())
                    yield {"name": name, "task": "detect", "parameters": count, "plans": ["dp"]}
