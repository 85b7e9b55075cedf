"""Every decoder of smp keeps every promise; encoders of smp and of timm; names and faults."""

from __future__ import annotations

from typing import Literal

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from ziggurat.config import ModelConfig
from ziggurat.errors import UserError
from ziggurat.models.segmenter import DECODERS, Segmenter, build_segmenter, parse_segmenter_name

SMALL = dict.fromkeys(DECODERS, "resnet10t") | {"dpt": "vit_tiny_patch16_224"}


def build(
    decoder: str,
    encoder: str = "",
    norm: Literal["batch", "frozen", "group"] = "batch",
    drop_path: float = 0.0,
) -> Segmenter:
    name = f"smp:{decoder}/{encoder or SMALL[decoder]}"
    return build_segmenter(ModelConfig(name=name, norm=norm, channels=64, drop_path=drop_path), num_classes=5)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("decoder", DECODERS)
def test_contract(decoder: str) -> None:
    """Shapes at odd sizes, gradients, independence of batch neighbours, and the state of another."""
    model = build(decoder)
    assert (model.task, model.num_classes) == ("segment", 5)
    images = torch.randn(2, 3, 70, 93)
    logits = model.train()(images)["logits"]
    assert logits.shape == (2, 5, 70, 93)
    logits.square().mean().backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    _randomize_norms(model)
    with torch.no_grad():
        both = model.eval()(images)["logits"]
        torch.testing.assert_close(model(images[1:])["logits"], both[1:], rtol=1e-4, atol=1e-4)
        other = build(decoder).eval()
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(images)["logits"], both)
        _check_padding(model, {"pspnet": 8, "deeplabv3": 8, "deeplabv3plus": 16, "pan": 128}.get(decoder, 32))


def _check_padding(model: Segmenter, multiple: int) -> None:
    """Multiples need no padding; other images are padded below and to the right with zeros."""
    assert model.size_multiple == multiple
    images = torch.randn(1, 3, multiple, 2 * multiple)
    images[..., -3:, :] = 0
    images[..., -5:] = 0
    whole = model(images)["logits"]
    assert torch.equal(whole, model.body(images))
    assert torch.equal(model(images[..., :-3, :-5])["logits"], whole[..., :-3, :-5])


def _randomize_norms(model: nn.Module) -> None:
    """Statistics as after training: with those of the start, maps fade to nothing in some networks."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_at_256_channels_the_decoder_is_smps_own(decoder: str) -> None:
    with torch.device("meta"):
        model = build_segmenter(ModelConfig(name=f"smp:{decoder}/{SMALL[decoder]}"), num_classes=5)
        named = {"dynamic_img_size": True} if decoder == "dpt" else {}
        own = smp.create_model(decoder, f"tu-{SMALL[decoder]}", encoder_weights=None, classes=5, **named)
    shapes = {key: value.shape for key, value in model.body.state_dict().items()}
    assert shapes == {key: value.shape for key, value in own.state_dict().items()}


@pytest.mark.parametrize(
    "encoder",
    ["resnet18", "efficientnet-b0", "mit_b0", "test_convnext", "tu-test_efficientnet", "pvt_v2_b0"],
)
def test_encoders(encoder: str) -> None:
    _check_encoder("unet", encoder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder",
    [
        "swin_tiny_patch4_window7_224", "hrnet_w18_small", "vgg11_bn", "densenet121", "mobileone_s0", "xception",
        "mobilenet_v2", "convnext_atto", "regnetx_002", "mobilenetv3_small_050", "dpn68", "inceptionv4",
    ],
)  # fmt: skip
@pytest.mark.parametrize("decoder", ["unet", "fpn"])
def test_more_encoders(decoder: str, encoder: str) -> None:
    _check_encoder(decoder, encoder)


def _check_encoder(decoder: str, encoder: str) -> None:
    model = build(decoder, encoder)
    logits = model.train()(torch.randn(2, 3, 65, 90))["logits"]
    assert logits.shape == (2, 5, 65, 90)
    logits.square().mean().backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_norm_is_that_of_the_whole_network(norm: Literal["frozen", "group"]) -> None:
    for decoder in ("unet", "deeplabv3plus"):
        model = build(decoder, norm=norm)
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
        assert model.train()(torch.randn(1, 3, 32, 32))["logits"].shape == (1, 5, 32, 32)


def test_one_image_of_a_pooled_batch_norm_says_what_to_do() -> None:
    images = torch.randn(1, 3, 64, 64)
    model = build("deeplabv3plus")
    assert model.eval()(images)["logits"].shape == (1, 5, 64, 64)
    with pytest.raises(UserError, match=r"two images at least: got 1 of 64 x 64; .*model.norm=group"):
        model.train()(images)
    with pytest.raises(UserError, match="two images"):  # the coarsest map has one position
        build("unet").train()(images[..., :32, :32])


def test_random_weights_follow_the_seed_and_building_leaves_statistics_alone() -> None:
    torch.manual_seed(3)
    first = build("unet").state_dict()
    torch.manual_seed(3)
    second = build("unet").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all((value == 0).all() for key, value in first.items() if key.endswith("running_mean"))


def test_statistics_are_the_encoders() -> None:
    assert build("unet", "resnet18").mean == (0.485, 0.456, 0.406)
    assert build("unet", "mit_b0").std == (0.229, 0.224, 0.225)
    assert build("dpt").mean == (0.5, 0.5, 0.5)


def test_drop_path_reaches_timms_encoders_and_warns_elsewhere() -> None:
    rates = [
        getattr(layer, "drop_prob", None) for layer in build("unet", "test_convnext", drop_path=0.3).modules()
    ]
    assert max(rate for rate in rates if rate is not None) == pytest.approx(0.3)
    with pytest.warns(UserWarning, match="model.drop_path has no effect: it is for timm's"):
        build("unet", "resnet18", drop_path=0.3)
    with pytest.warns(UserWarning, match="'tu-vgg11_bn' has no stochastic depth"):
        build("unet", "tu-vgg11_bn", drop_path=0.3)


def test_names() -> None:
    assert parse_segmenter_name("smp:fpn/tu-resnet18") == ("fpn", "tu-resnet18")
    assert parse_segmenter_name("smp:fpn/resnet18") == ("fpn", "resnet18")  # smp's own
    assert parse_segmenter_name("smp:fpn/resnet10t") == ("fpn", "tu-resnet10t")
    with pytest.raises(UserError) as caught:
        parse_segmenter_name("smp:unett/resnet50x")
    assert len(caught.value.faults) == 2
    assert "did you mean 'unet'?" in caught.value.faults[0]
    assert "did you mean 'resnet50'?" in caught.value.faults[1]
    for wrong in ("unet/resnet18", "smp:unet", "smp:unet-resnet18"):
        with pytest.raises(UserError, match="must be smp:DECODER/ENCODER"):
            parse_segmenter_name(wrong)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("smp:linknet/mit_b0", "not supported for Linknet"),
        ("smp:deeplabv3/vgg11", "do not support dilated mode"),
        ("smp:unet/vit_tiny_patch16_224", "Unsupported model downsampling"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"does not work with this encoder .*{reason}"):
        build_segmenter(ModelConfig(name=name), num_classes=3)
