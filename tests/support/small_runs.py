"""Small runs of every task on scenes of 64 pixels, which the tests of strategies train, resume and compare."""

import dataclasses
import json
import shutil

import torch
from safetensors.torch import load_file

from support.ranks import run_ranks
from ziggurat.config import DigitsConfig, RunConfig, load_config, override
from ziggurat.training.loop import train

SCENES = DigitsConfig(
    size=64, count_min=1, count_max=2, height_min=12, height_max=48, train_scenes=8, val_scenes=3
)
SMALL = {
    "data.path": "digits", "data.crop": 64, "data.workers": 0, "device": "cpu", "threads": 1, "dtype": "fp32",
    "model.levels": "p3-p5", "model.channels": 16, "model.head_depth": 1, "decode.max_detections": 5,
    "train.batch_size": 4, "train.microbatches": 2, "train.steps": 2, "train.warmup": 0, "train.optimizer": "sgd",
    "train.lr": 0.01, "data.flip": "both", "data.quarter_turns": True, "data.color_jitter": 0.2,
    "train.report": "numbers",  # tests/report draw
}  # fmt: skip
TASKS = {
    "detect": {"model.name": "fcos-test_resnet-fpn"},
    "classify": {"model.name": "pnn", "model.pnn.channels": 8, "data.resize": 64},
    "segment": {"model.name": "smp:unet/tu-test_resnet", "loss.segmentation": "focal+dice"},
}


def config_of(task, **settings):
    config = override(RunConfig(), SMALL | {"task": task} | TASKS[task] | settings)
    return dataclasses.replace(config, digits=SCENES)


def trained(workers, plan, folder, configs):
    """Return of each config the hash of the weights, the loss, and every number of the steps."""
    results = []
    for number, config in enumerate(configs):
        out = folder / f"{plan}-{number}"
        result = train(workers, dataclasses.replace(config, plan=plan), out)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        steps = [(one["loss"], one["gradient_norm"]) for one in lines if one["kind"] == "train"]
        results.append((result["weights_sha256"], steps, result["metrics"]))
    return results


def resumed(workers, plan, folder):
    return train(
        workers, dataclasses.replace(load_config(folder / "config.yaml"), plan=plan), folder, resume=True
    )


def resumed_behind(folder, copy, step, last):
    """Return what each of two workers says that goes on with a copy of a run behind a step, whose later checkpoints are gone."""
    shutil.copytree(folder, copy)
    for later in range(step + 1, last + 1):
        shutil.rmtree(copy / "checkpoints" / f"step-{later}")
    results = run_ranks(resumed, 2, ("dp=2", copy))
    return [(result["weights_sha256"], result["loss"], result["metrics"]) for result in results]


def skipped(workers, plan, folder, config):
    """Return what a run has left out, as it says and as it lists it, and its weights."""
    result = train(workers, dataclasses.replace(config, plan=plan), folder / plan)
    lines = (folder / plan / "skipped.jsonl").read_text().splitlines()
    return result["skipped"], [json.loads(line) for line in lines], result["weights_sha256"]


EMA = {"train.ema": 0.9, "train.optimizer": "adamw", "train.lr": 1e-3}


def weights_of(folder):
    return load_file(folder / "weights.safetensors")


def assert_alike(one, other, tolerance=1e-5):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(
            other[name].double(), tensor.double(), rtol=tolerance, atol=tolerance, msg=name
        )
