"""What is the pyramid worth? The same backbone and budget, with and without it, by the size of the objects.

Detection: one level (p3), then FPN, PAFPN and BiFPN over p3 to p5. Classification: a network that sees one scale,
spatial pyramid pooling, and the image-pyramid network. All on the embedded data set, each from the same seed, with the
same number of steps and samples. A difference below the spread over seeds (``--seeds``) says nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ziggurat.config import override
from ziggurat.data.formats import open_dataset
from ziggurat.demo import DEMOS
from ziggurat.evaluate import evaluate_model, ground_truth
from ziggurat.models.build import build_model
from ziggurat.parallel.workers import Workers
from ziggurat.plans.mesh import make_mesh
from ziggurat.report.matching import at_least, match
from ziggurat.run import load_run
from ziggurat.start import start_training
from ziggurat.tasks.drawing import PICTURE_SCORE
from ziggurat.tasks.make import make_task

BINS = ((12, 20), (20, 34), (34, 65))  # heights of digits, in pixels
DETECTORS: dict[str, dict[str, Any]] = {
    "one level, p3": {"model.name": "fcos-resnet10t-fpn", "model.levels": "p3"},
    "fpn": {"model.name": "fcos-resnet10t-fpn", "model.levels": "p3-p5"},
    "pafpn": {"model.name": "fcos-resnet10t-pafpn", "model.levels": "p3-p5"},
    "bifpn": {"model.name": "fcos-resnet10t-bifpn", "model.levels": "p3-p5"},
}
CLASSIFIERS: dict[str, dict[str, Any]] = {
    "one scale (pnn of one level)": {"model.name": "pnn", "model.pnn.levels": 1},
    "pnn, three levels": {"model.name": "pnn", "model.pnn.levels": 3},
    "one scale (resnet10t)": {"model.name": "timm:resnet10t"},
    "spp (resnet10t)": {"model.name": "spp-resnet10t"},
}


def found_by_size(run: Any, workers: Workers) -> dict[str, Any]:
    """Return map50, and the share of objects of each size that are found and rightly named (IoU 0.5)."""
    dataset = open_dataset("digits", "val", "detect", run.config.data, run.config.digits)
    evaluation = evaluate_model(
        run.model, make_task(run.model, run.config), dataset, run.config, make_mesh(workers)
    )
    heights, hits = [], []
    for index, detections in enumerate(evaluation.predictions):
        truth = ground_truth(dataset, index)
        shown = at_least(detections, PICTURE_SCORE)
        # the best detection of any class that lies on an object speaks for it
        takers = {o: d for d, o in enumerate(match(shown, truth, same_class=False).tolist())}
        heights += (truth.boxes_xyxy[:, 3] - truth.boxes_xyxy[:, 1]).tolist()
        hits += [
            number in takers and bool(shown.labels[takers[number]] == label)
            for number, label in enumerate(truth.labels)
        ]
    return {"map50": evaluation.metrics["map50"], **by_size(heights, hits)}


def right_by_size(run: Any, workers: Workers) -> dict[str, Any]:
    """Return top1, for all scenes and for those of each size."""
    dataset = open_dataset("digits", "val", "classify", run.config.data, run.config.digits)
    evaluation = evaluate_model(
        run.model, make_task(run.model, run.config), dataset, run.config, make_mesh(workers)
    )
    labels = torch.tensor([dataset.label(index) for index in range(len(dataset))])
    hits = (evaluation.predictions.argmax(dim=1) == labels).tolist()
    return {
        "top1": evaluation.metrics["top1"],
        **by_size([dataset.height(i) for i in range(len(dataset))], hits),
    }


def by_size(heights: list[float], hits: list[bool]) -> dict[str, float]:
    """Return the share of hits among the objects of each range of heights."""
    of_object, right = np.array(heights), np.array(hits, dtype=float)
    return {
        f"{low}-{high - 1}": float(right[(of_object >= low) & (of_object < high)].mean())
        for low, high in BINS
    }


def measure(task: str, settings: dict[str, Any], seed: int, steps: int, plan: str) -> dict[str, Any]:
    """Train one variant and measure it."""
    fixed = {
        "seed": seed,
        "train.steps": steps,
        "plan": plan,
        "digits.height_min": 12,
        "digits.height_max": 64,
    }
    with tempfile.TemporaryDirectory() as folder:
        result = start_training("digits", settings | fixed, f"{folder}/run", defaults=DEMOS[task])
        assert result is not None
        run = load_run(Path(folder) / "run")
        measured = (found_by_size if task == "detect" else right_by_size)(run, Workers())
    model = build_model(override(DEMOS[task], settings).model, 10)
    count = sum(parameter.numel() for parameter in model.parameters())
    return measured | {"parameters": count, "images_per_second": result["images_per_second"]}


def main() -> None:
    """Measure every variant, print the tables and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200, help="optimizer steps of each variant")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each variant")
    parser.add_argument("--plan", default="dp=2")
    parser.add_argument("--tasks", nargs="+", default=["detect", "classify"], choices=["detect", "classify"])
    options = parser.parse_args()
    tables: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for task, variants in (("detect", DETECTORS), ("classify", CLASSIFIERS)):
        if task not in options.tasks:
            continue
        tables[task] = {}
        for name, settings in variants.items():
            runs = [
                measure(task, settings, seed, options.steps, options.plan) for seed in range(options.seeds)
            ]
            tables[task][name] = runs
            medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            cells = "  ".join(f"{k} {v:.3f}" for k, v in medians.items() if isinstance(v, float) and v <= 1)
            print(f"{task:9} {name:30} {cells}  {medians['parameters'] / 1e6:.2f} M", flush=True)
    result = {
        "steps": options.steps,
        "seeds": options.seeds,
        "plan": options.plan,
        "torch": torch.__version__,
        "processor": platform.processor(),
        "tables": tables,
    }
    Path(__file__).with_name("results.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
