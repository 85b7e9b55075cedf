"""What one GPU can prove in eight minutes, in one command (``make gpu``), as one JSON file.

    numbers     every task, some steps in fp32 on the CPU and on the GPU: losses, norms, weights and metrics
    repeat      the same run twice on the GPU: the same bits
    two         two workers on the one GPU (gloo), dp=2: the bits of one worker
    parts       sp=2, pp=2, tp=2, lp=2 and fsdp=2 with two workers on the one GPU: the numbers of one worker
    verify      a step in float64 under sp=2, pp=2 and tp=2 against one worker, both on the GPU: all of a run's state
    resume      a run that began on two workers goes on with one: the same bits
    bf16        the same run twice: the same bits, and losses near those of fp32
    speed       images per second and memory of a training step, beside torchvision's model on the same device

Each run is a command in a process of its own, so that one that crashes or hangs is one line of the report. What no time is
left for is said. ``--device cpu --quick`` is the same walk in seconds on any machine: make test takes it, so that this file
is whole when a GPU is at hand.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:
    sys.path.insert(0, str(HERE.parent))

from support.words import sets  # noqa: E402 - a script finds the tests' folder first
from sweep.bits import Command, command, largest_difference  # noqa: E402 - a script finds the tests' folder first

THROUGHPUT = HERE.parents[1] / "benchmarks" / "throughput" / "main.py"
TASKS = {
    "detect": {"model.name": "fcos-resnet18-fpn"},
    "classify": {"model.name": "timm:resnet18", "data.resize": 128},
    "segment": {"model.name": "smp:unet/resnet18", "loss.segmentation": "focal+dice"},
}
QUICK_TASKS = {"detect": {"model.name": "fcos-test_resnet-fpn"}}
BASE = {
    "threads": 1, "dtype": "fp32", "data.workers": 0, "data.crop": 128, "digits.size": 128, "digits.train_scenes": 24,
    "digits.val_scenes": 4, "model.levels": "p3-p5", "model.channels": 64, "model.head_depth": 2,
    "decode.max_detections": 20, "train.batch_size": 8, "train.microbatches": 4, "train.steps": 4, "train.warmup": 0,
    "train.optimizer": "sgd", "train.lr": 0.01, "train.clip_norm": 0, "train.ema": 0, "train.checkpoint_every": 2,
    "checkpoint.keep": 9, "launch.max_restarts": 0,
}  # fmt: skip
QUICK = {
    "data.crop": 64, "digits.size": 64, "digits.height_max": 48, "digits.train_scenes": 8, "digits.val_scenes": 2,
    "model.channels": 16, "model.head_depth": 1, "train.batch_size": 4, "train.microbatches": 2,
    "train.steps": 2, "train.checkpoint_every": 1, "train.report": "numbers",
}  # fmt: skip
SHARED = {"launch.backend": "gloo"}
"""Lets two workers share one GPU, which nccl refuses."""
PARTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "sp=2": ({}, ["detect", "classify", "segment"]),
    "pp=2": ({}, ["detect", "classify", "segment"]),
    "tp=2": ({"tensor.min_width": 8}, ["detect"]),
    "lp=2": ({}, ["detect"]),
    "fsdp=2": ({"pipeline.unit_bytes": 65536}, ["classify", "detect"]),
}
VERIFIED, VERIFIED_MODEL = ("sp=2", "pp=2", "tp=2"), "fcos-test_resnet-fpn"
LOSS, NORM, MOVED = 1e-3, 2e-2, 5e-2
"""Bounds in fp32 without TF32: of losses and of norms, relative; of weights, over the way that they have moved."""
BF16_LOSS = 0.05


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Attributes:
        digest: The hash of its weights.
        losses: Of its steps.
        norms: Of their gradients.
        metrics: Of its evaluation.
        weights: Its parameters and buffers by name.
    """

    digest: str
    losses: list[float]
    norms: list[float]
    metrics: dict[str, Any]
    weights: dict[str, np.ndarray]


