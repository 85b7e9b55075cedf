"""What do gradients that travel narrow save over a slow cable, and what does rounding do to accuracy?

The same step of ``dp=2`` is taken on two machines of one worker each, as each of ``plan.wire=fp32``, ``bf16`` and ``int8`` has it, in turns. Bytes
are those that the kernel counts at the cable's end. Accuracy is that of digits, see accuracy.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from accuracy import TASKS, WIRES, table
from accuracy import measure as train_once

from ziggurat.config import RunConfig, override
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.system.platform import processor_name

PLAN = "dp=2"


def _of_exchange(name: str) -> ModuleType:
    """Return a module of benchmarks/exchange."""
    file = Path(__file__).parents[1] / "exchange" / f"{name}.py"
    found = importlib.util.spec_from_file_location(f"{name}_of_exchange", file)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


machines, steps_of = _of_exchange("machines"), _of_exchange("steps")


def run(workers: Workers, names: list[str], model: str, side: int, rounds: int) -> dict[str, Any]:
    """Take the steps in turns, in alternating order; return seconds, processor's seconds, bytes and hashes by wire."""
    warnings.simplefilter("ignore")  # the network's own
    plan, images = PLAN if workers.size > 1 else "dp=1", steps_of.noise(2, side)
    steps = {
        wire: steps_of.Steps(
            override(RunConfig(), {"model.name": model, "plan.wire": wire}),
            images,
            workers,
            plan,
            "auto",
            False,
        )
        for wire in WIRES
    }
    found: dict[str, dict[str, list[Any]]] = {
        wire: {"seconds": [], "processor": [], "bytes": [], "gradient": []} for wire in WIRES
    }
    for number in range(rounds + 1):  # the first one is left out
        for wire in WIRES[:: -1 if number % 2 else 1]:
            workers.barrier()
            begin, used, before = time.perf_counter(), time.process_time(), _sent(names, workers)
            gradient = steps[wire]()
            workers.barrier()
            if number:
                found[wire]["seconds"].append(time.perf_counter() - begin)
                found[wire]["processor"].append(time.process_time() - used)
                found[wire]["bytes"].append(_sent(names, workers) - before)
                found[wire]["gradient"].append(gradient)
    size = sum(p.nbytes for p in steps["fp32"].parallel.state.model.parameters())
    return {"found": found, "gradient_bytes": size}


def _sent(names: list[str], workers: Workers) -> int:
    count: int = machines.sent_bytes(names[workers.rank]) if names else 0
    return count


def measure(model: str, side: int, rounds: int, megabits: int) -> dict[str, Any]:
    """Return the figures of a rate."""
    with machines.two_machines(megabits) as names:
        results = machines.run_on(names, 1, run, names, model, side, rounds)
    torch.set_num_threads(1)  # as each of the workers has
    alone = run(Workers(), [], model, side, 1)["found"]
    ways: dict[str, dict[str, Any]] = {}
    for wire in WIRES:
        of_all = [result["found"][wire] for result in results]
        seconds = [max(each) for each in zip(*(one["seconds"] for one in of_all), strict=True)]
        hashes = {one for each in of_all for one in each["gradient"]}
        ways[wire] = {
            "seconds": statistics.median(seconds),
            "spread": (min(seconds), max(seconds)),
            "processor_seconds": statistics.median(of_all[0]["processor"]),
            "bytes": statistics.median(of_all[0]["bytes"]),
        }
        ways[wire]["bits_of_one_worker"] = hashes == set(alone[wire]["gradient"])
    usual = ways["fp32"]
    return {
        "model": model, "gradient_bytes": results[0]["gradient_bytes"], "megabits": megabits, "wires": ways,
        "bytes_share": {wire: one["bytes"] / usual["bytes"] for wire, one in ways.items()},
        "times_as_fast": {wire: usual["seconds"] / one["seconds"] for wire, one in ways.items()},
    }  # fmt: skip


def over_cables(cases: Sequence[tuple[str, int, int, int]]) -> list[dict[str, Any]]:
    """Return the figures of each case, and print them; none where there can be no two machines."""
    figures = []
    for case in cases:
        try:
            figures.append(measure(*case))
        except machines.NoNamespacesError as error:
            print(f"network namespaces cannot be made here: {error}")
            return []
        print(json.dumps(figures[-1]), flush=True)
    return figures


def main(words: Sequence[str] | None = None) -> None:
    """Print the figures, and write them beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("cable", "accuracy"), help="one of the two; both by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)), help="of accuracy")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), help="of accuracy")
    parser.add_argument("--quick", action="store_true", help="a form of seconds, which writes nothing")
    options = parser.parse_args(words)
    here = Path(__file__).parent
    if options.quick:
        over_cables([("timm:test_resnet", 32, 1, 0)])
        once = train_once("classify", "int8", 0, quick=True)
        print(table([once | {"wire": wire} for wire in WIRES]))
        return
    if options.part != "accuracy":
        figures = over_cables([("timm:resnet18", 64, 7, rate) for rate in (0, 200)])
        results = {"torch": torch.__version__, "processor": processor_name(), "figures": figures}
        (here / "cable.json").write_text(json.dumps(results, indent=2) + "\n")
    if options.part != "cable":
        file = here / "accuracy.jsonl"
        for seed, task, wire in itertools.product(options.seeds, options.tasks, WIRES):
            runs = _lines(file)
            if any((run["task"], run["wire"], run["seed"]) == (task, wire, seed) for run in runs):
                continue  # what is measured stays
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(train_once(task, wire, seed) | {"torch": torch.__version__}) + "\n")
        print(table(_lines(file)))


def _lines(file: Path) -> list[dict[str, Any]]:
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return [json.loads(line) for line in text.splitlines()]


if __name__ == "__main__":
    main()
