"""Every remedy for unequal classes: the same bits on any number of workers and through a resume; to rounding under other plans."""

import dataclasses
import json
import shutil

import pytest
import torch

from support.promises import BRANCHING, NARROW, SHARDED
from support.ranks import run_ranks
from support.small_runs import config_of, resumed_behind, trained
from support.states import checkpoint_tensors
from ziggurat.errors import UserError

TAIL = {"train.batch_size": 6, "train.microbatches": 3, "train.steps": 3, "data.count_classes": "always"}
REPEAT = {"data.balance": "repeat", "data.repeat_threshold": 0.7}
BY_INSTANCES = {"data.balance": "repeat-instances", "data.repeat_threshold": 0.9}
EQUALIZED = {"loss.detection": "equalized", "train.lr": 0.05}
RARE_CROPS = {"data.crop": 32, "data.rare_crops": 0.7, "data.scale_min": 1.0}
KEPT = {"train.checkpoint_every": 1, "checkpoint.keep": 3}
WEIGHTS = ",".join(str(1 + k / 4) for k in range(10))
CASES = {
    "repeat": ("detect", REPEAT),
    "repeat-instances": ("segment", BY_INSTANCES),
    "repeat of labels": ("classify", REPEAT),
    "inverse": ("classify", {"loss.class_weights": "inverse", "loss.smoothing": 0.1}),
    "inverse of objects": ("detect", {"loss.class_weights": "inverse"}),
    "effective": ("segment", RARE_CROPS | {"loss.class_weights": "effective", "loss.effective_beta": 0.9}),
    "given": ("detect", {"loss.class_weights": WEIGHTS, "model.name": "retinanet-test_resnet-fpn"}),
    "equalized": ("detect", EQUALIZED),
    "rare crops": ("segment", RARE_CROPS),
    "rare crops of objects": ("detect", BY_INSTANCES | RARE_CROPS | {"data.crops": "32,48"}),
    "all at once": (
        "detect",
        EQUALIZED
        | BY_INSTANCES
        | RARE_CROPS
        | {"loss.class_weights": "inverse", "model.name": "atss-test_resnet-fpn"},
    ),
}


# Between them every option, and all that one step has; the others are part of `make sweep`.
FIRST = ["repeat", "effective", "inverse", "all at once"]


def first_of(names):
    """Return each case as a parameter, the others than the first ones for the long tests."""
    return [pytest.param(name, marks=[] if name in FIRST else [pytest.mark.slow]) for name in names]


def unequal(task, settings):
    """Return a run on 8 scenes in which the digit 0 is 30 times as frequent as 9."""
    config = config_of(task, **(TAIL | settings))
    digits = dataclasses.replace(config.digits, imbalance=30.0, train_scenes=8)
    return dataclasses.replace(config, digits=digits)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return what a case comes to on one worker, each computed once, with its folder."""
    known = {}

    def run(name):
        if name not in known:
            folder = tmp_path_factory.mktemp("alone")
            config = unequal(CASES[name][0], CASES[name][1] | KEPT)
            known[name] = run_ranks(trained, 1, ("dp=1", folder, [config]))[0][0], folder / "dp=1-0"
        return known[name]

    return run


@pytest.mark.parametrize("name", first_of(CASES))
def test_the_same_bits_on_any_number_of_workers(alone, tmp_path, name):
    expected, folder = alone(name)
    config = unequal(CASES[name][0], CASES[name][1] | KEPT)
    for world in (2, 3, 4):
        for (outcome,) in run_ranks(trained, world, (f"dp={world}", tmp_path, [config])):
            assert outcome == expected, world
        tensors = [
            checkpoint_tensors(one / "checkpoints" / "step-3") for one in (folder, tmp_path / f"dp={world}-0")
        ]
        assert tensors[0].keys() == tensors[1].keys()
        for key, value in tensors[0].items():
            assert torch.equal(value, tensors[1][key]), key


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", first_of(CASES))
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_goes_on_in_the_same_bits(alone, tmp_path, name, step):
    """The second step ends the first epoch of most; what the equalized loss has summed up comes back with the weights."""
    (digest, steps, metrics), folder = alone(name)
    for said in resumed_behind(folder, tmp_path / "run", step, 3):
        assert said == (digest, steps[-1][0], metrics)


def test_what_is_accumulated_changes_the_weights(alone, tmp_path):
    """So a resume that had lost it would be seen."""
    (digest, *_), folder = alone("equalized")
    shutil.copytree(folder, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints"
    shutil.rmtree(checkpoint / "step-3")
    assert checkpoint_tensors(checkpoint / "step-2")["loss.accumulated"].any()
    config = unequal("detect", EQUALIZED | KEPT | {"loss.equalized_scale": 0.0})
    ((other, *_),) = run_ranks(trained, 1, ("dp=1", tmp_path, [config]))[0]
    assert other != digest


PLANS = {
    "sp=2": ({}, 1e-4),
    "pp=2": ({}, 0.0),
    "lp=2": (BRANCHING.get("detect", {}), 1e-5),
    "tp=2": (NARROW, 1e-4),
    "fsdp=2": (SHARDED, 0.0),
    "dp=2,sp=2": ({}, 1e-4),
    "dp=2,pp=2": ({}, 0.0),
}
LONG = ("dp=2,sp=2", "dp=2,pp=2", "fsdp=2")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("plan", [pytest.param(p, marks=[pytest.mark.slow] * (p in LONG)) for p in PLANS])
def test_other_plans_accumulate_the_same(tmp_path, plan):
    settings, tolerance = PLANS[plan]
    config = unequal(
        "detect", EQUALIZED | {"loss.class_weights": "inverse", "model.norm": "group"} | settings
    )
    world = 4 if "," in plan else 2
    found = []
    for one, workers in (("dp=1", 1), (plan, world)):
        outcomes = run_ranks(trained, workers, (one, tmp_path, [config]))
        assert len({repr(outcome) for outcome in outcomes}) == 1, "the workers agree"
        found.append(checkpoint_tensors(tmp_path / f"{one}-0" / "checkpoints" / "step-3")["loss.accumulated"])
    torch.testing.assert_close(found[1], found[0], rtol=tolerance, atol=0)
    assert found[0].count_nonzero() > 10, "of each class the negatives, and of some the positives"


def test_metrics_of_an_epoch_count_repeats(tmp_path, alone):
    _, folder = alone("repeat")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    images = [line["images"] for line in lines if line["kind"] == "train"]
    epochs = [line["epoch"] for line in lines if line["kind"] == "train"]
    assert sum(count for count, epoch in zip(images, epochs, strict=True) if epoch == 0) > 8


def test_a_single_image_for_a_batch_norm_is_refused_before_the_first_step(tmp_path):
    settings = REPEAT | {
        "model.name": "smp:upernet/tu-test_resnet",
        "model.channels": 32,
        "train.microbatches": 3,
        "train.steps": 40,
    }
    config = unequal("segment", settings)
    with pytest.raises(RuntimeError, match="of this run ends in a microbatch of one") as caught:
        run_ranks(trained, 1, ("dp=1", tmp_path, [config]))
    assert isinstance(caught.value.__cause__, UserError)
    assert not (tmp_path / "dp=1-0" / "config.yaml").exists()
