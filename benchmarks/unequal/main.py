"""What is gained by shares of microbatches that follow the workers' speeds, where one worker is half as fast?

The same steps are taken with even shares and with ``plan.shares=measured``, by the run's own parts: `Parallel` and `Balance`. In each microbatch
a worker sleeps, the last one twice as long, which is exact and takes no processor; or it multiplies matrices on a core of its own, and the
last one has to share that with another program.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.config import RunConfig, override
from ziggurat.parallel.collectives.canonical import partition
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.trace import spec_of
from ziggurat.parallel.runtime.launch import WorkerSettings, launch
from ziggurat.strategies.base import Setting
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.running import Microbatches
from ziggurat.strategies.state import TrainState
from ziggurat.system.platform import processor_name
from ziggurat.training.unequal_workers import Balance

MICROBATCHES = 16
PRODUCTS = 20  # of matrices, in place of a sleep


class Silent:
    """A log that nobody reads."""

    def say(self, message: str) -> None:
        """Say nothing."""

    def balance(self, values: dict[str, Any]) -> None:
        """Record nothing."""


def run(
    workers: Workers, shares: str, num_steps: int, milliseconds: int, after_change: int | None
) -> dict[str, Any]:
    """Take steps of a small network, and return their seconds, the shares of each, and a hash of the weights.

    Args:
        workers: Who take them.
        shares: As ``plan.shares`` has it.
        num_steps: At most.
        milliseconds: Of sleep in a microbatch; 0 to multiply matrices.
        after_change: Steps to the end after the first change of shares; None for all.
    """
    torch.manual_seed(0)
    if not milliseconds:
        os.sched_setaffinity(0, {workers.rank})
    images = [
        torch.randn(4, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(MICROBATCHES)
    ]
    net = nn.Linear(64, 64)
    state = TrainState.start(net, torch.optim.SGD(net.parameters(), lr=1e-3))
    setting = Setting(
        spec_of(images[0]), override(RunConfig(), {"pipeline.shares": shares}), MICROBATCHES, nullcontext
    )
    parallel = Parallel(state, make_mesh(workers), setting)
    balance, work = Balance(parallel, Silent()), _work(workers, milliseconds)
    seconds, counts = [], []
    with balance.measuring():
        for step in range(num_steps):
            balance.before_step()
            begin = time.perf_counter()
            parallel.start(MICROBATCHES)
            mine = [images[index] for index in parallel.mine]
            parallel.losses(Microbatches(len(mine), mine.__getitem__, loss_of, nullcontext, announce=work))
            parallel.finish_gradients()
            parallel.update()
            seconds.append(time.perf_counter() - begin)
            counts.append(",".join(str(len(part)) for part in parallel.parts))
            state.complete()
            balance.after_step(step + 1, 0.0, seconds[-1])
            changed = len(counts) - counts.count(counts[0])  # steps with other shares than the first
            if after_change is not None and changed >= after_change:
                break
    facts = balance.facts()
    parallel.close()
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in net.parameters())).hexdigest()
    each = [] if facts is None else [one["microbatch_seconds"] for one in facts["workers"]]
    return {"seconds": seconds, "counts": counts, "weights_sha256": digest, "microbatch_seconds": each}


def _work(workers: Workers, milliseconds: int) -> Callable[[str, int], None]:
    """Return what takes time in each microbatch."""
    matrix = torch.randn(256, 256)
    pause = milliseconds / 1000 * (2 if workers.rank == workers.size - 1 else 1)

    def work(name: str, index: int) -> None:
        if name != "forward":
            return
        time.sleep(pause)
        for _ in range(0 if milliseconds else PRODUCTS):
            matrix @ matrix

    return work


def loss_of(outputs: Tensor, index: int) -> Tensor:
    """Return a loss."""
    return (outputs**2).sum()[None] * 1e-3


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


def compare(
    num_workers: int, num_steps: int, milliseconds: int, after_change: int | None = None
) -> dict[str, Any]:
    """Return the figures of so many workers; without milliseconds a competitor is on the last one's core.

    Args:
        num_workers: Who take the steps.
        num_steps: At most.
        milliseconds: Of sleep in a microbatch.
        after_change: Steps to the end after the first change of shares; None for all.
    """
    found = {}
    for shares in ("measured", "even"):
        place = WorkerSettings(1, "cpu", RunConfig().launch)
        with nullcontext() if milliseconds else competitor(num_workers - 1):
            result = launch(run, (shares, num_steps, milliseconds, after_change), num_workers, place)
        assert result is not None
        num_steps, after_change = len(result["seconds"]), None  # even shares: as many steps
        late, counts = sorted(result["seconds"][num_steps // 2 :]), result["counts"]
        found[shares] = {
            "step_seconds": statistics.median(late),
            "spread": [late[len(late) // 20], late[-1 - len(late) // 20]],
            "changes": [
                [step, new] for step, (old, new) in enumerate(itertools.pairwise(counts), 2) if old != new
            ],
            "microbatch_seconds": result["microbatch_seconds"],
            "weights_sha256": result["weights_sha256"],
        }
    return {
        "workers": num_workers,
        "slowed_by": f"sleeps of {2 * milliseconds} ms" if milliseconds else "a competitor on its core",
        "steps": num_steps,
        **found,
        "speedup": found["even"]["step_seconds"] / found["measured"]["step_seconds"],
        "bound": bound_of(found["even"]["microbatch_seconds"]),
        "same_bits": found["even"]["weights_sha256"] == found["measured"]["weights_sha256"],
    }


def bound_of(each: Sequence[float]) -> float:
    """Return the most that shares can gain over even ones, if microbatches could be divided and messages took no time.

    Args:
        each: Seconds of a microbatch on each worker.
    """
    parts = partition(MICROBATCHES, len(each))
    even = max((len(part) * one for part, one in zip(parts, each, strict=False)), default=0.0)
    return even * sum(1 / one for one in each) / MICROBATCHES


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures, and write them beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a form of seconds, which writes nothing")
    quick = parser.parse_args(arguments).quick
    cases = [(2, 99, 30, 6)] if quick else [(2, 500, 20), (3, 60, 20), (4, 60, 20), (2, 100, 0)]
    figures = []
    for case in cases:
        figures.append(compare(*case))
        print(json.dumps(figures[-1]), flush=True)
    if not quick:
        results = {"torch": torch.__version__, "processor": processor_name(), "figures": figures}
        Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
