"""Frozen parts stay as they are, under any plan; the rest is trained as on one worker."""

import pytest
import torch

from support.commands import TINY
from support.ranks import run_ranks
from support.small_runs import assert_alike, config_of, trained, weights_of
from ziggurat.cli.main import main
from ziggurat.config import ModelConfig, RunConfig, override
from ziggurat.errors import UserError
from ziggurat.models.build import build_model
from ziggurat.parallel.graph.generators import seed_everything
from ziggurat.training.freezing import freeze, freezing_notes
from ziggurat.training.optimization import make_optimizer

DETECTOR = ModelConfig(name="fcos-test_resnet-fpn", levels="p3-p5", channels=16, head_depth=1, norm="frozen")
TRAIN = {"train.freeze": "backbone", "model.norm": "frozen", "train.ema": 0.0}


@pytest.mark.parametrize(
    ("name", "parts", "frozen"),
    [
        ("fcos-test_resnet-fpn", "backbone", "backbone."),
        (
            "fcos-test_resnet-fpn",
            "backbone.body.conv1, backbone.body.layer1",
            "backbone.body.conv1 backbone.body.layer1",
        ),
        ("fcos-test_resnet-fpn", "head", "head."),
        ("timm:test_resnet", "backbone", "body.conv1 body.layer"),
        ("smp:unet/tu-test_resnet", "backbone", "body.encoder."),
        ("spp-test_resnet", "backbone", "body.backbone."),
    ],
)
def test_the_parts_that_are_named_are_out_of_the_optimizer(name, parts, frozen):
    model = build_model(ModelConfig(name=name, levels="p3-p5"), 3)
    before = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert freeze(model, parts) > 0
    left = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert left < before
    assert not any(name.startswith(part) for name in left for part in frozen.split())
    groups = make_optimizer(model, RunConfig().train).param_groups
    assert sum(len(group["params"]) for group in groups) == len(left)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("backbon", "did you mean 'backbone'?"),
        ("head.classs", "did you mean 'head.class"),
        ("backbone,nothing.at.all", "names no part of the network: 'nothing.at.all'"),
        ("backbone,neck,head", "leaves nothing to be trained"),
    ],
)
def test_what_cannot_be_frozen(parts, message):
    with pytest.raises(UserError) as caught:
        freeze(build_model(DETECTOR, 3), parts)
    assert message in str(caught.value)


def test_it_is_refused_before_anything_starts_and_what_is_hardly_meant_is_said(tmp_path, capfd):
    words = ["train", "digits", "--plan", "dp=1", "--out", str(tmp_path / "run"), *TINY, "--set"]
    assert main([*words, "train.freeze=bakbone"]) == 2
    assert "did you mean 'backbone'?" in capfd.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()
    config = override(RunConfig(), {"train.freeze": "backbone"})
    assert len(freezing_notes(config, has_batch_norms=True)) == 2
    assert (
        freezing_notes(override(config, {"model.norm": "frozen", "model.weights": "x"}), has_batch_norms=True)
        == []
    )
    assert freezing_notes(RunConfig(), has_batch_norms=True) == []


PLANS = {"dp=2": 0.0, "sp=2": 1e-4, "pp=2": 1e-4, "tp=2": 1e-4, "lp=2": 1e-4, "fsdp=2": 1e-4}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frozen")
    (result,) = run_ranks(trained, 1, ("dp=1", folder, [config_of("detect", **TRAIN)]))
    return result[0], weights_of(folder / "dp=1-0")


def test_the_backbone_stays_and_the_rest_moves(alone):
    seed_everything(0)
    first = build_model(DETECTOR, 10).state_dict()
    moved = {name for name, value in alone[1].items() if not torch.equal(value, first[name])}
    assert moved
    assert not any(name.startswith("backbone.") for name in moved)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_changes_nothing(plan, alone, tmp_path):
    narrow = {"tensor.min_width": 8, "model.head_depth": 2} if plan == "tp=2" else {}
    if narrow:  # a pair of layers that is split
        (one,) = run_ranks(trained, 1, ("dp=1", tmp_path, [config_of("detect", **TRAIN, **narrow)]))
        alone = one[0], weights_of(tmp_path / "dp=1-0")
    results = run_ranks(trained, 2, (plan, tmp_path, [config_of("detect", **TRAIN, **narrow)]))
    assert results[0] == results[1]
    if not PLANS[plan]:
        assert results[0][0] == alone[0]
    assert_alike(weights_of(tmp_path / f"{plan}-0"), alone[1], PLANS[plan] or 1e-12)
