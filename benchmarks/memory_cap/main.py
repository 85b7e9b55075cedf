"""How large an image can be trained on, if every worker may have so much memory and no more?

Each worker's address space is limited (RLIMIT_AS) to what it has before the step plus a budget: activations, halos,
gradients and whatever else the step needs must fit into the budget. The largest square image whose training step ends is
searched for with 1, 2 and 4 workers.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import segmentation_models_pytorch as smp
import torch

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.launch import WorkerFailed, WorkerSettings, launch
from ziggurat.parallel.spatial import SpatialTensor, cut
from ziggurat.strategies.spread import spread
from ziggurat.system.forking import fork_context
from ziggurat.system.platform import processor_name

MULTIPLE = 64  # sides that are tried
TOO_LARGE = 3
SIGNS_OF_TOO_LITTLE = ("memory", "alloc", "was killed", "Connection closed", "Connection reset")


def address_space() -> int:
    """Return the bytes of this process's address space."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def step(workers: Workers, side: int, budget: int) -> float:
    """Take one training step of a U-Net under the limit, and return its seconds."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = (
        smp.Unet("resnet18", encoder_weights=None, classes=2).to(memory_format=torch.channels_last).train()
    )
    spread(model, f"sp={workers.size}", workers)
    tiny = model(torch.rand(2, 3, 64 * workers.size, 64))  # libraries take their own memory at first use
    tiny.square().mean().backward()
    model.zero_grad()
    limit = address_space() + budget
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    images = torch.rand(1, 3, 1, 1).expand(1, 3, side, side)  # no memory: each worker makes its band of it
    begin = time.perf_counter()
    if workers.size > 1:
        mesh = tiny.mesh
        bands = cut(images, mesh)
        images = SpatialTensor(bands.local.contiguous(memory_format=torch.channels_last), bands.dims, mesh)
    else:
        images = images.contiguous(memory_format=torch.channels_last)
    model(images).square().mean().backward()
    return time.perf_counter() - begin


def attempt(side: int, world: int, budget: int) -> int:
    """Take the step, and return the exit status: 0 if it has ended, `TOO_LARGE` if memory did not suffice."""
    try:
        launch(step, (side, budget), world, WorkerSettings(1, "cpu"))
    except (WorkerFailed, RuntimeError, MemoryError) as error:
        if not any(word in str(error) for word in SIGNS_OF_TOO_LITTLE):
            raise
        return TOO_LARGE
    return 0


def fits(side: int, world: int, budget: int) -> bool:
    """Say whether a training step of an image ends under the limit, in processes of its own."""
    command = [sys.executable, __file__, "--attempt", str(side), str(world), str(budget)]
    status = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    if status not in (0, TOO_LARGE):
        raise SystemExit(f"the attempt with {world} workers at {side} x {side} ended with status {status}")
    return status == 0


def largest(world: int, budget: int, first: int) -> int:
    """Return the side of the largest square that fits, a multiple of `MULTIPLE`."""
    low, high = 0, 0
    side = first
    while True:  # enlarge until it does not fit
        print(f"  {world} workers, {side} x {side}: ", end="", flush=True)
        good = fits(side, world, budget)
        print("fits" if good else "does not fit", flush=True)
        low, high = (side, high) if good else (low, side)
        if high and high - low <= MULTIPLE:
            return low
        step_up = max(MULTIPLE, low // 5 // MULTIPLE * MULTIPLE)
        side = (low + high) // 2 // MULTIPLE * MULTIPLE if high else low + step_up
        side = max(side, MULTIPLE)


def show_that_it_runs() -> None:
    """Take a step that fits and one that does not, with one worker and with two."""
    for world in (1, 2):
        statuses = []
        for side in (128, 4096):  # each in a process of its own: a limit cannot be raised again
            process = fork_context().Process(
                target=lambda *words: sys.exit(attempt(*words)), args=(side, world, 256 << 20)
            )
            process.start()
            process.join()
            statuses.append(process.exitcode)
        print(f"{world} workers: {statuses}", flush=True)
        assert statuses == [0, TOO_LARGE]


def main(words: Sequence[str] | None = None) -> None:
    """Search, print the table and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=768, help="budget of each worker")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument(
        "--attempt", type=int, nargs=3, metavar=("SIDE", "WORKERS", "BYTES"), help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--quick", action="store_true", help="a form of seconds, which shows that it runs and is not written"
    )
    options = parser.parse_args(words)
    if options.quick:
        show_that_it_runs()
        return
    if options.attempt:
        sys.exit(attempt(*options.attempt))
    sides: dict[int, int] = {}
    for world in options.workers:
        guess = sides[1] * world**0.5 if 1 in sides else 768
        sides[world] = largest(world, options.megabytes << 20, int(guess) // MULTIPLE * MULTIPLE)
    base = sides[options.workers[0]]
    for world, side in sides.items():
        print(f"{world} workers: {side} x {side}, {side**2 / base**2:.2f} times the pixels", flush=True)
    result = {
        "megabytes": options.megabytes, "model": "smp U-Net, resnet18, float32, batch 1",
        "largest_side": sides, "torch": torch.__version__, "processor": processor_name(),
    }  # fmt: skip
    Path(__file__).with_name("results.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
