"""Training with each wire, seed by seed, on the digits: what rounding does to accuracy.

Each seed is another training set, another validation set and other first weights, the same for every wire, so that differences are
taken seed by seed; their 95 % interval is that of their mean (Student's t).
"""

from __future__ import annotations

import statistics
import tempfile
from typing import Any

from scipy import stats

from ziggurat.commands.train import train

WIRES = ("fp32", "bf16", "int8")
FIXED = {
    "data.workers": 0, "data.flip": "none", "train.ema": 0.99, "train.warmup": 0.06, "train.checkpoint_every": 0, "train.report": "numbers",
    "threads": 1, "dtype": "fp32", "plan": "dp=1", "train.batch_size": 16, "train.microbatches": 4, "data.scale_min": 0.95,
    "data.scale_max": 1.05, "digits.train_scenes": 800, "digits.val_scenes": 150,
}  # fmt: skip
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "classify": ("top1", {
        "model.name": "pnn", "model.pnn.channels": 12, "model.pnn.levels": 2, "data.crop": 24, "data.resize": 24, "digits.size": 24,
        "digits.count_min": 1, "digits.count_max": 1, "digits.height_min": 14, "digits.height_max": 22, "train.steps": 250,
        "train.lr": 4e-3,
    }),
    "detect": ("map50", {
        "model.name": "fcos-resnet10t-fpn", "model.levels": "p3-p4", "model.channels": 32, "model.head_depth": 1, "data.crop": 48,
        "digits.size": 48, "digits.count_min": 1, "digits.count_max": 2, "digits.height_min": 14, "digits.height_max": 28,
        "train.steps": 250, "train.lr": 4e-3, "decode.max_detections": 20, "decode.nms_threshold": 0.5,
    }),
    "segment": ("miou", {
        "model.name": "smp:unet/tu-resnet10t", "data.crop": 64, "digits.size": 64, "digits.count_min": 1, "digits.count_max": 2,
        "digits.height_min": 20, "digits.height_max": 40, "train.steps": 100, "train.lr": 4e-3, "digits.train_scenes": 400,
        "digits.val_scenes": 40,
    }),
}  # fmt: skip
QUICK: dict[str, Any] = {
    "digits.train_scenes": 8, "digits.val_scenes": 4, "train.batch_size": 4, "train.steps": 2, "train.warmup": 0,
}  # fmt: skip


def measure(task: str, wire: str, seed: int, quick: bool = False) -> dict[str, Any]:
    """Train once; return the score of the task."""
    metric, settings = TASKS[task]
    given = FIXED | settings | {"task": task, "plan.wire": wire, "seed": seed, "digits.seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        result = train("digits", given | (QUICK if quick else {}), f"{folder}/run")
    assert result is not None
    return {
        "task": task, "wire": wire, "seed": seed, "score": result["metrics"][metric], "loss": result["loss"],
        "weights_sha256": result["weights_sha256"],
    }  # fmt: skip


def table(runs: list[dict[str, Any]]) -> str:
    """Return a line for each task: the mean score of fp32 and its spread over seeds, then differences with their intervals."""
    lines = ["| | seeds | fp32 (deviation over seeds) | bf16 | int8 |", "|---|---|---|---|---|"]
    for task, (metric, _) in TASKS.items():
        scores = {
            wire: {run["seed"]: run["score"] for run in runs if (run["task"], run["wire"]) == (task, wire)}
            for wire in WIRES
        }
        seeds = sorted(set.intersection(*(set(of_wire) for of_wire in scores.values())))
        if not seeds:
            continue
        usual = [scores["fp32"][seed] for seed in seeds]
        deviation = statistics.stdev(usual) if len(usual) > 1 else float("nan")
        cells = [_shown([scores[wire][seed] - scores["fp32"][seed] for seed in seeds]) for wire in WIRES[1:]]
        lines.append(
            f"| {task}, {metric} | {len(seeds)} | {statistics.fmean(usual):.4f} ({deviation:.4f}) | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _shown(differences: list[float]) -> str:
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return f"{mean:+.4f}"
    half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{mean:+.4f} ± {half:.4f}"
