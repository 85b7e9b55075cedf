"""What is measured: the step of ``ziggurat train``, and torchvision's own model in a plain loop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import fcos_resnet50_fpn, retinanet_resnet50_fpn

from ziggurat.config import RunConfig, override
from ziggurat.data.batch import Microbatch, SampleId
from ziggurat.models.build import build_model
from ziggurat.models.vision import place_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.base import Setting
from ziggurat.strategies.executor import place_for_inference
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.running import Microbatches
from ziggurat.strategies.setting import image_spec
from ziggurat.strategies.state import TrainState
from ziggurat.tasks.detection.targets import ObjectTargets
from ziggurat.tasks.registry import make_task
from ziggurat.training.feed import SampleFeed
from ziggurat.training.optimization import make_optimizer
from ziggurat.training.step import Step

MODEL, QUICK_MODEL = "fcos-resnet50-fpn", "fcos-test_resnet-fpn"
CLASSES = 90
BOXES = 20
PER_MICROBATCH = 2


def make_microbatch(index: int, size: int) -> Microbatch:
    """Random pixels and boxes; the same for every variant."""
    generator = torch.Generator().manual_seed(index)
    images = torch.randint(0, 256, (PER_MICROBATCH, 3, size, size), dtype=torch.uint8, generator=generator)
    count, largest = PER_MICROBATCH * BOXES, min(70, size // 2)
    corner = torch.rand((count, 2), generator=generator) * (size - largest - 10)
    extent = 8 + torch.rand((count, 2), generator=generator) * largest
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    targets = ObjectTargets(torch.cat([corner, corner + extent], dim=1), labels, (BOXES,) * PER_MICROBATCH)
    ids = tuple(SampleId(0, index * PER_MICROBATCH + i) for i in range(PER_MICROBATCH))
    return Microbatch(index, ids, images, ((size, size),) * PER_MICROBATCH, targets)


PEERS = {"fcos": fcos_resnet50_fpn, "retinanet": retinanet_resnet50_fpn}


class Peer:
    """torchvision's model in the loop of its references: SGD, one process; bf16 is autocast."""

    def __init__(self, size: int, dtype: str, head: str = "fcos", device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.device = torch.device(device)
        self.model = PEERS[head](
            weights=None, weights_backbone=None, num_classes=CLASSES, min_size=size, max_size=size
        ).to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
        self.dtype = dtype
        batch = make_microbatch(0, size)
        self.images = [image.to(self.device).float() / 255 for image in batch.images_BCHW]
        boxes, labels = batch.targets.boxes_xyxy.split(BOXES), batch.targets.labels.split(BOXES)
        self.targets = [
            {"boxes": b.to(self.device), "labels": n.to(self.device)}
            for b, n in zip(boxes, labels, strict=True)
        ]

    def train_step(self) -> None:
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bf16"):
            losses = sum(self.model(self.images, self.targets).values())
        self.optimizer.zero_grad()
        losses.backward()
        self.optimizer.step()

    @torch.inference_mode()
    def infer(self) -> None:
        self.model.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bf16"):
            self.model(self.images)


class Ours:
    """The step of ``ziggurat train`` on microbatches that are in memory."""

    def __init__(
        self, size: int, dtype: str, workers: Workers, num_microbatches: int, name: str = MODEL
    ) -> None:
        settings = {
            "model.name": name,
            "task": "detect",
            "dtype": dtype,
            "train.optimizer": "sgd",
            "train.lr": 1e-4,
        }
        self.config = config = override(RunConfig(), settings)
        torch.manual_seed(0)
        mesh = make_mesh(workers)
        self.model = place_model(build_model(config.model, CLASSES), mesh.home, channels_last=True).train()
        self.task = make_task(self.model, config)
        self.state = TrainState.start(self.model, make_optimizer(self.model, config.train))
        self.feed = SampleFeed(self.model, mesh, config, lambda: self.state.step)
        spec = image_spec((PER_MICROBATCH, 3, size, size), True, mesh)
        parallel = Parallel(self.state, mesh, Setting(spec, config, num_microbatches, self.feed.compute))
        self.step = Step(parallel, self.task, self.feed, config.train.clip_norm)
        # as `ziggurat predict` places it
        self.executor = place_for_inference(self.model, mesh, Setting(spec, config, 1, self.feed.compute))
        self.num_microbatches = num_microbatches
        mine = parallel.microbatches_of(num_microbatches)
        self.batches = [make_microbatch(index, size).to(workers.device) for index in mine]

    def train_step(self) -> None:
        self.model.train()
        self.step(self.batches, self.num_microbatches)
        self.state.complete()

    def infer(self) -> None:
        """Compute a batch; within `inference`, as one of many that a prediction has."""
        with self.inference():
            self.executor.run(Microbatches(len(self.batches), self._images, self._found, self.feed.compute))
            self.executor.end()

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Let a block be a prediction: what is kept from batch to batch is forgotten at its end."""
        self.model.eval()
        with self.executor.context():
            yield

    def _images(self, index: int) -> Tensor:
        return self.feed.images(self.batches[index])

    def _found(self, outputs: Any, index: int) -> Any:
        return self.task.decode(outputs, self.batches[index].sizes)


def seconds_of(function: Callable[[], None]) -> float:
    begin = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def ratio(rows: list[dict[str, float]], slow: str, fast: str) -> dict[str, float]:
    """How many times faster `fast` is: the median and the range over rounds."""
    values = sorted(row[slow] / row[fast] for row in rows)
    return {
        "median": round(statistics.median(values), 3),
        "min": round(values[0], 3),
        "max": round(values[-1], 3),
        "rounds": len(values),
    }
