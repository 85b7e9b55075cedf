from __future__ import annotations

import warnings

import pytest
import timm
import torch
from torch import nn

from ziggurat.config import ModelConfig, PnnConfig
from ziggurat.errors import UserError
from ziggurat.models.backbone import image_statistics
from ziggurat.models.classifier import Classifier, build_classifier
from ziggurat.models.depthwise import Float32Conv2d
from ziggurat.models.images import IMAGENET
from ziggurat.models.norm import FrozenBatchNorm

SMALL_PNN = PnnConfig(channels=4, stages=2, depth=1, hidden=8)
OF_ANY_SIZE = [
    "pnn",
    "pyramidnet-8-6",
    "pyramidnet-11-6-bottleneck",
    "pyramidnet-8-3-multiplicative",
    "spp-test_resnet",
    "spp-test_convnext",
    "timm:test_resnet",
    "timm:test_efficientnet",
    "timm:test_convnext",
    "timm:test_vit",
    "timm:pvt_v2_b0",
    "timm:hrnet_w18_small",
    "timm:swin_tiny_patch4_window7_224",
]


def build(name: str, num_classes: int = 5, **named: object) -> Classifier:
    return build_classifier(ModelConfig(name=name, pnn=SMALL_PNN, **named), num_classes)


@pytest.mark.parametrize("name", OF_ANY_SIZE)
def test_a_classifier_takes_images_of_any_size_and_trains_wholly(name: str) -> None:
    model = build(name)
    assert (model.task, model.num_classes) == ("classify", 5)
    images = torch.rand(2, 3, 67, 90)
    model(images)  # running statistics
    together = model.eval()(images)
    alone = model(images[1:])
    assert list(together) == ["logits", *model.level_names]
    for term, logits in together.items():
        assert logits.shape == (2, 5)
        torch.testing.assert_close(alone[term][0], logits[1], rtol=1e-4, atol=1e-5)
    sum(logits.square().sum() for logits in model.train()(images).values()).backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    assert any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "multiple"),
    [
        ("pnn", 1),
        ("pyramidnet-8-6", 1),
        ("spp-test_resnet", 32),
        ("timm:test_resnet", 1),
        ("timm:test_vit", 16),
        ("timm:hrnet_w18_small", 32),  # adds maps that are enlarged twofold
        ("timm:swin_tiny_patch4_window7_224", 4),  # pads its windows itself, but not its patches
    ],
)
def test_images_are_padded_to_what_the_network_needs(name: str, multiple: int) -> None:
    model = build(name).eval()
    assert model.size_multiple == multiple
    images = torch.rand(1, 3, 65, 70)
    rows, columns = (-(-extent // multiple) * multiple for extent in (65, 70))
    padded = torch.zeros(1, 3, rows, columns)
    padded[:, :, :65, :70] = images
    assert torch.equal(model(images)["logits"], model(padded)["logits"])


def test_the_logits_are_timms() -> None:
    model = build("timm:test_resnet").eval()
    whole = timm.create_model("test_resnet", num_classes=5).eval()
    whole.load_state_dict(model.body.state_dict())
    images = torch.rand(2, 3, 64, 80)
    assert torch.equal(model(images)["logits"], whole(images))


def test_a_network_of_one_size_says_so() -> None:
    model = build("timm:mixer_s32_224").eval()
    assert (model.size_multiple, model.only_size) == (224, 224)
    assert model(torch.rand(1, 3, 224, 200))["logits"].shape == (1, 5)  # padded
    with pytest.raises(
        UserError, match=r"takes images of 224 x 224 pixels only: got 225 x 224; set data.crop to 224"
    ):
        model(torch.rand(1, 3, 225, 224))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet18", "did you mean 'timm:resnet18'"),
        ("timm:resnt18", "unknown network 'resnt18' in model.name: did you mean 'resnet18'"),
        ("pnn2", "did you mean 'pnn'"),
        ("pyramidnet-9-6", "the nearest is 8"),
        ("smp:unet/resnet34", "model.name may be timm:NAME, spp-BACKBONE, pnn, and pyramidnet-DEPTH-ALPHA"),
    ],
)
def test_unknown_names_are_answered(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(name)


@pytest.mark.parametrize("name", ["pnn", "pyramidnet-8-6", "spp-test_resnet", "timm:test_resnet"])
def test_norms_are_replaced(name: str) -> None:
    for norm, kind in [("frozen", FrozenBatchNorm), ("group", nn.GroupNorm)]:
        modules = list(build(name, norm=norm).modules())
        assert any(isinstance(module, kind) for module in modules)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in modules)


def test_settings_without_an_effect_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="model.norm has no effect: 'timm:test_vit' has no batch norms"):
        build("timm:test_vit", norm="group")
    for name in ("pnn", "pyramidnet-8-6"):
        with pytest.warns(
            UserWarning, match=f"model.drop_path has no effect: '{name}' has no stochastic depth"
        ):
            build(name, drop_path=0.1)
    with pytest.warns(UserWarning, match="model.drop_path has no effect: 'dla46_c' has no stochastic depth"):
        build("timm:dla46_c", drop_path=0.1)


@pytest.mark.parametrize("name", ["timm:test_convnext", "spp-test_convnext"])
def test_drop_path_is_passed(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = build(name, drop_path=0.3)
    assert any(getattr(module, "drop_prob", 0) for module in model.modules())


def test_slow_depthwise_convolutions_are_sped_up() -> None:
    for name in ("timm:test_convnext", "spp-test_convnext"):
        assert any(isinstance(module, Float32Conv2d) for module in build(name).modules())


def test_statistics_are_those_of_the_weights_or_imagenets() -> None:
    for name in ("pnn", "pyramidnet-8-6"):
        assert (build(name).mean, build(name).std) == IMAGENET
    for name in ("timm:test_vit", "timm:test_resnet", "spp-test_resnet"):
        model = build(name)
        assert (model.mean, model.std) == image_statistics(
            name.replace("spp-", "timm:").removeprefix("timm:")
        )


def test_a_batch_norm_of_one_value_is_explained() -> None:
    model = build("pyramidnet-8-6")
    with pytest.raises(
        UserError, match=r"got 1 image of 1 x 3 in a microbatch; .* model.norm to group or frozen"
    ):
        model(torch.rand(1, 3, 1, 3))
    assert model.eval()(torch.rand(1, 3, 1, 3))["logits"].shape == (1, 5)
    group = build("pyramidnet-8-6", norm="group")
    assert group(torch.rand(1, 3, 1, 3))["logits"].shape == (1, 5)


def test_other_faults_of_a_network_are_not_hidden() -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        Classifier(Broken(), 3, IMAGENET, [])(torch.rand(1, 3, 8, 8))
