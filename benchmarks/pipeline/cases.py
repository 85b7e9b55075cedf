"""The steps that are measured: a network, its microbatches, and its loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from ziggurat.config import RunConfig, override
from ziggurat.data.batch import Microbatch, SampleId
from ziggurat.models.build import build_model
from ziggurat.models.vision import place_model
from ziggurat.tasks.detection.targets import ObjectTargets
from ziggurat.tasks.registry import make_task

NUM_CLASSES, NUM_OBJECTS = 80, 8


@dataclass(frozen=True)
class Case:
    """A step.

    Attributes:
        name: ``fcos-resnet50-fpn`` or torchvision's ``resnet50``.
        count: Microbatches.
        images: Of a microbatch.
        side: Rows and columns of an image.
        dtype: ``fp32`` or ``bf16``.
        schedule: Of the pipeline.
        cut: Where by hand; empty balances the measured times.
        checkpoint: ``none``, or ``stage`` computes activations again.
    """

    name: str
    count: int
    images: int
    side: int
    dtype: str
    schedule: str = "1f1b"
    cut: str = ""
    checkpoint: str = "none"

    def at(self, side: int) -> Case:
        """Return the case with images of another size."""
        return replace(self, side=side) if side else self

    def compute(self) -> AbstractContextManager[Any]:
        """Return a context in which the network computes."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bf16")


CASES = {
    "fcos-resnet50-fpn, bf16, m=4": Case("fcos-resnet50-fpn", 4, 1, 320, "bf16"),
    "fcos-resnet50-fpn, bf16, m=8": Case("fcos-resnet50-fpn", 8, 1, 320, "bf16"),
    "resnet50, fp32, m=4": Case("resnet50", 4, 2, 192, "fp32"),
    "resnet50, fp32, m=8": Case("resnet50", 8, 2, 192, "fp32"),
    "resnet50, fp32, m=4, gpipe": Case("resnet50", 4, 2, 192, "fp32", "gpipe"),
    "fcos-resnet50-fpn, bf16, m=4, computed again": Case(
        "fcos-resnet50-fpn", 4, 1, 320, "bf16", checkpoint="stage"
    ),
}

QUICK = {
    "fcos, m=2": Case("fcos-test_resnet-fpn", 2, 1, 64, "bf16"),
    "resnet50, m=2": Case("resnet50", 2, 1, 64, "fp32"),
}


@dataclass
class Step:
    """What a step is given.

    Attributes:
        model: The network, channels-last, in training.
        images: Of each microbatch, channels-last.
        loss: From outputs and the number of a microbatch to its share.
        labels: Of each microbatch, where images have one.
    """

    model: nn.Module
    images: list[Tensor]
    loss: Callable[[Any, int], Tensor]
    labels: list[Tensor] = field(default_factory=list)


def make_step(case: Case) -> Step:
    """Return the step of a case: the same weights and images on every worker."""
    torch.manual_seed(0)
    shape = (case.images, 3, case.side, case.side)
    images = [torch.rand(shape).contiguous(memory_format=torch.channels_last) for _ in range(case.count)]
    return _classify(case, images) if case.name == "resnet50" else _detect(case, images)


def _classify(case: Case, images: list[Tensor]) -> Step:
    labels = [torch.randint(0, 1000, (case.images,)) for _ in images]

    def loss(outputs: Tensor, index: int) -> Tensor:
        return nn.functional.cross_entropy(outputs, labels[index], reduction="sum") / (
            case.count * case.images
        )

    model = torchvision.models.resnet50().to(memory_format=torch.channels_last).train()
    return Step(model, images, loss, labels)


def _detect(case: Case, images: list[Tensor]) -> Step:
    config = override(RunConfig(), {"model.name": case.name})
    model = place_model(build_model(config.model, NUM_CLASSES), torch.device("cpu"), True).train()
    task = make_task(model, config)
    assignments = []
    for index in range(case.count):
        sides = (0.05 + 0.5 * torch.rand((NUM_OBJECTS * case.images, 2))) * case.side
        corners = torch.rand((len(sides), 2)) * (case.side - sides)
        boxes, labels = (
            torch.cat([corners, corners + sides], dim=1),
            torch.randint(0, NUM_CLASSES, (len(sides),)),
        )
        targets = ObjectTargets(boxes, labels, (NUM_OBJECTS,) * case.images)
        ids, sizes = (SampleId(0, index),) * case.images, ((case.side, case.side),) * case.images
        blank = torch.zeros((case.images, 3, case.side, case.side), dtype=torch.uint8)
        assignments.append(task.assign(Microbatch(index, ids, blank, sizes, targets)))
    totals = torch.stack([task.normalizers(assignment) for assignment in assignments]).sum(dim=0)

    def loss(outputs: Any, index: int) -> Tensor:
        return torch.stack(list(task.loss_shares(outputs, assignments[index], totals).values())).sum()

    return Step(model, images, loss)
