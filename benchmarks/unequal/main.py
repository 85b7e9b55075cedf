"""What is gained by shares of microbatches that follow the workers' speeds, where one worker is half as fast?

The same run is taken with even shares and with ``plan.shares=measured``. A worker is slowed by sleeps in each microbatch, which are exact
and take no processor, so that any number of workers can be compared on two cores; or by another program on its core.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ziggurat.commands.train import train
from ziggurat.config import RunConfig, override
from ziggurat.parallel.collectives.canonical import partition
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.heartbeat import FAULTS
from ziggurat.parallel.runtime.launch import WorkerSettings, launch
from ziggurat.strategies.plan import Plan, parse_plan
from ziggurat.training.loop import train as train_here

MICROBATCHES = 16
SETTINGS = {
    "task": "classify", "model.name": "pnn", "model.pnn.channels": 4, "device": "cpu", "threads": 1, "dtype": "fp32",
    "data.path": "digits", "data.crop": 32, "data.resize": 32, "data.workers": 0, "digits.size": 32, "digits.height_min": 8,
    "digits.height_max": 24, "digits.train_scenes": 64, "digits.val_scenes": 4, "train.batch_size": MICROBATCHES,
    "train.microbatches": MICROBATCHES, "train.checkpoint_every": 0, "train.report": "numbers",
}  # fmt: skip
BUSY = {"model.pnn.channels": 16, "data.crop": 64, "data.resize": 64, "digits.size": 64}
"""With a competitor it is computing that counts."""


def sleeping(plan: str, milliseconds: int) -> str:
    """Return the fault plan that lets all workers sleep in each microbatch, those of the last place of dp twice as long."""
    parsed = parse_plan(plan)
    first = parsed.num_workers - parsed.num_of_one
    return "; ".join(
        f"slow@forward rank={rank} ms={2 * milliseconds if rank >= first else milliseconds}"
        for rank in range(parsed.num_workers)
    )


@contextlib.contextmanager
def environment(faults: str) -> Iterator[None]:
    """Let workers that are started in the block fail as a plan says."""
    os.environ[FAULTS] = faults
    try:
        yield
    finally:
        del os.environ[FAULTS]


@contextlib.contextmanager
def competitor(core: int) -> Iterator[None]:
    """Keep a core busy while a block runs."""
    process = multiprocessing.get_context("spawn").Process(target=_compete, args=(core,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _compete(core: int) -> None:
    os.sched_setaffinity(0, {core})
    while True:
        pass


def pinned(workers: Workers, config: RunConfig, folder: str) -> dict[str, Any]:
    """Train on a core of its own for each worker."""
    os.sched_setaffinity(0, {workers.rank})
    torch.set_num_threads(1)
    return train_here(workers, config, Path(folder))


def outcome(folder: Path, result: dict[str, Any], steps: int) -> dict[str, Any]:
    """Return what a run took, of its second half."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] + row["data_seconds"] for row in rows if row["kind"] == "train"]
    changes = re.findall(
        r"from step (\d+) on shares of \d+ microbatches are ([0-9,]+)", (folder / "log.txt").read_text()
    )
    late = sorted(seconds[max(25, steps // 2) :])
    return {
        "step_seconds": statistics.median(late),
        "spread": [late[len(late) // 20], late[-1 - len(late) // 20]],
        "changes": [[int(step), counts] for step, counts in changes],
        "microbatch_seconds": [one["microbatch_seconds"] for one in result["balance"]["workers"]],
        "weights_sha256": result["weights_sha256"],
    }


def compare(plan: str, steps: int, milliseconds: int) -> dict[str, Any]:
    """Return the figures of a plan with even and with measured shares; without milliseconds a competitor is on the last core."""
    found = {}
    for shares in ("even", "measured"):
        settings = SETTINGS | {"plan": plan, "train.steps": steps, "pipeline.shares": shares}
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "run"
            if milliseconds:
                with environment(sleeping(plan, milliseconds)):
                    result = train("digits", settings, str(folder))
            else:
                config = override(RunConfig(), settings | BUSY)
                with competitor(parse_plan(plan).num_workers - 1):
                    place_of = WorkerSettings(1, "cpu", config.launch)
                    result = launch(pinned, (config, str(folder)), parse_plan(plan).num_workers, place_of)
            assert result is not None
            found[shares] = outcome(folder, result, steps)
    return {
        "plan": plan, "slowed_by": f"sleeps of {2 * milliseconds} ms" if milliseconds else "a competitor on its core", "steps": steps,
        **found, "speedup": found["even"]["step_seconds"] / found["measured"]["step_seconds"],
        "bound": bound_of(parse_plan(plan), found["even"]["microbatch_seconds"]),
        "same_bits": found["even"]["weights_sha256"] == found["measured"]["weights_sha256"],
    }  # fmt: skip


def bound_of(plan: Plan, each: Sequence[float]) -> float:
    """Return the most that shares can gain over even ones, if microbatches could be divided and messages took no time.

    Args:
        plan: Of the run.
        each: Seconds of a microbatch on each worker.
    """
    size = plan.num_of_one
    places = [max(each[place * size : (place + 1) * size]) for place in range(plan.num_data)]
    even = max(
        len(part) * one for part, one in zip(partition(MICROBATCHES, len(places)), places, strict=True)
    )
    return even * sum(1 / one for one in places) / MICROBATCHES


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures, and write them beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a form of seconds, which writes nothing")
    quick = parser.parse_args(arguments).quick
    cases = (
        [("dp=2", 30, 10)]
        if quick
        else [
            *((plan, 60, 150) for plan in ("dp=2", "dp=3", "dp=4", "dp=2,sp=2", "dp=2,pp=2")), ("dp=2", 500, 20), ("dp=2", 100, 0),
        ]
    )  # fmt: skip
    figures = []
    for case in cases:
        with (
            contextlib.redirect_stdout(None),
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stderr(nowhere),
        ):
            figures.append(compare(*case))
        print(json.dumps(figures[-1]), flush=True)
    if not quick:
        results = {"torch": torch.__version__, "processor": _processor(), "figures": figures}
        Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=2) + "\n")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(names)} cores"


if __name__ == "__main__":
    main()
