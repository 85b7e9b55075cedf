"""How long does a run pause when its plan, or the number of its workers, changes while it goes on?

FCOS ResNet-50 with AdamW and an average: half a gigabyte of state. One run changes between plans of as many workers, more and fewer, several times; each change
writes a line of `metrics.jsonl`, by phase, with the clock and with the processor seconds of the first worker. The same change by an end of the run
and `--resume` is measured beside it: from the last step before to the first step after, of which a step is taken off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import ziggurat
from ziggurat.errors import Preempted
from ziggurat.strategies.plan import parse_plan
from ziggurat.system.platform import processor_name

SETTINGS = {
    "task": "detect", "model.name": "fcos-resnet50-fpn", "device": "cpu", "threads": 1, "dtype": "fp32", "data.crop": 64, "data.workers": 0,
    "digits.size": 64, "digits.height_max": 48, "digits.train_scenes": 16, "digits.val_scenes": 2, "train.batch_size": 4,
    "train.microbatches": 4, "train.ema": 0.99, "train.evaluate_every": 0, "train.checkpoint_every": 0, "train.report": "numbers",
}  # fmt: skip
QUICK = {
    "model.name": "fcos-test_resnet-fpn", "model.levels": "p3-p4", "model.channels": 8, "model.head_depth": 1, "data.crop": 32,
    "digits.size": 32, "digits.height_max": 24, "digits.count_min": 1, "digits.count_max": 1,
}  # fmt: skip
START = "dp=2"
MOVES = {"as many": ("sp=2", START), "more": ("dp=3",), "fewer": (START,)}  # in this order, and again
BETWEEN = 3  # steps that are taken under each plan at least


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the lines of a kind that a run has logged."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for line in lines if (row := json.loads(line))["kind"] == kind]


def change_plans(folder: Path, turns: int, more: dict[str, Any]) -> list[dict[str, Any]]:
    """Train under one plan after the other; return what each change took, with the step after it."""
    plans = [plan for moves in MOVES.values() for plan in moves] * turns

    def on_step(row: dict[str, Any]) -> None:
        done = rows(folder, "plan")
        newest = done[-1]["step"] if done else 0
        request = folder / "plan"
        if len(done) < len(plans) and row["step"] >= newest + BETWEEN and not request.exists():
            request.write_text(plans[len(done)], encoding="utf-8")
        elif len(done) == len(plans) and row["step"] >= newest + BETWEEN:
            os.kill(os.getppid(), 15)  # enough: the run ends with a checkpoint

    settings = SETTINGS | more | {"plan": START, "train.steps": 1000}
    with contextlib.suppress(Preempted):
        ziggurat.train("digits", settings, folder, on_step=on_step)
    steps = {row["step"]: row["seconds"] for row in rows(folder, "train")}
    found = []
    for row in rows(folder, "plan"):
        later = [steps[step] for step in range(row["step"] + 2, row["step"] + BETWEEN + 1)]
        first = max(0.0, steps[row["step"] + 1] - statistics.median(later))
        found.append(row | {"first_step_beyond_others": first, "step_seconds": statistics.median(later)})
    return found


def end_and_resume(folder: Path) -> dict[str, Any]:
    """Let an ended run go on under another plan in new processes; return how long that takes until its first step is done."""
    before = len(rows(folder, "train"))
    words = ["train", "--out", str(folder), "--resume", "--plan", "dp=3"]
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "ziggurat", *words], stdout=subprocess.DEVNULL)
    while len(rows(folder, "train")) <= before and process.poll() is None:
        time.sleep(0.01)
    seconds = time.perf_counter() - begin
    process.terminate()
    process.wait(100)
    row = rows(folder, "train")[before]
    return {"seconds_to_the_end_of_the_first_step": seconds, "first_step_seconds": row["seconds"]}


def kind_of(row: dict[str, Any]) -> str:
    """Return whether a change has led to as many workers, more or fewer."""
    before, after = (parse_plan(row[name]).num_workers for name in ("plan_before", "plan"))
    return "as many" if before == after else "more" if after > before else "fewer"


def summary(changes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return medians by kind of change."""
    found = {}
    for kind in MOVES:
        of_kind = [row for row in changes if kind_of(row) == kind]
        found[kind] = {
            "changes": len(of_kind),
            "seconds": statistics.median(row["seconds"] for row in of_kind),
            "first_step_beyond_others": statistics.median(row["first_step_beyond_others"] for row in of_kind),
        } | {
            name: {part: statistics.median(row[name][part] for row in of_kind) for part in of_kind[0][name]}
            for name in ("seconds_of", "processor_seconds_of")
        }
    return found


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    parser.add_argument(
        "--quick", action="store_true", help="a form of seconds, which shows that it runs and is not written"
    )
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        changes = change_plans(folder, 1 if options.quick else options.turns, QUICK if options.quick else {})
        results: dict[str, Any] = {"medians": summary(changes), "changes": changes}
        if not options.quick:
            checkpoint = max((folder / "checkpoints").glob("step-*"), key=lambda path: path.stat().st_mtime)
            results["state_bytes"] = sum(file.stat().st_size for file in checkpoint.iterdir())
            results["end_and_resume"] = end_and_resume(folder)
            results |= {"torch": torch.__version__, "processor": processor_name()}
            results["load_average"] = os.getloadavg()
            options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in results.items() if name != "changes"}, indent=1))


if __name__ == "__main__":
    main()
