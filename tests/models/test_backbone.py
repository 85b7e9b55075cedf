from __future__ import annotations

import warnings

import pytest
import timm
import torch
from timm.models import FeatureInfo, register_model
from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.models.backbone import create_backbone, image_statistics
from ziggurat.models.levels import Level, parse_levels

LEVELS = parse_levels("p3-p7")


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_efficientnet",  # its extractor says nothing of its layout
        "test_convnext",  # layer norms; modules renamed by timm
        "swin_tiny_patch4_window7_224",  # channels last, as an image of one size only by default
        "pvt_v2_b0",
    ],
)
def test_maps_have_the_declared_channels_and_strides(name: str) -> None:
    backbone = create_backbone(name, LEVELS, "batch", 0.0)
    assert list(backbone.levels) == ["p3", "p4", "p5"]
    images = torch.rand(2, 3, 64, 128).contiguous(memory_format=torch.channels_last)
    maps = backbone.eval()(images)
    for level, declared in backbone.levels.items():
        shape = (2, declared.channels, 64 // declared.stride, 128 // declared.stride)
        assert maps[level].shape == shape


def test_only_the_wanted_levels_are_built() -> None:
    shallow = create_backbone("resnet10t", ["p2", "p3"], "batch", 0.0)
    assert shallow.levels == {"p2": Level(64, 4), "p3": Level(128, 8)}
    assert not any("layer3" in name for name, _ in shallow.named_parameters())
    sum(m.sum() for m in shallow(torch.rand(1, 3, 64, 64)).values()).backward()
    assert all(parameter.grad is not None for parameter in shallow.parameters())


def test_the_maps_are_timms() -> None:
    backbone = create_backbone("test_resnet", LEVELS, "batch", 0.0).eval()
    whole = timm.create_model("test_resnet").eval()
    whole.load_state_dict(backbone.body.state_dict(), strict=False)
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(backbone(images)["p5"], whole.forward_features(images))


@pytest.mark.parametrize("name", ["test_efficientnet", "hrnet_w18_small"])
def test_what_timm_builds_in_vain_is_not_trained(name: str) -> None:
    backbone = create_backbone(name, ["p3", "p4"], "group", 0.0)
    sum(m.sum() for m in backbone(torch.rand(1, 3, 64, 64)).values()).backward()
    trained = [parameter.requires_grad for parameter in backbone.parameters()]
    assert trained == [parameter.grad is not None for parameter in backbone.parameters()]
    assert 0 < sum(trained) < len(trained)


@pytest.mark.parametrize(
    ("name", "levels", "words"),
    [
        ("resnt50", "p3-p7", "did you mean 'resnet50'"),
        ("vit_tiny_patch16_224", "p3-p7", "does not have the levels p3: it has p4"),
        ("test_convnext", "p6-p7", "does not have the levels p6, p7: it has p2, p3, p4, p5"),
        ("mixer_b16_224", "p3-p7", "cannot return maps of several scales for images of any size"),
    ],
)
def test_what_does_not_fit_is_said(name: str, levels: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        create_backbone(name, parse_levels(levels), "batch", 0.0)


def test_drop_path_is_passed_where_there_is_any_and_warned_of_elsewhere() -> None:
    deep = create_backbone("test_convnext", LEVELS, "batch", 0.3)
    assert any(getattr(module, "drop_prob", 0) for module in deep.modules())
    with pytest.warns(UserWarning, match=r"model.drop_path has no effect: 'vgg11_bn'"):
        create_backbone("vgg11_bn", ["p3", "p4"], "batch", 0.3)


def test_statistics_are_those_of_the_published_weights() -> None:
    assert image_statistics("resnet50") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert image_statistics("tf_efficientnet_lite0") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Peeks(nn.Module):
    """Looks at values, so that it is probed with memory."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, stride=8, padding=1)
        self.feature_info = FeatureInfo([{"num_chs": channels, "reduction": 8, "module": "conv"}], (0,))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x) * (float(x.mean()) < 2)]


def test_a_network_is_probed_once_under_a_name_and_its_weights_do_not_tell() -> None:
    made = []

    def register(channels: int) -> None:
        def peeks(pretrained: bool = False, **_: object) -> nn.Module:
            made.append(channels)
            return Peeks(channels)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a name is given again
            register_model(peeks)

    register(8)
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        weights.append(create_backbone("peeks", ["p3"], "batch", 0.0).body.conv.weight)
    assert torch.equal(*weights)
    assert len(made) == 4, "twice to look at it, then once for each that is built"
    register(16)
    assert create_backbone("peeks", ["p3"], "batch", 0.0).levels["p3"].channels == 16
