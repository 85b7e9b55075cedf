"""The small data that cases run on: a set of boxes, one of labels, one of masks, a run, and a config."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ziggurat.cli.main import main

HEADER = "image,xmin,ymin,xmax,ymax,label"
ROWS = ("0.png,2,3,20,25,oak", "0.png,10,10,30,30,elm", "1.png,5,5,25,28,oak", "2.png,1,1,9,9,elm")
TINY = (
    "--threads", "1", "--batch-size", "4", "--steps", "1", "--device", "cpu", "--dtype", "fp32", "--set", "data.crop=32",
    "data.workers=0", "train.warmup=0", "train.report=numbers",
)  # fmt: skip
SCENES = (
    "--set", "digits.size=32", "digits.height_max=24", "digits.train_scenes=4", "digits.val_scenes=2",
)  # fmt: skip
MODELS = {
    "detect": (
        "--model",
        "fcos-test_resnet-fpn",
        "--set",
        "model.channels=8",
        "model.head_depth=1",
        "model.levels=p3-p5",
    ),
    "classify": ("--model", "pnn", "--set", "model.pnn.channels=4", "model.pnn.hidden=8"),
    "segment": ("--model", "smp:unet/tu-test_resnet"),
}
CONFIG = """task: detect
plan: dp=1
seed: 3
threads: 1
dtype: fp32
device: cpu
model:
  name: fcos-test_resnet-fpn
  levels: p3-p5
  channels: 8
  head_depth: 1
  norm: batch
data:
  path: digits
  crop: 32
  workers: 0
  flip: none
digits:
  size: 32
  height_max: 24
  train_scenes: 4
  val_scenes: 2
decode:
  score_threshold: 0.1
train:
  steps: 1
  batch_size: 4
  lr: 0.001
  warmup: 0
  report: numbers
"""


@dataclass(frozen=True)
class Place:
    """Where the data of all cases lie; cases only read them.

    Attributes:
        folder: Of all of it.
    """

    folder: Path

    @property
    def images(self) -> Path:
        """Three images of noise."""
        return self.folder / "images"

    @property
    def run(self) -> Path:
        """A run that has ended well."""
        return self.folder / "run"


def make_place(folder: Path) -> Place:
    """Make the data, and train the run."""
    place = Place(folder)
    place.images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 255, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place.images / f"{number}.png")
    words = [
        "train",
        "digits",
        "--plan",
        "dp=1",
        "--out",
        str(place.run),
        "--quiet",
        *TINY,
        *SCENES,
        *MODELS["detect"],
    ]
    assert main(words) == 0
    shutil.rmtree(place.run / "checkpoints")
    return place


def write_csv(place: Place, folder: Path, text: bytes) -> Path:
    """Write a CSV file beside links to the images."""
    folder.mkdir(parents=True)
    for image in place.images.iterdir():
        (folder / image.name).symlink_to(image)
    path = folder / "boxes.csv"
    path.write_bytes(text)
    return path
