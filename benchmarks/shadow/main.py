"""Does a step of 16, 32 and 64 workers take as long as it is simulated? Real processes, groups and messages, in which computing is sleep.

The first replica of each plan is recorded, the others do as it does, and all are taken by shadow workers (`ziggurat.planning.shadow`): a process
for each, of which only waiting is real. Their clock is held against the simulation of the same programs.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ziggurat.planning.clusters import CABLES, Cluster
from ziggurat.planning.devices import DeviceCosts, find_device
from ziggurat.planning.network import Links
from ziggurat.planning.overheads import Overheads, WithOverheads
from ziggurat.planning.place import Recorder
from ziggurat.planning.program import Program, Start
from ziggurat.planning.record import hollow_model
from ziggurat.planning.request import read_plan_request
from ziggurat.planning.scale import all_workers
from ziggurat.planning.search import Candidate
from ziggurat.planning.shadow import shadow
from ziggurat.planning.simulate import simulate
from ziggurat.strategies.plan import parse_plan

LINKS = Links(
    {"machine": CABLES["nvlink4"].link(), "network": CABLES["infiniband-ndr"].link(8)}, carrier="nccl"
)
MODEL, SIDE = "timm:test_resnet", 64
# plan, tiers of dp
PLANS = [
    ("dp=16", "4x4"), ("dp=8,sp=2", "2x4"), ("dp=8,pp=2", "2x4"),
    ("dp=32", "4x8"), ("dp=16,pp=2", "4x4"),
    ("dp=64", "8x8"), ("dp=64", "4x4x4"), ("dp=32,pp=2", "4x8"),
]  # fmt: skip
QUICK = [("dp=2,pp=2", "flat")]
STEP = 4.0  # seconds that a step is stretched to: the longer, the less do the machine's own delays weigh


def programs_of(plan: str, tiers: str) -> tuple[list[Program], WithOverheads]:
    """Return what every worker does in a step, and what kernels cost."""
    parsed = parse_plan(plan)
    count = 2 * parsed.num_data
    asked = read_plan_request(
        MODEL, {"dtype": "bf16", "launch.hierarchy": tiers}, workers="1", shape=f"{count}x3x{SIDE}x{SIDE}"
    )
    config = replace(asked.config, train=replace(asked.config.train, microbatches=count))
    cluster = Cluster(LINKS, find_device("h100"), (1, parsed.num_workers))
    request = replace(asked, config=config, machines=(1, parsed.num_workers), cluster=cluster)
    costs = WithOverheads(DeviceCosts(find_device("h100")), Overheads())
    recorder = Recorder(request, hollow_model(lambda: request.build(config), config), costs)
    first = recorder.of_first(Candidate(parsed), count)
    if first.refused is not None:
        raise SystemExit(f"{plan}: {first.refused}")
    return all_workers(first.programs, parsed.num_data), costs


def row_of(plan: str, tiers: str, step: float, steps: int) -> dict[str, Any]:
    """Return a step as it is simulated, and as shadow workers take it."""
    programs, costs = programs_of(plan, tiers)
    places = [0] * len(programs)

    def message_seconds(start: Start) -> float:
        return LINKS.seconds(start, places)

    simulated = simulate(programs, costs.seconds, LINKS, places=places).seconds
    stretch = step / simulated
    taken = shadow(programs, costs.seconds, message_seconds, steps=steps, stretch=stretch)
    messages = max(sum(len(e.group) - 1 for e in p.events if isinstance(e, Start)) for p in programs)
    return {
        "workers": len(programs), "plan": plan, "tiers": tiers, "messages_of_a_worker": messages, "simulated_seconds": simulated,
        "shadow_seconds": taken.seconds, "fastest": min(taken.steps), "slowest": max(taken.steps), "error": simulated / taken.seconds - 1,
        "stretch": stretch, "load": os.getloadavg()[0],
    }  # fmt: skip


def rows_of(plans: Sequence[tuple[str, str]], step: float, steps: int) -> Iterator[dict[str, Any]]:
    """Yield the rows, and print them."""
    for plan, tiers in plans:
        row = row_of(plan, tiers, step, steps)
        print(
            {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()},
            flush=True,
        )
        yield row


def main(words: Sequence[str] | None = None) -> None:
    """Take all plans, print a row of each and write rows.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--step", type=float, default=STEP, help="seconds that a step is stretched to (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=3, help="that are measured of each plan (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[16, 32, 64], help="plans of these (default: all)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("rows.csv"))
    parser.add_argument(
        "--quick", action="store_true", help="a form of seconds, which shows that it runs and is not written"
    )
    options = parser.parse_args(words)
    if options.quick:
        list(rows_of(QUICK, 0.5, 1))
        return
    wanted = [(plan, tiers) for plan, tiers in PLANS if parse_plan(plan).num_workers in options.workers]
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = None
        for row in rows_of(wanted, options.step, options.steps):
            if writer is None:
                writer = csv.DictWriter(file, row)
                writer.writeheader()
            writer.writerow(row)
            file.flush()


if __name__ == "__main__":
    main()
