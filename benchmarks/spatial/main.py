"""What does cutting one image over workers cost and gain? Memory, speed and where the time goes, as ratios in one run.

A training step, and inference, of FCOS ResNet-50-FPN on one image in bf16, on one worker of one thread and on several.
One worker and several take turns inside the same processes: while one computes alone, the others wait.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ziggurat.config import RunConfig, override
from ziggurat.data.batch import Microbatch, SampleId
from ziggurat.data.extents import cut_out
from ziggurat.models.build import build_model
from ziggurat.models.vision import place_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.launch import WorkerSettings, launch
from ziggurat.strategies.base import Setting
from ziggurat.strategies.mesh import Mesh, make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.running import Microbatches
from ziggurat.strategies.setting import image_spec
from ziggurat.strategies.state import TrainState
from ziggurat.system.platform import processor_name
from ziggurat.tasks.detection.targets import ObjectTargets
from ziggurat.tasks.registry import make_task
from ziggurat.training.feed import SampleFeed
from ziggurat.training.optimization import make_optimizer
from ziggurat.training.step import Step
from ziggurat.verification.memory import PeakBytes

MODEL, QUICK_MODEL = "fcos-resnet50-fpn", "fcos-test_resnet-fpn"
NUM_CLASSES, NUM_OBJECTS = 80, 60


def make_batch(height: int, width: int) -> Microbatch:
    """Return one image with objects, from 16 to 400 pixels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator)
    most = min(384, min(height, width) - 16)
    sides = 16 + most * torch.rand((NUM_OBJECTS, 2), generator=generator).square()
    corners = torch.rand((NUM_OBJECTS, 2), generator=generator) * (torch.tensor([width, height]) - sides)
    boxes = torch.cat([corners, corners + sides], dim=1)
    labels = torch.randint(0, NUM_CLASSES, (NUM_OBJECTS,), generator=generator)
    targets = ObjectTargets(boxes, labels, (NUM_OBJECTS,))
    return Microbatch(0, (SampleId(0, 0),), images, ((height, width),), targets)


class Steps:
    """Training steps and inference under a plan.

    Args:
        workers: Of the plan; they call this together.
        plan: Of as many workers.
        batch: Whole.
        name: The model's.
    """

    def __init__(self, workers: Workers, plan: str, batch: Microbatch, name: str) -> None:
        torch.manual_seed(0)
        settings = {"model.name": name, "task": "detect", "dtype": "bf16", "train.optimizer": "sgd"}
        self.config = override(RunConfig(), settings)
        self.mesh = mesh = make_mesh(workers, plan)
        self.model = place_model(build_model(self.config.model, NUM_CLASSES), mesh.home, True).train()
        self.state = TrainState.start(self.model, make_optimizer(self.model, self.config.train))
        self.feed = SampleFeed(self.model, mesh, self.config, lambda: self.state.step)
        setting = Setting(image_spec(batch.images_BCHW.shape, True, mesh), self.config, 1, self.feed.compute)
        self.parallel = Parallel(self.state, mesh, setting)
        task = make_task(self.model, self.config)
        self.step = Step(self.parallel, task, self.feed, self.config.train.clip_norm)
        part = mesh.part(*batch.extent)
        self.batch = batch
        if part is not None:
            self.batch = replace(batch, images_BCHW=cut_out(batch.images_BCHW, part.tile), part=part)

    def train(self) -> None:
        """Take the step of ``ziggurat train``."""
        self.model.train()
        self.step([self.batch], 1)
        self.state.complete()

    def infer(self) -> None:
        """Run the model, without what comes after it."""
        self.model.eval()
        executor = self.parallel.executor
        with executor.context():
            executor.run(
                Microbatches(1, lambda i: self.feed.images(self.batch), lambda o, i: None, self.feed.compute)
            )
            executor.end()


