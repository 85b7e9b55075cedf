"""What does it cost that nothing is lost, and how long does a lost worker hold a run up?

Three parts, each a few runs of the same detector by the program's own command, on two workers:

pause      how long training pauses for a checkpoint that is written beside it
overhead   the same run with all of its fault tolerance and with none (`without_fault_tolerance`), in turn
recovery   the time from the SIGKILL of a worker to the next step that the run finishes
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import torch

from ziggurat.system.platform import processor_name

MODULE = [sys.executable, "-m", "ziggurat"]
BARE = [sys.executable, __file__, "--bare"]
SETTINGS = [
    "--model", "fcos-resnet50-fpn", "--plan", "dp=2", "--threads", "1", "--batch-size", "4",
    "--set", "data.crop=256", "--set", "digits.size=256", "--set", "digits.train_scenes=64",
    "--set", "digits.val_scenes=2", "--set", "device=cpu", "--set", "data.workers=1", "--json",
]  # fmt: skip
QUICK = [
    "--model", "fcos-test_resnet-fpn", "--set", "data.crop=64", "--set", "digits.size=64", "--set", "digits.height_max=48",
    "--set", "model.channels=16", "--set", "model.head_depth=1", "--set", "model.levels=p3-p5", "--set", "data.workers=0",
    "--set", "train.report=numbers",
]  # fmt: skip
PAUSE = re.compile(r"checkpoint of step (\d+): training paused for ([\d.]+) ms, written in ([\d.]+) s")


def command(program: list[str], folder: Path, steps: int, every: int, more: Sequence[str]) -> list[str]:
    """Return the command of a run with a checkpoint every so many steps."""
    run = ["train", "digits", "--out", str(folder), "--steps", str(steps)]
    return [*program, *run, *SETTINGS, *more, "--set", f"train.checkpoint_every={every}"]


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the steps that a run has logged whole."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [row for line in lines if line.endswith("\n") if (row := json.loads(line))["kind"] == "train"]


def train(
    program: list[str], folder: Path, steps: int, every: int, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Train once; return the seconds of the loop, and of each step but the first, the pauses and the writing times."""
    done = subprocess.run(
        command(program, folder, steps, every, more), check=True, capture_output=True, text=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    found = PAUSE.findall((folder / "log.txt").read_text(encoding="utf-8"))
    during = [match for match in found if int(match[0]) < steps]
    newest = folder / "checkpoints" / f"step-{steps}"
    return {
        "weights_sha256": result["weights_sha256"],
        "loop_seconds": result["seconds"],
        "step_seconds": [row["seconds"] for row in rows(folder)][1:],
        "pause_seconds": [float(match[1]) / 1e3 for match in during],
        "write_seconds": [float(match[2]) for match in during],
        "bytes": sum(path.stat().st_size for path in newest.iterdir()) if newest.is_dir() else 0,
    }


def measure_pause(
    place: Path, steps: int, every: int, turns: Sequence[int] = (1, 2), more: Sequence[str] = ()
) -> dict[str, Any]:
    """Train with a checkpoint every so many steps and with the last one only, in turn."""
    runs = {
        f"{name}-{turn}": train(MODULE, place / f"{name}-{turn}", steps, every_, more)
        for turn in turns
        for name, every_ in (("without", 0), ("with", every))
    }
    median = {
        name: statistics.median([s for turn in turns for s in runs[f"{name}-{turn}"]["step_seconds"]])
        for name in ("without", "with")
    }
    pauses = [pause for turn in turns for pause in runs[f"with-{turn}"]["pause_seconds"]]
    return {
        "checkpoint_bytes": runs["with-1"]["bytes"],
        "every": every,
        "median_step_seconds": median,
        "step_ratio": median["with"] / median["without"],
        "pause_seconds": pauses,
        "pause_share_of_a_step": statistics.median(pauses) / median["without"],
        "pause_share_of_training": statistics.median(pauses) / (every * median["without"]),
        "runs": runs,
    }


def without_fault_tolerance(arguments: list[str]) -> int:
    """Run the command without records of phases, agreement on signals, and states to hand over."""
    from ziggurat.cli.main import main as run_command
    from ziggurat.parallel.runtime import launch
    from ziggurat.training.session import Session
    from ziggurat.training.snapshot import Snapshots

    launch.begin_record = lambda *place: None
    Session.agree = lambda self, *happened, **more: None
    Snapshots.on_loss = lambda self: nullcontext()
    return run_command(arguments)


def measure_overhead(place: Path, steps: int, turns: int, more: Sequence[str] = ()) -> dict[str, Any]:
    """Train with and without fault tolerance in turn; no checkpoint but the last, whose cost is measured apart."""
    pairs = []
    for turn in range(turns):
        order = (("bare", BARE), ("full", MODULE))
        pair = {
            name: train(program, place / f"{name}-{turn}", steps, 0, more)
            for name, program in order[:: 1 - 2 * (turn % 2)]
        }
        if len({run["weights_sha256"] for run in pair.values()}) > 1:
            raise AssertionError("the two runs must end in the same bits")
        pairs.append({name: run["step_seconds"] for name, run in pair.items()})
    ratios = [statistics.median(pair["full"]) / statistics.median(pair["bare"]) for pair in pairs]
    every = {name: statistics.median([s for pair in pairs for s in pair[name]]) for name in ("bare", "full")}
    return {
        "median_step_seconds": every,
        "ratio": every["full"] / every["bare"],
        "ratios": ratios,
        "runs": pairs,
    }


def measure_recovery(
    place: Path, kills: int, more: Sequence[str] = (), steps_left: int = 4
) -> dict[str, Any]:
    """Kill one of the two workers at a random instant after each second step; after the last kill some steps are left."""
    choice, folder, steps = random.Random(0), place / "run", 2 * kills + steps_left
    process = subprocess.Popen(
        command(MODULE, folder, steps, 0, more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    seconds = []
    for kill in range(kills):
        wait_for_step(process, folder, 2 * (kill + 1))
        time.sleep(choice.uniform(0.0, 0.5))
        done = rows(folder)[-1]["step"]
        workers = psutil.Process(process.pid).children()
        begin = time.monotonic()
        os.kill(choice.choice(workers).pid, signal.SIGKILL)
        wait_for_step(process, folder, done + 1)
        seconds.append(time.monotonic() - begin)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 0, text
    undisturbed = statistics.median([row["seconds"] for row in rows(folder)][1:])
    return {
        "attempts": text.count("; attempt "),
        "seconds": seconds,
        "median_seconds": statistics.median(seconds),
        "median_step_seconds": undisturbed,
    }


def wait_for_step(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    """Return when a step is logged; the first one after a restart may be one that others had begun."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (found := rows(folder)) and found[-1]["step"] >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} has not come")


def show_that_it_runs(place: Path) -> None:
    """Measure each part in its shortest form, where nobody is lost by one worker."""
    alone = [*QUICK, "--plan", "dp=1"]
    for found in (
        measure_pause(place / "pause", steps=4, every=2, turns=(1,), more=alone),
        measure_overhead(place / "overhead", steps=2, turns=1, more=alone),
        measure_recovery(place / "recovery", kills=1, more=QUICK, steps_left=40),  # these steps are short
    ):
        print(json.dumps({name: value for name, value in found.items() if name != "runs"}, indent=1))


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["pause", "overhead", "recovery"], action="append")
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    parser.add_argument(
        "--quick", action="store_true", help="a form of seconds, which shows that it runs and is not written"
    )
    options = parser.parse_args(words)
    if options.quick:
        with tempfile.TemporaryDirectory() as place:
            show_that_it_runs(Path(place))
        return
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    results |= {"torch": torch.__version__, "processor": processor_name()}
    for part in options.part or ["pause", "overhead", "recovery"]:
        with tempfile.TemporaryDirectory() as place:
            if part == "pause":
                results[part] = measure_pause(Path(place), options.steps, options.every)
            elif part == "overhead":
                results[part] = measure_overhead(Path(place), options.steps, options.turns)
            else:
                results[part] = measure_recovery(Path(place), options.kills)
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({name: value for name, value in results[part].items() if name != "runs"}, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        sys.exit(without_fault_tolerance(sys.argv[2:]))
    main()
