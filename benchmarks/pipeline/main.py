"""How near does a pipeline of two workers come to its bound, what does it hold, and how does PyTorch's own compare?

One worker of one thread, ``pp=2``, two workers that exchange nothing, and `torch.distributed.pipelining` (where it can run
the network) take the same step in turns inside the same processes, so that each ratio is of one moment.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from cases import CASES, QUICK, Case
from turns import Turns, summary

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.launch import WorkerSettings, launch
from ziggurat.system.platform import processor_name

WORLD = 2


def run(workers: Workers, case: Case, warm_up: int, rounds: int) -> dict[str, Any]:
    """Measure memory once, and time in turns; every worker returns the figures of all."""
    warnings.simplefilter("ignore")  # the networks' own
    turns = Turns(workers, case)
    memory = turns.memory()
    taken = []
    for number in range(warm_up + rounds):
        seconds = turns.round(backwards=number % 2 == 1)
        if number >= warm_up:
            taken.append(seconds)
    return summary(case, workers.gather(taken), turns.stages(), memory)


def show(name: str, found: dict[str, Any]) -> None:
    """Print a case."""
    print(f"{name}", flush=True)
    for what, (middle, low, high) in found["ratios"].items():
        print(f"   {what}: {middle:.3f} ({low:.3f}-{high:.3f})", flush=True)
    print(
        f"   imbalance {found['imbalance']:.3f}, cut {found['cut']}, seconds alone {found['seconds_alone']:.2f}"
    )
    for rank, worker in enumerate(found["megabytes_of_each_worker"]):
        print(f"   worker {rank}, MB: " + ", ".join(f"{k} {v:.1f}" for k, v in worker.items()), flush=True)
    print(
        "   measured: "
        + ", ".join(f"{stage['seconds'] * found['case']['count']:.3f}" for stage in found["stages"])
    )
    for rank, worker in enumerate(found["of_each_worker"]):
        print(f"   worker {rank}: " + ", ".join(f"{k} {v:.3f}" for k, v in worker.items()), flush=True)


def _known(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["results"] if path.is_file() else {}


def main(words: Sequence[str] | None = None) -> None:
    """Measure every case, print the figures and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--warm-up", type=int, default=1, help="rounds that are not counted")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--side", type=int, default=0, help="rows and columns of the images; 0 takes each case's own"
    )
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    parser.add_argument(
        "--quick", action="store_true", help="a form of seconds, which shows that it runs and is not written"
    )
    options = parser.parse_args(words)
    if options.quick:
        for name, case in QUICK.items():
            shown = launch(run, (case, 0, 1), WORLD, WorkerSettings(1, "cpu"))
            assert shown is not None
            show(name, shown)
        return
    results: dict[str, Any] = _known(options.out)  # of cases that are not run now
    begin = time.perf_counter()
    for name in options.cases:
        case = CASES[name].at(options.side)
        arguments = (case, options.warm_up, options.rounds)
        found = launch(run, arguments, WORLD, WorkerSettings(1, "cpu"))
        assert found is not None
        results[name] = found
        show(name, found)
    result = {
        "torch": torch.__version__,
        "processor": f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}",
        "warm_up": options.warm_up,
        "seconds": time.perf_counter() - begin,
        "results": results,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