def timed(action: Callable[[], None], mesh: Mesh) -> dict[str, float]:
    """Run once, and say where the time went."""
    traffic = [axis.traffic for axis in mesh.spatial.axes] if mesh.spatial else []
    before = [(t.seconds, t.moving, t.bytes_sent) for t in traffic]
    begin = time.perf_counter()
    action()
    seconds = time.perf_counter() - begin
    waiting, halo, sent = (
        (
            sum(now - then[i] for now, then in zip(values, before, strict=True))
            for i, values in enumerate(
                zip(*((t.seconds, t.moving, t.bytes_sent) for t in traffic), strict=True)
            )
        )
        if traffic
        else (0.0, 0.0, 0.0)
    )
    return {
        "seconds": seconds, "waiting": waiting, "halo": halo, "compute": seconds - waiting - halo,
        "megabytes": sent / 1e6,
    }  # fmt: skip


def run(
    workers: Workers, plan: str, size: tuple[int, int], warm_up: int, rounds: int, what: str, model: str
) -> dict[str, Any]:
    """Measure memory once, and time in turns; returns all workers' figures on the first.

    In the first rounds, which are not counted, the processes get their memory from the system, page by page.
    """
    warnings.simplefilter("ignore")
    batch = make_batch(*size)
    alone = Steps(Workers(), "dp=1", batch, model)
    together = Steps(workers, plan, batch, model)
    peaks = []
    for steps in (alone, together):
        workers.barrier()
        if steps is together or workers.is_first:
            with PeakBytes([]) as memory:  # weights are not counted; their gradients in backward are
                getattr(steps, what)()
            peaks.append(memory.peak)
        workers.barrier()
    times: list[tuple[float, dict[str, float]]] = []
    for number in range(warm_up + rounds):
        order = (alone, together) if number % 2 == 0 else (together, alone)
        seconds: dict[Any, dict[str, float]] = {}
        for steps in order:
            workers.barrier()
            if steps is together or workers.is_first:
                seconds[steps] = timed(getattr(steps, what), steps.mesh)
            workers.barrier()
        if number >= warm_up:
            times.append((seconds[alone]["seconds"] if alone in seconds else 0.0, seconds[together]))
    of_all = workers.gather((peaks[-1], [together_ for _, together_ in times]))
    return {
        "memory": [peak / peaks[0] for peak, _ in of_all],
        "peak_megabytes": {"alone": peaks[0] / 1e6, "together": [peak / 1e6 for peak, _ in of_all]},
        "speed": [one / max(w[1][i]["seconds"] for w in of_all) for i, (one, _) in enumerate(times)],
        "seconds_alone": [one for one, _ in times],
        "of_each_worker": [
            {key: statistics.median(t[key] for t in of_worker) for key in of_worker[0]} for _, of_worker in of_all
        ],
    }  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    """Measure every plan, print the table and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--size", type=int, nargs=2, default=[2048, 1536], help="rows and columns of the image"
    )
    parser.add_argument("--warm-up", type=int, default=4, help="rounds that are not counted")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plans", nargs="+", default=["sp=2", "sp=4"])
    parser.add_argument(
        "--quick", action="store_true", help="a form of seconds, which shows that it runs and is not written"
    )
    options = parser.parse_args(words)
    model = QUICK_MODEL if options.quick else MODEL
    if options.quick:
        options.size, options.warm_up, options.rounds, options.plans = [128, 96], 0, 1, ["sp=2"]
    results: dict[str, Any] = {}
    for what in ("train", "infer"):
        for plan in options.plans:
            world = int(plan.split("=")[1])
            found = launch(
                run,
                (plan, tuple(options.size), options.warm_up, options.rounds, what, model),
                world,
                WorkerSettings(1, "cpu"),
            )
            assert found is not None
            results[f"{what}, {plan}"] = found
            speeds = found["speed"]
            print(
                f"{what}, {plan}: memory {max(found['memory']):.3f}, speed {statistics.median(speeds):.2f} "
                f"({min(speeds):.2f}-{max(speeds):.2f})", flush=True,
            )  # fmt: skip
            for rank, worker in enumerate(found["of_each_worker"]):
                print(
                    f"   worker {rank}: " + ", ".join(f"{k} {v:.2f}" for k, v in worker.items()), flush=True
                )
    if options.quick:
        return
    result = {
        "size": options.size,
        "warm_up": options.warm_up,
        "torch": torch.__version__,
        "processor": processor_name(),
        "results": results,
    }
    Path(__file__).with_name("results.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
