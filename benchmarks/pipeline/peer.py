"""The peer: `torch.distributed.pipelining` on a network that it can run, a chain of blocks with images of one size."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from cases import Case, Step
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from ziggurat.parallel.collectives.workers import Workers


class _Contiguous(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        return maps.contiguous().view_as(maps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


class Contiguous(nn.Module):
    """At both sides of the peer's cut: under gloo it refuses to send or to receive a map that is channels-last."""

    def forward(self, maps: Tensor) -> Tensor:
        return _Contiguous.apply(maps)


def chain(model: Any) -> dict[str, nn.Module]:
    """Return torchvision's ResNet as a chain of its stem, its blocks and its classifier, by their names in it."""
    blocks: dict[str, nn.Module] = {"stem": nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)}
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        blocks |= {f"{layer}.{name}": block for name, block in model.get_submodule(layer).named_children()}
    blocks["avgpool"] = nn.Sequential(model.avgpool, nn.Flatten(1), model.fc)
    return blocks


class Peer:
    """PyTorch's own pipeline of two stages, cut before a block.

    Args:
        case: Says the schedule.
        step: Of a ResNet.
        block: At which the second stage starts.
        workers: Two.
    """

    def __init__(self, case: Case, step: Step, block: str, workers: Workers) -> None:
        blocks = chain(step.model)
        place, layers = list(blocks).index(block), list(blocks.values())
        parts = [*layers[:place], Contiguous()], [Contiguous(), *layers[place:]]
        part = nn.Sequential(*parts[workers.rank])
        self.parameters = list(part.parameters())
        self.images, self.labels, self.workers = torch.cat(step.images), torch.cat(step.labels), workers
        stage = PipelineStage(part, workers.rank, workers.size, torch.device("cpu"), group=dist.group.WORLD)
        kind = ScheduleGPipe if case.schedule == "gpipe" else Schedule1F1B
        self.schedule = kind(stage, case.count, loss_fn=self._loss, scale_grads=False)

    def __call__(self) -> None:
        """Take a step."""
        for parameter in self.parameters:
            parameter.grad = None
        if self.workers.is_first:
            self.schedule.step(self.images)
        else:
            self.schedule.step(target=self.labels, losses=[])

    def _loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, labels, reduction="sum") / len(self.labels)
