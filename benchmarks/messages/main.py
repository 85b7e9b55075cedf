"""What does a message between two workers of one machine cost, by gloo and by a socket of the machine?

Two workers swap a tensor, gather it, add it up, or meet in a barrier, in turns by PyTorch's own calls of gloo and by `Workers`. Each line is the median of some
rounds: seconds by the clock, and of the processor of one worker, all of its threads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.planning.processes import on_workers
from ziggurat.system.platform import processor_name

SIZES = (8, 1 << 10, 1 << 14, 1 << 17, 1 << 20, 1 << 22)  # bytes
RESULTS = Path(__file__).with_name("results.json")

Talk = Callable[[], object]


def talks(workers: Workers, size: int) -> dict[str, tuple[Talk, Talk]]:
    """Return by kind what is done by gloo, and by `Workers`."""
    other = 1 - workers.rank
    mine, room, whole = torch.zeros(size // 4), torch.empty(size // 4), torch.empty(size // 4 * 2)
    group = dist.group.WORLD

    def swap_by_gloo() -> None:
        works = [group.recv([room], other, 0), group.send([mine], other, 0)]
        for work in works:
            work.wait()

    return {
        "swap": (swap_by_gloo, lambda: workers.start_swap([(other, mine)], [(other, room)]).wait()),
        "all-gather": (
            lambda: dist.all_gather_single(whole, mine),
            lambda: workers.start_all_gather(whole, mine).wait(),
        ),
        "all-reduce": (lambda: dist.all_reduce(mine), lambda: workers.add_up(mine)),
        "barrier": (dist.barrier, workers.barrier),
    }


def cost(talk: Talk, workers: Workers, repeats: int) -> tuple[float, float]:
    """Return seconds of one call by the clock, and of the processor of one worker, the mean of both."""
    workers.barrier()
    begin, used = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        talk()
    seconds, used = time.perf_counter() - begin, time.process_time() - used
    both: Tensor = workers.all_gather(torch.tensor([seconds, used], dtype=torch.float64)).view(-1, 2)
    mean = both.mean(0) / repeats
    return float(mean[0]), float(mean[1])


def run(workers: Workers, sizes: Sequence[int], rounds: int, repeats: int) -> list[dict[str, Any]]:
    """Return a row for each kind and size."""
    rows = []
    for size in sizes:
        for kind, ways in talks(workers, size).items():
            if kind == "barrier" and size != sizes[0]:
                continue
            found: dict[str, list[tuple[float, float]]] = {"gloo": [], "socket": []}
            for number in range(rounds + 1):  # the first warms up
                for way, talk in list(zip(found, ways, strict=True))[:: -1 if number % 2 else 1]:
                    one = cost(talk, workers, max(5, repeats * 1000 // (1000 + size // 100)))
                    if number:
                        found[way].append(one)
            row: dict[str, Any] = {"kind": kind, "bytes": 0 if kind == "barrier" else size}
            for way, some in found.items():
                row[way] = {
                    "microseconds": 1e6 * statistics.median(seconds for seconds, _ in some),
                    "processor_microseconds": 1e6 * statistics.median(used for _, used in some),
                }
            rows.append(row)
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print a table, and keep the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=300, help="of small messages, in a round")
    parser.add_argument(
        "--quick", action="store_true", help="a form of seconds, which shows that it runs and is not written"
    )
    options = parser.parse_args(words)
    sizes = SIZES
    if options.quick:
        sizes, options.rounds, options.repeats = SIZES[:3], 1, 10
    rows = on_workers(run, 2, (sizes, options.rounds, options.repeats))[0]
    print("kind          bytes   gloo, us (processor)   socket, us (processor)")
    for row in rows:
        figures = (
            f"{row[way]['microseconds']:9.0f} ({row[way]['processor_microseconds']:6.0f})"
            for way in ("gloo", "socket")
        )
        print(f"{row['kind']:10s} {row['bytes']:8d} {'    '.join(figures)}")
    if not options.quick:
        found = {"torch": torch.__version__, "processor": processor_name(), "rows": rows}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
