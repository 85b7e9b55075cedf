from __future__ import annotations

import pytest
import torch

from ziggurat.config import ModelConfig
from ziggurat.models.build import build_model
from ziggurat.models.probe import takes_one_image
from ziggurat.models.segmenter import DECODERS

POOLED = ("pan", "deeplabv3", "deeplabv3plus", "upernet")  # a batch norm follows a pooling to one position


@pytest.mark.parametrize("decoder", DECODERS)
def test_decoders_with_a_pooled_batch_norm(decoder: str) -> None:
    encoder = "vit_tiny_patch16_224" if decoder == "dpt" else "resnet10t"
    model = build_model(ModelConfig(name=f"smp:{decoder}/{encoder}", channels=64), 3)
    assert takes_one_image(model, 96) == (decoder not in POOLED)


@pytest.mark.parametrize(
    ("name", "norm", "side", "expected"),
    [
        ("smp:upernet/tu-test_resnet", "group", 64, True),
        ("smp:upernet/tu-test_resnet", "frozen", 64, True),
        ("timm:test_resnet", "batch", 64, True),
        ("timm:test_resnet", "batch", 32, False),  # the last map has one position
        ("timm:skresnet18", "batch", 256, False),  # attention over channels, of a mean over the image
        ("fcos-skresnet18-fpn", "batch", 256, False),
        ("fcos-resnet10t-bifpn", "batch", 256, True),
        ("fcos-resnet10t-bifpn", "batch", 128, False),  # p7 has one position
        ("pnn", "batch", 32, True),  # does not run without values
    ],
)
def test_what_one_image_is_too_few_for(name: str, norm: str, side: int, expected: bool) -> None:
    model = build_model(ModelConfig(name=name, norm=norm, channels=32), 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert takes_one_image(model, side) == expected
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    images = torch.rand(1, 3, side, side)
    if expected:
        model.train()(images)
    else:
        with pytest.raises(ValueError, match=r"more than (1|one) value"):
            model.train()(images)
