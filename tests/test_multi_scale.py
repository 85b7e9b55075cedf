"""Multi-scale training: images have another size in every step, under every plan that of one worker.

Under dp alone the weights are the same bits; under sp, pp, lp, tp and fsdp loss and metrics are equal to rounding.
"""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from support.commands import run, sets
from support.small_runs import SCENES, SMALL, TASKS
from ziggurat.config import DataConfig, RunConfig, override, range_faults
from ziggurat.data.batch import SampleId
from ziggurat.data.crop_sizes import CropShape, crop_size
from ziggurat.data.samples import TrainingSamples
from ziggurat.tasks.detection.targets import ObjectKind
from ziggurat.tasks.opening import open_dataset

PLANS = ["dp=2", "sp=2", "pp=2", "dp=2,pp=2", "lp=2", "tp=2", "fsdp=2"]
SIDES = "48,64,80"
SETTINGS = (
    SMALL
    | TASKS["detect"]
    | {"data.crops": SIDES, "train.steps": 3, "decode.score_threshold": 0.0, "decode.max_detections": 100}
    | {"model.head_depth": 2, "tensor.min_width": 8}  # a pair of layers that tp splits
)


def trained(capfd, folder, data, plan, settings):
    """Return what the command says, the losses of the steps, and the weights."""
    out = folder / plan
    result = run(capfd, "train", data, "--plan", plan, "--out", out, "--json", *sets(settings, plan=plan))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    return result, losses, load_file(out / "weights.safetensors")


def check_plans(capfd, folder, data, settings, plans, tolerance=1e-4, of_weights=1):
    """Compare losses, metrics and weights of each plan with those of one worker; return the metrics."""
    alone, losses, weights = trained(capfd, folder, data, "dp=1", settings)
    for plan in plans:
        result, found, others = trained(capfd, folder, data, plan, settings)
        if plan == "dp=2":
            assert result["weights_sha256"] == alone["weights_sha256"]
            assert (found, result["metrics"]) == (losses, alone["metrics"])
            continue
        assert found == pytest.approx(losses, rel=tolerance), plan
        assert numbers(result["metrics"]) == pytest.approx(numbers(alone["metrics"]), abs=tolerance), plan
        for name, weight in weights.items():
            apart = (others[name].double() - weight.double()).norm() / weight.double().norm().clamp(min=1)
            assert apart < of_weights * tolerance, (plan, name)
    config = override(RunConfig(), settings)
    sides = {crop_size(config.data, config.seed, step) for step in range(len(losses))}
    assert len(sides) > 1, "sizes change"
    return alone["metrics"]


def numbers(metrics):
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def digits(**settings):
    scenes = {f"digits.{key}": value for key, value in dataclasses.asdict(SCENES).items()}
    return SETTINGS | scenes | settings


def test_every_plan_on_the_demo(tmp_path, capfd):
    check_plans(capfd, tmp_path, "digits", digits(), PLANS)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "segment"])
def test_the_other_tasks(tmp_path, capfd, task):
    metrics = check_plans(capfd, tmp_path, "digits", digits(task=task) | TASKS[task], PLANS, 2e-3)
    assert any(value > 0 for value in numbers(metrics).values()), "there is something to compare"


@pytest.mark.slow
@pytest.mark.timeout(1800)  # eight plans of 24 steps
def test_every_plan_on_photographs(trees, tmp_path, capfd):
    sizes = {"data.crop": 256, "data.crops": "192,256,320"}
    settings = SETTINGS | sizes | {"train.steps": 24, "train.optimizer": "adamw", "train.lr": 2e-3}
    # (AdamW divides by the gradient's size: where that is hardly more than rounding, a weight goes another way)
    # (half a million weights would learn too little: hits by chance would be compared)
    settings |= {"model.name": "fcos-resnet10t-fpn", "model.norm": "group", "decode.max_detections": 300}
    metrics = check_plans(capfd, tmp_path, trees, settings, [*PLANS, "sp=2,pp=2"], 1e-2, of_weights=5)
    assert metrics["map50"] > 0, "there is something to compare"


def test_a_side_is_a_function_of_seed_and_step():
    config = DataConfig(crops="32,64,96,128")
    sides = [crop_size(config, 3, step) for step in range(64)]
    assert sides == [crop_size(config, 3, step) for step in range(64)]
    assert sides != [crop_size(config, 4, step) for step in range(64)]
    assert set(sides) == {32, 64, 96, 128}


def test_a_crop_of_another_side_shows_the_same():
    """The same window of the image, at another resolution."""
    config = override(RunConfig(), digits(**{"data.color_jitter": 0.0}))
    dataset = open_dataset("digits", "train", "detect", config.data, config.digits)
    samples = TrainingSamples(dataset, ObjectKind(), config.data, seed=1)
    for number in range(4):
        small, large = (samples.at(CropShape(side)).sample(SampleId(0, number)) for side in (64, 96))
        assert (small.image_CHW.shape, large.image_CHW.shape) == ((3, 64, 64), (3, 96, 96))
        enlarged = torch.nn.functional.interpolate(small.image_CHW[None].float(), size=96, mode="bilinear")
        assert (enlarged[0] - large.image_CHW).abs().mean() < 12  # of 255
        boxes = small.target.boxes_xyxy * 1.5
        assert boxes.shape == large.target.boxes_xyxy.shape
        assert (boxes - large.target.boxes_xyxy).abs().max() <= 3


@pytest.mark.parametrize("text", ["64,,96", "64,0", "-64", "a", "64;96"])
def test_wrong_sides_are_named(text):
    faults = range_faults(override(RunConfig(), {"data.crops": text}))
    assert faults == [
        f"data.crops must name sides of 8 to 65536 pixels with commas between, such as 448,512: got '{text}'"
    ]
    assert range_faults(override(RunConfig(), {"data.crops": " 64, 96"})) == []
