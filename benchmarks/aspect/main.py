"""What do steps of images of like aspect ratio save? Pixels of crops, counted, and the processor's seconds of a step.

Made-up photographs of the shapes that cameras have, whole in their crops: two thirds wide, a quarter high, a few square. Every case trains
an epoch of the same samples with the same network; the seconds are of this process, from the end of the second step on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ziggurat.commands.train import train

SHAPES = (
    (3, 4),
    (3, 4),
    (3, 4),
    (2, 3),
    (2, 3),
    (9, 16),
    (4, 3),
    (4, 3),
    (3, 2),
    (1, 1),
)  # rows to columns, as often
FIXED: dict[str, Any] = {
    "task": "detect", "data.flip": "horizontal", "data.workers": 0, "train.warmup": 0, "train.optimizer": "sgd", "train.lr": 0.01,
    "train.microbatches": 1, "train.checkpoint_every": 0, "train.report": "numbers", "threads": 1, "dtype": "fp32", "plan": "dp=1",
}  # fmt: skip
WITHOUT_JITTER = {"data.scale_min": 1.0, "data.scale_max": 1.0}
CASES: dict[str, dict[str, Any]] = {
    "square crops": {},
    "aspect_grouping=1": {"data.aspect_grouping": 1},
    "aspect_grouping=3": {"data.aspect_grouping": 3},
    "square crops, no jitter": WITHOUT_JITTER,
    "aspect_grouping=3, no jitter": WITHOUT_JITTER | {"data.aspect_grouping": 3},
}


def write_photographs(folder: Path, number: int, longest: int) -> Path:
    """Write images with a bright square each; return the annotation file."""
    images, annotations = [], []
    for one in range(number):
        shape = SHAPES[one % len(SHAPES)]
        rows, columns = (round(longest * side / max(shape)) for side in shape)
        pixels = np.random.default_rng(one).integers(0, 90, (rows, columns, 3), dtype=np.uint8)
        pixels[10:30, 10:30] += 120
        Image.fromarray(pixels).save(folder / f"{one}.png")
        images.append({"id": one, "file_name": f"{one}.png", "width": columns, "height": rows})
        annotations.append({"id": one, "image_id": one, "category_id": 1, "bbox": [10, 10, 20, 20], "iscrowd": 0, "area": 400})  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (folder / "set.json").write_text(json.dumps(content))
    return folder / "set.json"


def measure(data: Path, settings: dict[str, Any]) -> dict[str, float | str]:
    """Train an epoch; return the padding that the run tells, and the processor's seconds of a step."""
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            str(data), FIXED | settings, f"{folder}/run", on_step=lambda row: ends.append(time.process_time())
        )
    assert result is not None
    said = next((note for note in result["notes"] if "padding" in note), "")
    seconds = [later - earlier for earlier, later in itertools.pairwise(ends[1:])]
    return {"said": said, "step_seconds": statistics.fmean(seconds), "loss": result["loss"]}


def main(arguments: list[str] | None = None) -> None:
    """Measure each case, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=80)
    parser.add_argument(
        "--longest", type=int, default=256, help="longer side of the images, and side of the crops"
    )
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    model = {"model.name": "fcos-resnet18-fpn", "train.batch_size": 8, "train.epochs": 1}
    if options.quick:
        options.seeds, options.images, options.longest = 1, 10, 128
        model = {
            "model.name": "fcos-test_resnet-fpn",
            "model.channels": 16,
            "train.batch_size": 2,
            "train.epochs": 1,
        }
    with tempfile.TemporaryDirectory() as folder:
        data = write_photographs(Path(folder), options.images, options.longest)
        found: dict[str, list[dict[str, float | str]]] = {name: [] for name in CASES}
        for seed in range(options.seeds):
            for name, case in list(CASES.items())[: 3 if options.quick else None]:
                found[name].append(measure(data, model | case | {"data.crop": options.longest, "seed": seed}))
                print(name, seed, found[name][-1], flush=True)
    print(json.dumps({"torch": torch.__version__, "machine": platform.processor(), "cases": found}))


if __name__ == "__main__":
    main()