class Walk:
    """The runs of one report; each is made once.

    Args:
        device: ``cuda`` or ``cpu``.
        is_quick: Whether networks and images are as small as can be.
        folder: Where the runs' folders are made.
        run_command: Runs a command.
    """

    def __init__(self, device: str, is_quick: bool, folder: Path, run_command: Command) -> None:
        self.device, self.folder, self.run_command = device, folder, run_command
        self.tasks = QUICK_TASKS if is_quick else TASKS
        self.base = BASE | (QUICK if is_quick else {})
        self.made: dict[str, Run] = {}

    def train(self, name: str, task: str, device: str = "", plan: str = "dp=1", **settings: Any) -> Run:
        """Train, unless a run of this name has been made; settings have ``__`` for their dots."""
        if name not in self.made:
            given = self.base | {"task": task, "device": device or self.device} | self.tasks[task]
            given |= {key.replace("__", "."): value for key, value in settings.items()}
            words = sets(given, plan=plan)
            out = self.folder / name
            result = self.run_command("train", "digits", "--plan", plan, "--out", out, *words)
            self.made[name] = self.read(out, result)
        return self.made[name]

    def resume(self, name: str, other: str, plan: str, step: int) -> Run:
        """Take a copy of a run back to a step, and let it go on under another plan."""
        out = self.folder / name
        subprocess.run(["cp", "-r", str(self.folder / other), str(out)], check=True)
        for path in (out / "checkpoints").iterdir():
            if int(path.name.removeprefix("step-")) > step:
                subprocess.run(["rm", "-r", str(path)], check=True)
        return self.read(out, self.run_command("train", "--plan", plan, "--out", out, "--resume"))

    def read(self, out: Path, result: dict[str, Any]) -> Run:
        """Read what a run has left."""
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if line["kind"] == "train"]
        return Run(
            result["weights_sha256"],
            [step["loss"] for step in steps],
            [step["gradient_norm"] for step in steps],
            result["metrics"],
            load_file(out / "weights.safetensors"),
        )

    def alone(self, task: str) -> Run:
        """Return the run of one worker on the device, in fp32."""
        return self.train(f"{task}-alone", task)

    def apart(self, run: Run, other: Run) -> dict[str, float]:
        """Return how far two runs are from each other: losses, norms, metrics, and weights over the way they went."""
        way = float(self.base["train.lr"]) * sum(other.norms)
        squares = [
            np.square(run.weights[name].astype(np.float64) - other.weights[name]).sum()
            for name in other.weights
            if "running" not in name and other.weights[name].dtype == np.float32
        ]
        return {
            "loss": max(abs(a - b) / abs(b) for a, b in zip(run.losses, other.losses, strict=True)),
            "norm": max(abs(a - b) / abs(b) for a, b in zip(run.norms, other.norms, strict=True)),
            "weights": float(np.sqrt(sum(squares))) / way,
            "metrics": largest_difference(run.metrics, other.metrics)[0],
        }

    def near(self, run: Run, other: Run) -> dict[str, Any]:
        """Say whether two runs have the same numbers, to rounding."""
        found = self.apart(run, other)
        is_near = found["loss"] <= LOSS and found["norm"] <= NORM and found["weights"] <= MOVED
        return {"ok": is_near, **found, "same bits": run.digest == other.digest}

    def same(self, run: Run, other: Run) -> dict[str, Any]:
        """Say whether two runs have the same bits, and how far they are apart if not."""
        is_same = run.digest == other.digest and run.metrics == other.metrics
        return {"ok": is_same} | ({} if is_same else self.apart(run, other))

    def checks(self) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        """Yield the checks, the most telling first: a name, and what makes the runs and compares them."""
        for task in self.tasks:
            yield (
                f"numbers: {task}",
                lambda task=task: self.near(self.alone(task), self.train(f"{task}-cpu", task, device="cpu")),
            )
            yield (
                f"repeat: {task}",
                lambda task=task: self.same(self.train(f"{task}-again", task), self.alone(task)),
            )
            yield (
                f"two: {task}",
                lambda task=task: self.same(
                    self.train(f"{task}-two", task, plan="dp=2", **SHARED), self.alone(task)
                ),
            )
        for plan, (settings, tasks) in PARTS.items():
            for task in [task for task in tasks if task in self.tasks]:
                given = settings | SHARED
                yield (
                    f"parts: {task} under {plan}",
                    lambda task=task, plan=plan, given=given: self.near(
                        self.train(f"{task}-{plan}", task, plan=plan, **given), self.alone(task)
                    ),
                )
        for plan in VERIFIED:
            yield f"verify: {plan}", lambda plan=plan: self.verify(plan)
        yield (
            "resume: detect",
            lambda: self.same(
                self.resume("resumed", "detect-two", "dp=1", step=int(self.base["train.steps"]) // 2),
                self.alone("detect"),
            ),
        )
        for task in self.tasks:
            yield f"bf16: {task}", lambda task=task: self.bf16(task)

    def verify(self, plan: str) -> dict[str, Any]:
        """Hold a step under a plan against the same on one worker."""
        given = {**SHARED, "device": self.device, "threads": 1, "model.channels": 16}
        given |= {"tensor.min_width": 8} if "tp" in plan else {}
        words = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
        found = self.run_command("verify", VERIFIED_MODEL, "--input", "2x3x64x64", "--plan", plan, *words)
        return {
            key: value for key, value in found.items() if key in ("ok", "device") or key.endswith("_error")
        }

    def bf16(self, task: str) -> dict[str, Any]:
        """Train in bf16 twice."""
        first, second = (self.train(f"{task}-bf16-{n}", task, dtype="bf16") for n in (1, 2))
        loss = self.apart(first, self.alone(task))["loss"]
        return {"ok": first.digest == second.digest and loss <= BF16_LOSS, "loss against fp32": loss}


def speed(device: str, is_quick: bool) -> dict[str, Any]:
    """Return images per second and memory of training steps beside torchvision's, by head."""
    sys.path.insert(0, str(THROUGHPUT.parent))  # its files import each other, as where it is run by itself
    benchmark = runpy.run_path(str(THROUGHPUT))
    size, rounds = (64, 1) if is_quick else (800, 5)
    heads = ["fcos"] if is_quick else ["fcos", "retinanet"]
    backbone = "test_resnet" if is_quick else "resnet50"
    return {
        head: benchmark["beside_torchvision"](head, size, rounds, device, f"{head}-{backbone}-fpn")
        for head in heads
    }


def measured_apart(device: str, is_quick: bool, seconds: float) -> dict[str, Any]:
    """Measure the speed in a process of its own, whose memory is its own and whose TF32 is PyTorch's default."""
    words = [sys.executable, __file__, "--device", device, "--speed", *(["--quick"] if is_quick else [])]
    environment = {name: value for name, value in os.environ.items() if name != "NVIDIA_TF32_OVERRIDE"}
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def make_report(
    walk: Walk, measure: Callable[[float], dict[str, Any]], limit: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Go through all checks and the speed.

    Args:
        walk: The runs.
        measure: Measures the speed within some seconds.
        limit: Seconds for everything; what is left then is not run.
        say: Takes a line for each check.

    Returns:
        ``ok``, ``checks`` by name, ``speed``, ``seconds``, and what it was computed on.
    """
    began = time.monotonic()
    checks: dict[str, dict[str, Any]] = {}
    for name, check in walk.checks():
        start = time.monotonic()
        if start - began > 0.75 * limit:
            checks[name] = {"ok": None, "why": "no time was left"}
        else:
            try:
                checks[name] = check()
            except (RuntimeError, subprocess.SubprocessError, OSError, KeyError) as error:
                checks[name] = {"ok": False, "why": str(error)[-1500:]}
            checks[name]["seconds"] = round(time.monotonic() - start, 1)
        say(f"{name}: {checks[name]}")
    try:
        measured = measure(max(30.0, limit - (time.monotonic() - began)))
    except (RuntimeError, subprocess.SubprocessError) as error:
        measured = {"why": str(error)[-1500:]}
    return {
        "ok": all(found["ok"] for found in checks.values()) and "why" not in measured,
        "device": walk.device,
        "gpu": torch.cuda.get_device_name() if walk.device == "cuda" else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "checks": checks,
        "speed": measured,
        "seconds": time.monotonic() - began,
    }


def main(words: Sequence[str] | None = None) -> int:
    """Make the report and write it."""
    parser = argparse.ArgumentParser(description="What one GPU can prove, in one JSON file.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="the smallest networks")
    parser.add_argument("--limit", type=float, default=480, help="seconds for everything")
    parser.add_argument("--out", type=Path, default=Path("gpu-report.json"))
    parser.add_argument("--speed", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("make gpu needs a GPU, and PyTorch finds none here; --device cpu --quick shows that it runs")
        return 2
    if options.speed:
        print(json.dumps(speed(options.device, options.quick)))
        return 0
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # fp32 as the CPU computes it
    with tempfile.TemporaryDirectory() as name:
        walk = Walk(options.device, options.quick, Path(name), command)
        report = make_report(
            walk, lambda seconds: measured_apart(options.device, options.quick, seconds), options.limit, print
        )
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{'all is well' if report['ok'] else 'NOT ALL IS WELL'}: {options.out}")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
