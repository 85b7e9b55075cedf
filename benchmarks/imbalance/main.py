"""What helps rare classes? Augmentation, balanced loading and normalised gradients, on digits of which 0 is a hundred times as frequent as 9.

Each remedy alone, and the three together, with the same steps and samples as without. Each seed is another training set, another
validation set (with all digits equally often) and other first weights, the same for every remedy: so differences are taken
seed by seed, and their 95 % interval is that of their mean (Student's t). An interval that has 0 in it says nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from ziggurat.commands.train import train
from ziggurat.config import DigitsConfig
from ziggurat.data.digits import DigitScenes
from ziggurat.system.platform import processor_name

THIRDS = {"rare": "789", "common": "3456", "frequent": "012"}  # digits
FIXED = {
    "digits.imbalance": 100, "data.workers": 0, "data.flip": "none", "train.ema": 0.99, "train.warmup": 0.06, "train.checkpoint_every": 0,
    "train.report": "numbers", "threads": 1, "dtype": "fp32", "plan": "dp=1", "train.microbatches": 1, "data.count_classes": "always",
}  # fmt: skip
TASKS: dict[str, dict[str, Any]] = {
    "classify": {
        "task": "classify", "model.name": "pnn", "model.pnn.channels": 12, "model.pnn.levels": 2, "data.crop": 24, "data.resize": 24,
        "digits.size": 24, "digits.count_min": 1, "digits.count_max": 1, "digits.height_min": 14, "digits.height_max": 22,
        "digits.train_scenes": 1000, "digits.val_scenes": 400, "train.batch_size": 32, "train.steps": 300, "train.lr": 4e-3,
        "data.scale_min": 0.95, "data.scale_max": 1.05,
    },
    "detect": {
        "task": "detect", "model.name": "fcos-resnet10t-fpn", "model.levels": "p3-p4", "model.channels": 32, "model.head_depth": 1,
        "data.crop": 48, "digits.size": 48, "digits.count_min": 1, "digits.count_max": 2, "digits.height_min": 14, "digits.height_max": 28,
        "digits.train_scenes": 1000, "digits.val_scenes": 400, "train.batch_size": 16, "train.steps": 600, "train.lr": 3e-3,
        "data.scale_min": 0.95, "data.scale_max": 1.05, "decode.max_detections": 20, "decode.nms_threshold": 0.5,
    },
}  # fmt: skip
AUGMENTATION = {"data.scale_min": 0.8, "data.scale_max": 1.25, "data.color_jitter": 0.5}
REPEAT = {"data.balance": "repeat", "data.repeat_threshold": 0.2}
INVERSE = {"loss.class_weights": "inverse"}
EQUALIZED = {"loss.detection": "equalized"}
REMEDIES: dict[str, dict[str, dict[str, Any]]] = {
    "classify": {
        "none": {},
        "augmentation": AUGMENTATION,
        "repeat": REPEAT,
        "weights": INVERSE,
        "all three": AUGMENTATION | REPEAT | INVERSE,
    },
    "detect": {
        "none": {},
        "augmentation": AUGMENTATION,
        "repeat": REPEAT,
        "repeat-instances": REPEAT | {"data.balance": "repeat-instances"},
        "weights": INVERSE,
        "equalized": EQUALIZED,
        "all three": AUGMENTATION | REPEAT | EQUALIZED,
    },
}
QUICK: dict[str, Any] = {
    "digits.train_scenes": 12, "digits.val_scenes": 12, "train.batch_size": 4, "train.steps": 2, "train.warmup": 0,
}  # fmt: skip
QUICK_MODELS = {
    "classify": {"model.pnn.channels": 8},
    "detect": {"model.name": "fcos-test_resnet-fpn", "model.channels": 16},
}


def measure(task: str, remedy: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train once; return the score of each third of the classes, and the processor's seconds."""
    given = FIXED | TASKS[task] | remedy | {"seed": seed, "digits.seed": seed}
    begin = processor_seconds()
    with tempfile.TemporaryDirectory() as folder:
        result = train("digits", given, f"{folder}/run")
    assert result is not None
    metrics = result["metrics"]
    by_class = metrics["map50_per_class" if task == "detect" else "per_class"]
    scores = {name: mean([by_class.get(digit) for digit in digits]) for name, digits in THIRDS.items()}
    return scores | {
        "all": mean(by_class.values()),
        "by_class": by_class,
        "seed": seed,
        "processor_seconds": processor_seconds() - begin,
        "weights_sha256": result["weights_sha256"],
    }


