"""What is the pyramid worth? The same backbone and budget, with and without it, by the size of the objects.

Detection: each of p2, p3, p4 alone, then FPN, PAFPN and BiFPN over all three, with the head ATSS. Alone, a level finds
positives for fewer objects (``positives``): a part of what it is behind. The control has FCOS on p3 alone and on p3 to p5: its
finest level takes whatever ends within eight strides of a position, here every digit, so that both train on the same
positives of p3, and differ only in what p3 has seen. Classification: a network that sees one scale, spatial pyramid
pooling, and the image-pyramid network. All on the embedded data set, each from the same seed, with the same number of
steps and samples. A difference below the spread over seeds (``--seeds``) says nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ziggurat.commands.train import train as start_training
from ziggurat.config import RunConfig, override
from ziggurat.data.batch import Microbatch, SampleId
from ziggurat.data.dataset import Dataset
from ziggurat.data.samples import TrainingSamples
from ziggurat.inference.evaluate import Evaluation, evaluate_model
from ziggurat.inference.tiles import place_as_configured
from ziggurat.metrics.matching import match
from ziggurat.models.build import build_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.runs.folder import Run, load_run
from ziggurat.strategies.mesh import make_mesh
from ziggurat.system.platform import processor_name
from ziggurat.tasks.detection.metric import ground_truth
from ziggurat.tasks.opening import open_dataset
from ziggurat.tasks.registry import TASKS, make_task

VAL_SCENES = 1000
BINS = ((12, 20), (20, 34), (34, 65))  # heights of digits, in pixels
DETECTORS: dict[str, dict[str, Any]] = {
    "atss, p2 alone": {"model.name": "atss-resnet10t-fpn", "model.levels": "p2"},
    "atss, p3 alone": {"model.name": "atss-resnet10t-fpn", "model.levels": "p3"},
    "atss, p4 alone": {"model.name": "atss-resnet10t-fpn", "model.levels": "p4"},
    "atss, fpn": {"model.name": "atss-resnet10t-fpn", "model.levels": "p2-p4"},
    "atss, pafpn": {"model.name": "atss-resnet10t-pafpn", "model.levels": "p2-p4"},
    "atss, bifpn": {"model.name": "atss-resnet10t-bifpn", "model.levels": "p2-p4"},
    "fcos, p3 alone": {"model.name": "fcos-resnet10t-fpn", "model.levels": "p3"},
    "fcos, fpn": {"model.name": "fcos-resnet10t-fpn", "model.levels": "p3-p5"},
}
CLASSIFIERS: dict[str, dict[str, Any]] = {
    "one scale (pnn of one level)": {"model.name": "pnn", "model.pnn.levels": 1},
    "pnn, three levels": {"model.name": "pnn", "model.pnn.levels": 3},
    # from ImageNet weights: from random ones ResNet-10-T was at chance after so few steps
    "one scale (lite0)": {
        "model.name": "timm:tf_efficientnet_lite0",
        "model.weights": "lite0",
        "train.lr": 1e-3,
    },
    "spp (lite0)": {"model.name": "spp-tf_efficientnet_lite0", "model.weights": "lite0", "train.lr": 1e-3},
}

QUICK = {
    "data.crop": 64, "digits.size": 64, "digits.train_scenes": 8, "digits.val_scenes": 40,
    "train.batch_size": 4, "train.microbatches": 2, "data.workers": 0,
}  # fmt: skip
QUICK_MODELS: dict[str, dict[str, Any]] = {
    "detect": {
        "model.name": "atss-test_resnet-fpn", "model.levels": "p3-p5", "model.channels": 16, "model.head_depth": 1,
    },
    "classify": {"model.name": "pnn", "model.pnn.channels": 8, "data.resize": 64},
}  # fmt: skip


def evaluated(run: Run, workers: Workers, dataset: Dataset) -> Evaluation:
    """Measure the model of a run on a data set."""
    executor = place_as_configured(run.model, run.config, make_mesh(workers))
    return evaluate_model(executor, make_task(run.model, run.config), dataset, run.config)


def found_by_size(run: Run, workers: Workers) -> dict[str, Any]:
    """Return map50, and the share of objects of each size that are found and rightly named (IoU 0.5)."""
    dataset = open_dataset("digits", "val", "detect", run.config.data, run.config.digits)
    evaluation = evaluated(run, workers, dataset)
    heights, hits = [], []
    for index, detections in enumerate(evaluation.metric.found):
        truth = ground_truth(dataset, index)
        # the best detection of any class that lies on an object speaks for it
        takers = {o: d for d, o in enumerate(match(detections, truth, same_class=False).tolist())}
        heights += (truth.boxes_xyxy[:, 3] - truth.boxes_xyxy[:, 1]).tolist()
        hits += [
            number in takers and bool(detections.labels[takers[number]] == label)
            for number, label in enumerate(truth.labels)
        ]
    return {"map50": evaluation.metrics["map50"], **by_size(heights, hits)}


def right_by_size(run: Run, workers: Workers) -> dict[str, Any]:
    """Return top1, for all scenes and for those of each size."""
    dataset = open_dataset("digits", "val", "classify", run.config.data, run.config.digits)
    evaluation = evaluated(run, workers, dataset)
    labels = torch.tensor([dataset.label(index) for index in range(len(dataset))])
    hits = (evaluation.metric.probabilities.argmax(dim=1) == labels).tolist()
    return {
        "top1": evaluation.metrics["top1"],
        **by_size([dataset.height(i) for i in range(len(dataset))], hits),
    }


def by_size(heights: list[float], hits: list[bool]) -> dict[str, Any]:
    """Return the share of hits among the objects of each range of heights, and how many these are."""
    of_object, right = np.array(heights), np.array(hits, dtype=float)
    result: dict[str, Any] = {}
    for low, high in BINS:
        inside = right[(of_object >= low) & (of_object < high)]
        result |= {f"{low}-{high - 1}": float(inside.mean()), f"objects {low}-{high - 1}": len(inside)}
    return result


def measure(task: str, settings: dict[str, Any], seed: int, steps: int, plan: str) -> dict[str, Any]:
    """Train one variant and measure it."""
    fixed = {
        "seed": seed,
        "train.steps": steps,
        "plan": plan,
        "digits.height_min": 12,
        "digits.height_max": 64,
        "digits.val_scenes": VAL_SCENES,
    }
    with tempfile.TemporaryDirectory() as folder:
        given = fixed | settings
        start_training("digits", given, f"{folder}/run", defaults=TASKS[task].demo())
        run = load_run(Path(folder) / "run")
        measured = (found_by_size if task == "detect" else right_by_size)(run, Workers())
    config = override(TASKS[task].demo(), given)
    model = build_model(config.model, 10)
    facts = {
        "seed": seed,
        "steps": steps,
        "plan": plan,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    return measured | facts | (positives(model, config) if task == "detect" else {})


def positives(model: Any, config: RunConfig) -> dict[str, Any]:
    """Return the share of objects that have a positive, and each level's share of the positives, over 200 samples."""
    dataset = open_dataset("digits", "train", "detect", config.data, config.digits)
    task, count, answered, objects = make_task(model, config), Counter(), 0, 0
    samples = TrainingSamples(dataset, task.targets, config.data, config.seed)
    for number in range(min(200, len(dataset))):
        sample = samples.sample(SampleId(0, number))
        targets = task.targets.stack([sample.target], config.data.crop, config.data.crop)
        size = (config.data.crop, config.data.crop)
        found = task.assign(Microbatch(0, (sample.id,), sample.image_CHW[None], (size,), targets)).levels
        count += Counter({name: len(level.boxes_xyxy) for name, level in found.items()})
        boxes = torch.cat([level.boxes_xyxy for level in found.values()])
        answered += len(torch.unique(boxes, dim=0)) if len(boxes) else 0
        objects += len(targets.boxes_xyxy)
    levels = {f"positives on {name}": count[name] / count.total() for name in model.levels}
    return {"objects with a positive": answered / objects, **levels}


