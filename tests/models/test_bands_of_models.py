"""Networks of images of other bands than three: every family, and weights that were made for three."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from timm.models import adapt_input_conv

from ziggurat.config import ModelConfig, PnnConfig
from ziggurat.errors import UserError
from ziggurat.models.build import build_model
from ziggurat.models.weights import load_weights

SMALL = {"channels": 16, "levels": "p3-p5", "head_depth": 1, "pnn": PnnConfig(channels=8, hidden=8)}
FAMILIES = [
    "fcos-test_resnet-fpn",
    "retinanet-pnn",
    "timm:test_resnet",
    "timm:test_vit",
    "spp-test_resnet",
    "pnn",
    "pyramidnet-20-24",
    "smp:unet/tu-test_resnet",
    "smp:fpn/resnet18",
]


@pytest.mark.parametrize("bands", [1, 5])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_any_number_of_bands(name, bands):
    model = build_model(ModelConfig(name=name, bands=bands, **SMALL), num_classes=2).eval()
    side = getattr(model, "only_size", None) or 64
    with torch.no_grad():
        model(torch.rand(1, bands, side, side))
        with pytest.raises(RuntimeError):
            model(torch.rand(1, 3, side, side))


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_weights_of_three_bands_are_spread_as_timm_does(bands, tmp_path):
    three = build_model(ModelConfig(name="timm:test_resnet"), num_classes=4)
    save_file(three.state_dict(), tmp_path / "three.safetensors")
    model = build_model(ModelConfig(name="timm:test_resnet", bands=bands), num_classes=4)
    report = load_weights(model, str(tmp_path / "three.safetensors"))
    first = "body.conv1.0.weight" if "body.conv1.0.weight" in model.state_dict() else "body.conv1.weight"
    given = three.state_dict()[first]
    assert torch.equal(model.state_dict()[first], adapt_input_conv(bands, given))
    assert report.widened == ((first,) if bands != 3 else ())
    assert ("another number of bands" in report.summary()) == (bands != 3)
    for name, value in model.state_dict().items():
        if name != first:
            assert torch.equal(value, three.state_dict()[name]), name


def test_weights_of_other_bands_are_refused(tmp_path):
    five = build_model(ModelConfig(name="timm:test_resnet", bands=5), num_classes=4)
    save_file(five.state_dict(), tmp_path / "five.safetensors")
    with pytest.raises(UserError, match="weights of another shape"):
        load_weights(
            build_model(ModelConfig(name="timm:test_resnet", bands=4), 4), str(tmp_path / "five.safetensors")
        )
