"""What do workers that share a machine save between machines, where they meet first?

The same step of ``dp=4`` is taken on two machines of two workers each, in turns: all meet at once (``flat``), or by tiers (``2x2``, which
``auto`` finds). Bytes are those that the kernel counts at the cable's end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from machines import NoNamespacesError, run_on, sent_bytes, two_machines
from steps import Steps, noise

from ziggurat.config import RunConfig, override
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.system.platform import processor_name

LOCAL = 2
PLAN = "dp=4"
WAYS = ("flat", "auto")


def run(workers: Workers, machines: list[str], name: str, side: int, rounds: int) -> dict[str, Any]:
    """Take the steps in turns, in alternating order; return seconds, bytes and hashes by way."""
    warnings.simplefilter("ignore")  # the network's own
    machine = machines[workers.rank // LOCAL]
    config, images = override(RunConfig(), {"model.name": name}), noise(workers.size, side)
    steps = {way: Steps(config, images, workers, PLAN, way, way != "flat") for way in WAYS}
    found: dict[str, dict[str, list[Any]]] = {
        way: {"seconds": [], "bytes": [], "gradient": []} for way in WAYS
    }
    for number in range(rounds + 1):  # the first one maps memory
        for way in WAYS[:: -1 if number % 2 else 1]:
            workers.barrier()
            begin, before = time.perf_counter(), sent_bytes(machine)
            gradient = steps[way]()
            workers.barrier()
            if number:
                found[way]["seconds"].append(time.perf_counter() - begin)
                found[way]["bytes"].append(sent_bytes(machine) - before)
                found[way]["gradient"].append(gradient)
    tiers = {way: step.parallel.sent() for way, step in steps.items()}
    size = sum(p.nbytes for p in steps["flat"].parallel.state.model.parameters())
    return {"found": found, "tiers": tiers, "gradient_bytes": size}


def measure(name: str, side: int, rounds: int, megabits: int) -> dict[str, Any]:
    """Return the figures of a rate.

    Raises:
        NoNamespacesError: If there can be no two machines here.
    """
    with two_machines(megabits) as machines:
        results = run_on(machines, LOCAL, run, machines, name, side, rounds)
    ways = {}
    for way in WAYS:
        of_all = [result["found"][way] for result in results]
        seconds = [max(each) for each in zip(*(one["seconds"] for one in of_all), strict=True)]
        ways[way] = {
            "tiers": [size for size, _ in results[0]["tiers"][way]],
            "seconds": statistics.median(seconds),
            "spread": (min(seconds), max(seconds)),
            "bytes_between": statistics.median(of_all[0]["bytes"]),
            "gradient_sha256": sorted({one for each in of_all for one in each["gradient"]}),
        }
    return {
        "model": name, "gradient_bytes": results[0]["gradient_bytes"], "megabits": megabits, "ways": ways,
        "bytes_ratio": ways["auto"]["bytes_between"] / ways["flat"]["bytes_between"],
        "seconds_ratio": ways["flat"]["seconds"] / ways["auto"]["seconds"],
        "same_bits": ways["auto"]["gradient_sha256"] == ways["flat"]["gradient_sha256"],
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures, and write them beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a form of a second, which writes nothing")
    quick = parser.parse_args(arguments).quick
    cases = (
        [("timm:test_resnet", 64, 1, 0)]
        if quick
        else [("timm:resnet18", 64, 7, 0), ("timm:resnet18", 64, 7, 200)]
    )
    try:
        figures = [measure(*case) for case in cases]
    except NoNamespacesError as error:
        print(f"network namespaces cannot be made here: {error}")
        return
    for one in figures:
        print(json.dumps(one))
    if not quick:
        results = {"torch": torch.__version__, "processor": processor_name(), "figures": figures}
        Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
