"""How fast is training and inference, against torchvision's own model in a plain loop, and on two workers?

All variants are measured in one run, in rounds that take each variant once, so that a slow moment of the machine
strikes all of them. Each ratio is taken within its round; the median and the range over rounds are reported.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from roofline import roofline
from variants import MODEL, PER_MICROBATCH, QUICK_MODEL, Ours, Peer, ratio, seconds_of

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.launch import WorkerSettings, launch

PARTS = ["workers", "machine", "torchvision", "roofline"]


def beside_torchvision(head: str, size: int, rounds: int, device: str, model: str) -> dict[str, Any]:
    """Return images per second and, on a GPU, the most bytes of a training step: of ours and of torchvision's model.

    Args:
        head: ``fcos`` or ``retinanet``.
        size: Rows and columns of the images.
        rounds: In each of which every variant takes a step.
        device: Where all is computed.
        model: Our model.
    """
    workers = Workers(device=torch.device(device))
    makers = {
        f"{name} {dtype}": partial(Peer, size, dtype, head, device)
        if name == "torchvision"
        else partial(Ours, size, dtype, workers, 1, model)
        for name in ("torchvision", "ziggurat")
        for dtype in ("fp32", "bf16")
    }
    peaks: dict[str, int] = {}
    variants: dict[str, Peer | Ours] = {}
    for name, make in makers.items():
        variants[name] = make()
        before = torch.cuda.memory_allocated() if device == "cuda" else 0
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        variants[name].train_step()  # warm-up
        if device == "cuda":
            peaks[name] = torch.cuda.max_memory_allocated() - before
    seconds = [{name: seconds_of(v.train_step) for name, v in variants.items()} for _ in range(rounds)]
    return {
        "images_per_second": {
            name: PER_MICROBATCH / statistics.median(row[name] for row in seconds) for name in variants
        },
        "bytes of a step above weights": peaks,
        "ziggurat / torchvision": {
            dtype: ratio(seconds, f"torchvision {dtype}", f"ziggurat {dtype}") for dtype in ("fp32", "bf16")
        },
    }


def against_torchvision(size: int, rounds: int, model: str = MODEL) -> dict[str, Any]:
    """Seconds of each variant in each round; one process, one thread."""
    torch.set_num_threads(1)
    variants = {
        f"{name} {dtype}": Peer(size, dtype)
        if name == "torchvision"
        else Ours(size, dtype, Workers(), 1, model)
        for name in ("torchvision", "ziggurat")
        for dtype in ("fp32", "bf16")
    }
    report: dict[str, Any] = {}
    for work in ("train_step", "infer"):
        for variant in variants.values():
            getattr(variant, work)()  # warm-up
        seconds = [
            {name: seconds_of(getattr(v, work)) for name, v in variants.items()} for _ in range(rounds)
        ]
        report[work] = {
            "images_per_second": {
                name: round(PER_MICROBATCH / statistics.median(row[name] for row in seconds), 3)
                for name in variants
            },
            "ziggurat bf16 / torchvision fp32 (its default)": ratio(
                seconds, "torchvision fp32", "ziggurat bf16"
            ),
            "ziggurat fp32 / torchvision fp32": ratio(seconds, "torchvision fp32", "ziggurat fp32"),
            "ziggurat bf16 / torchvision bf16": ratio(seconds, "torchvision bf16", "ziggurat bf16"),
        }
    return report


def timed_steps(
    workers: Workers, size: int, dtype: str, num_microbatches: int, steps: int, model: str = MODEL
) -> list[float]:
    """Seconds of each step on the slowest worker."""
    ours = Ours(size, dtype, workers, num_microbatches, model)
    ours.train_step()
    seconds = []
    for _ in range(steps):
        workers.barrier()
        begin = time.perf_counter()
        ours.train_step()
        workers.barrier()
        seconds.append(time.perf_counter() - begin)
    return seconds


def scaling(size: int, dtype: str, rounds: int, steps: int = 3, model: str = MODEL) -> dict[str, float]:
    """How many times faster two workers of one thread are than one, on the same global batch."""
    rows = []
    for _ in range(rounds):
        row = {}
        for count in (1, 2):
            arguments = (size, dtype, 2, steps, model)
            seconds = launch(timed_steps, arguments, count, WorkerSettings(1, "cpu"))
            assert seconds is not None
            row[str(count)] = statistics.median(seconds)
        rows.append(row)
    return ratio(rows, "1", "2")


def timed_peer(workers: Workers, size: int, dtype: str, steps: int) -> list[float]:
    """Seconds of each step of torchvision's model, in one process with as many threads as it was given."""
    peer = Peer(size, dtype)
    peer.train_step()
    return [seconds_of(peer.train_step) for _ in range(steps)]


def whole_machine(size: int, rounds: int, steps: int = 3, model: str = MODEL) -> dict[str, Any]:
    """Training on two cores: torchvision's default (one process, two threads) and two workers of one thread."""
    rows = []
    for _ in range(rounds):
        ours = launch(timed_steps, (size, "bf16", 2, steps, model), 2, WorkerSettings(1, "cpu"))
        peer = launch(timed_peer, (size, "fp32", steps), 1, WorkerSettings(2, "cpu"))
        assert ours is not None
        assert peer is not None
        # Seconds for the images of one microbatch: ours takes two of them a step.
        rows.append(
            {"ziggurat bf16": statistics.median(ours) / 2, "torchvision fp32": statistics.median(peer)}
        )
    torch.set_num_threads(1)
    return ratio(rows, "torchvision fp32", "ziggurat bf16")


def show_that_it_runs() -> None:
    """Measure each part in its shortest form: one round of one step, of a small network on small images."""
    report = {
        "workers": scaling(64, "fp32", 1, 1, QUICK_MODEL),
        "machine": whole_machine(64, 1, 1, QUICK_MODEL),
        "torchvision": against_torchvision(64, 1, QUICK_MODEL),
        "roofline": roofline(64, "bf16", 1, 1, QUICK_MODEL, with_peer=False),
    }
    print(json.dumps(report, indent=2))


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="at 400 pixels; half as many at 800")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured anew")
    parser.add_argument(
        "--quick", action="store_true", help="a form of seconds, which shows that it runs and is not written"
    )
    parser.add_argument("--threads", type=int, default=2, help="of the roofline and what is held against it")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    if options.quick:
        show_that_it_runs()
        return
    half = -(-options.rounds // 2)
    results = Path(__file__).with_name("results.json")
    report: dict[str, Any] = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    report["environment"] = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "bf16 units": {
            "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
            "amx": torch.cpu._is_amx_tile_supported(),
        },
        "platform": platform.platform(),
    }
    if "workers" in options.parts:
        report["400 pixels, 2 workers / 1 worker"] = {
            dtype: scaling(400, dtype, options.rounds) for dtype in ("bf16", "fp32")
        }
    if "machine" in options.parts:
        report["two cores, 2 workers bf16 / torchvision fp32 with 2 threads"] = {
            f"{size} pixels": whole_machine(size, rounds)
            for size, rounds in ((400, options.rounds), (800, half))
        }
    if "torchvision" in options.parts:
        for size, rounds in ((400, options.rounds), (800, half)):
            report[f"{size} pixels, one thread"] = against_torchvision(size, rounds)
    if "roofline" in options.parts:
        report[f"roofline, {options.threads} threads"] = {
            f"{size} pixels, {dtype}": roofline(size, dtype, rounds, options.threads)
            for size, rounds in ((400, options.rounds), (800, half))
            for dtype in ("bf16", "fp32")
        }
    text = json.dumps(report, indent=2)
    results.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