def processor_seconds() -> float:
    """Return what this process and those that it has waited for have taken."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def mean(values: Any) -> float:
    """Return the mean of scores; classes without an object have none."""
    return statistics.fmean(value for value in values if value is not None)


def difference(runs: list[dict[str, Any]], others: list[dict[str, Any]], key: str) -> tuple[float, float]:
    """Return the mean of differences seed by seed, and half the width of its 95 % interval."""
    known = {other["seed"]: other[key] for other in others}
    each = [run[key] - known[run["seed"]] for run in runs if run["seed"] in known]
    if len(each) < 2:
        return statistics.fmean(each), float("inf")
    half = stats.t.ppf(0.975, len(each) - 1) * statistics.stdev(each) / len(each) ** 0.5
    return statistics.fmean(each), float(half)


def table(remedies: dict[str, list[dict[str, Any]]]) -> str:
    """Return a line for each remedy: the scores without any, then differences with their intervals."""
    columns = [*THIRDS, "all"]
    if "none" not in remedies:
        return "nothing to compare with yet"
    without = remedies["none"]
    lines = [f"| | seeds | {' | '.join(columns)} | processor |", "|---|" + "---|" * (len(columns) + 2)]
    usual = mean([run["processor_seconds"] for run in without])
    for name, runs in remedies.items():
        if name == "none":
            cells = [f"{mean([run[key] for run in runs]):.3f}" for key in columns]
        else:
            cells = [shown(*difference(runs, without, key)) for key in columns]
        cost = mean([run["processor_seconds"] for run in runs]) / usual
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {cost:.2f} |")
    return "\n".join(lines)


def shown(difference: float, half: float) -> str:
    """Return a difference with its interval; one of a single seed has none."""
    return f"{difference:+.3f}" + (f" ± {half:.3f}" if half < float("inf") else "")


def counts(task: str, seed: int) -> list[int]:
    """Return how many of each digit the training scenes of a seed have."""
    given = FIXED | TASKS[task]
    digits = {key.partition(".")[2]: value for key, value in given.items() if key.startswith("digits.")}
    scenes = DigitScenes(DigitsConfig(**digits, seed=seed), "train")
    labels = torch.cat([scenes.objects(index).labels for index in range(len(scenes))])
    return torch.bincount(labels, minlength=10).tolist()


def measured(file: Path, task: str) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of a task that a file has, by remedy, in the order of the table."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    found = {
        name: [one for one in lines if (one["task"], one["remedy"]) == (task, name)]
        for name in REMEDIES[task]
    }
    return {name: sorted(runs, key=lambda run: run["seed"]) for name, runs in found.items() if runs}


def main(words: Sequence[str] | None = None) -> None:
    """Train every remedy with every seed, print the tables and add a line for each run to results.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=list(range(5)), help="a run of each remedy for each"
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--remedies", nargs="+", help="some of them; all by default")
    parser.add_argument("--tables", action="store_true", help="print the tables of what is measured already")
    parser.add_argument(
        "--quick", action="store_true", help="a form of seconds, which shows that it runs and is not written"
    )
    options = parser.parse_args(words)
    if options.quick:
        for task in options.tasks:
            small = QUICK | QUICK_MODELS[task]
            found = {name: [measure(task, REMEDIES[task][name] | small, 0)] for name in ("none", "all three")}
            print(table(found), flush=True)
        return
    file = Path(__file__).with_name("results.jsonl")
    versions = {"torch": torch.__version__, "processor": processor_name()}
    for task in options.tasks:
        chosen = options.remedies or list(REMEDIES[task])
        for seed, name in itertools.product(options.seeds, () if options.tables else chosen):
            if any(run["seed"] == seed for run in measured(file, task).get(name, ())):
                continue  # what is measured stays; several processes may share the work
            run = {"task": task, "remedy": name, **measure(task, REMEDIES[task][name], seed)}
            with file.open("a") as lines:
                lines.write(json.dumps(run | versions | {"digits": counts(task, seed)}) + "\n")
        print(table(measured(file, task)), flush=True)


if __name__ == "__main__":
    main()
