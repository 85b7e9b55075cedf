"""The commands as a user runs them, for the tests of every plan: train, evaluate and predict on small data."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from support.words import sets as sets
from ziggurat.cli.main import main

BARE = [
    "--threads", "1", "--batch-size", "4", "--steps", "2", "--set", "data.crop=64", "--set", "data.workers=0", "--set", "device=cpu",
    "--set", "digits.size=64", "--set", "digits.height_max=40", "--set", "digits.train_scenes=8",
    "--set", "digits.val_scenes=3", "--set", "train.warmup=0",
]  # fmt: skip
"""A run of seconds: two steps of whatever model."""
TINY = [
    *BARE, "--model", "fcos-test_resnet-fpn", "--set", "model.levels=p3-p5", "--set", "model.channels=16", "--set",
    "model.head_depth=1",
]  # fmt: skip
"""A run of seconds: two steps of a small detector."""


def run_here(*words, faults=""):
    """Run a command in this process, as `sweep.bits.command` does in one of its own, which imports everything again."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        status = main([*(str(word) for word in words), "--json"])
    if status:
        raise RuntimeError(f"{words} ended with {status}")
    return json.loads(text.getvalue().strip().splitlines()[-1])


def run(capfd, *arguments):
    """Run a command that ends well, and return its JSON object."""
    assert main([str(argument) for argument in arguments]) == 0
    return json.loads(capfd.readouterr().out.strip().splitlines()[-1])


def metrics_under(capfd, out, plans):
    """Return the metrics of a run on the embedded data set, evaluated under each plan."""
    one = ("--threads", 1, "--json")
    return [run(capfd, "evaluate", out, "digits", "--plan", plan, *one)["metrics"] for plan in plans]


def noise_images(folder, suffix="png", count=3):
    """Write images of different widths: each is a batch of its own."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(count):
        images.append(folder / f"{number}.{suffix}")
        Image.fromarray(rng.integers(0, 255, (60, 90 + number, 3), dtype=np.uint8)).save(images[-1])
    return images


def predictions_under(capfd, out, plans, images, *more):
    """Return the predictions of a run for images, under each plan; the plan's name in paths is left out."""
    found = []
    for plan in plans:
        folder = out.parent / plan
        run(capfd, "predict", out, *images, "--plan", plan, "--threads", 1, "--out", folder, "--json", *more)
        text = (folder / "predictions.json").read_text()
        found.append(json.loads(text.replace(plan, "PLAN")))
    return found


def mostly_slow(tasks, first):
    """Return the tasks as parameters of a test, of which all but the first one belong to the long tests."""
    return [task if task == first else pytest.param(task, marks=pytest.mark.slow) for task in tasks]
