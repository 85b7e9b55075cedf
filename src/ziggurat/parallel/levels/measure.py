"""Measuring each call of a network: its time, and whether it draws random numbers."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from ziggurat.parallel.levels.placement import CallCost
from ziggurat.parallel.pipeline.graph import INPUT, Call, Graph, Value
from ziggurat.parallel.pipeline.measure import as_before
from ziggurat.parallel.pipeline.record import ImageSpec
from ziggurat.parallel.pipeline.runner import StageRunner
from ziggurat.parallel.pipeline.stages import make_stages


def measure_calls(model: nn.Module, graph: Graph, spec: ImageSpec, repeats: int = 2) -> list[CallCost]:
    """Return what each call costs in forward, on this worker.

    Args:
        model: With all its weights; its gradients are None afterwards, buffers and random numbers as before.
        graph: Of the model and images of this size.
        spec: Of the images.
        repeats: The fastest of so many runs counts.
    """
    (stage,) = make_stages(graph, [])
    runs = []
    with as_before(model), torch.no_grad():
        for _ in range(repeats):
            images = torch.randn(spec.shape, dtype=spec.dtype).as_strided(spec.shape, spec.strides)
            runner = _TimedRunner(model)
            runner.forward(stage, graph, {Value(INPUT, 0): images})
            runs.append(runner.costs)
    return [
        CallCost(min(cost.seconds for cost in of_call), any(cost.draws for cost in of_call))
        for of_call in zip(*runs, strict=True)
    ]


class _TimedRunner(StageRunner):
    """Notes what each call costs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.costs: list[CallCost] = []

    def _run(self, call: Call, args: Any, kwargs: Any) -> Any:
        before, begin = torch.get_rng_state(), time.perf_counter()
        result = super()._run(call, args, kwargs)
        seconds = time.perf_counter() - begin
        self.costs.append(CallCost(seconds, not torch.equal(before, torch.get_rng_state())))
        return result