def main(words: Sequence[str] | None = None) -> None:
    """Measure every variant, print the tables and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=800, help="optimizer steps of each variant")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each variant")
    parser.add_argument("--plan", default="dp=2")
    parser.add_argument(
        "--only", default="", help="variants whose name has this in it; the others' results stay"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a form of seconds, which shows that it runs and is not written"
    )
    options = parser.parse_args(words)
    if options.quick:
        for task, model in QUICK_MODELS.items():
            print(row([measure(task, QUICK | model, seed=0, steps=2, plan="dp=1")]), flush=True)
        return
    file = Path(__file__).with_name("results.json")
    tables = json.loads(file.read_text())["tables"] if options.only and file.is_file() else {}
    for task, variants in (("detect", DETECTORS), ("classify", CLASSIFIERS)):
        for name in [name for name in variants if options.only in f"{task} {name}"]:
            seeds = range(options.seeds)
            runs = [measure(task, variants[name], seed, options.steps, options.plan) for seed in seeds]
            tables.setdefault(task, {})[name] = runs
            versions = {"torch": torch.__version__, "processor": processor_name()}
            file.write_text(
                json.dumps(versions | {"tables": tables}, indent=2) + "\n"
            )  # what is measured stays
            print(f"{task:9} {name:30} {row(runs)}", flush=True)


def row(runs: list[dict[str, Any]]) -> str:
    """Return the medians of a variant's shares, and its parameters."""
    medians = {
        k: statistics.median(run[k] for run in runs) for k, v in runs[0].items() if not isinstance(v, str)
    }
    shares = "  ".join(f"{k} {v:.3f}" for k, v in medians.items() if isinstance(v, float) and v <= 1)
    return f"{shares}  {medians['parameters'] / 1e6:.2f} M"


if __name__ == "__main__":
    main()
