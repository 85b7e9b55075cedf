from __future__ import annotations

import pytest
import torch

from ziggurat.config import ModelConfig
from ziggurat.errors import UserError
from ziggurat.models.build import build_model


@pytest.mark.parametrize("head", ["fcos", "retinanet"])
@pytest.mark.parametrize("levels", ["p3-p7", "p2-p5", "p3-p4"])
@pytest.mark.parametrize("norm", ["batch", "frozen", "group"])
def test_outputs_have_the_declared_levels_and_channels(head: str, levels: str, norm: str) -> None:
    config = ModelConfig(f"{head}-test_efficientnet-fpn", levels, channels=24, head_depth=2, norm=norm)
    model = build_model(config, num_classes=3)
    assert (model.head_kind, model.num_classes, model.size_multiple) == (head, 3, 32)
    outputs = model(torch.rand(2, 3, 70, 100))
    assert list(outputs) == list(model.levels)
    terms = {"classes": 3, "boxes": 4} if head == "fcos" else {"classes": 27, "boxes": 36}
    terms |= {"centerness": 1} if head == "fcos" else {}
    sizes = model.level_sizes(70, 100)  # padded to 96 x 128
    assert sizes[f"p{levels[1]}"] == (96 // 2 ** int(levels[1]), 128 // 2 ** int(levels[1]))
    for name, of_level in outputs.items():
        assert {term: tuple(m.shape) for term, m in of_level.items()} == {
            term: (2, channels, *sizes[name]) for term, channels in terms.items()
        }
        assert (head != "fcos") or of_level["boxes"].min() >= 0
    sum(m.sum() for of_level in outputs.values() for m in of_level.values()).backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())


def test_padding_is_zero() -> None:
    model = build_model(ModelConfig("fcos-test_resnet-fpn", channels=16, head_depth=1), 2).eval()
    images, padded = torch.rand(1, 3, 50, 64), torch.zeros(1, 3, 64, 64)
    padded[:, :, :50] = images
    assert torch.equal(model(images)["p3"]["boxes"], model(padded)["p3"]["boxes"])


def test_a_new_model_expects_few_objects() -> None:
    model = build_model(ModelConfig("retinanet-test_resnet-fpn", channels=16, head_depth=1), 2).eval()
    probability = model(torch.rand(1, 3, 64, 64))["p3"]["classes"].sigmoid()
    torch.testing.assert_close(probability.mean().item(), 0.01, rtol=0.1, atol=0.0)


def test_the_same_seed_is_the_same_model() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_model(ModelConfig("fcos-test_resnet-fpn", channels=16), 2).state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ModelConfig("fcos"), ["unknown model.name 'fcos'", "HEAD-BACKBONE-NECK", "smp:DECODER/ENCODER"]),
        (ModelConfig("fcoss-resnet50-fpnn"), ["did you mean 'fcos'", "did you mean 'fpn'"]),
        (ModelConfig("fcos-resnet5O-fpn"), ["did you mean 'resnet50'"]),
        (ModelConfig("fcos-resnet50-fpn", levels="3-7"), ["such as p3-p7: got '3-7'"]),
        (ModelConfig("fcos-resnet50-fpn", levels="p5-p3"), ["between p2 and p7"]),
        (ModelConfig("fcos-resnet50-fpn", levels="p3-p9"), ["between p2 and p7"]),
    ],
)
def test_every_fault_is_named(config: ModelConfig, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build_model(config, 2)
    for word in words:
        assert word in str(caught.value)
