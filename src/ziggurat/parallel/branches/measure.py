"""Measuring each call of a network: its time, and whether it draws random numbers."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from ziggurat.parallel.branches.placement import CallCost, Costs, call_names
from ziggurat.parallel.graph.graph import INPUT, Call, Graph, Value
from ziggurat.parallel.graph.runner import StageRunner
from ziggurat.parallel.graph.stages import make_stages
from ziggurat.parallel.graph.trace import ImageSpec
from ziggurat.parallel.pipeline.measure import as_before


def measure_calls(
    model: nn.Module, graph: Graph, spec: ImageSpec, device: torch.device, repeats: int = 2
) -> Costs:
    """Return what each call costs in forward, on this worker, by the call's name.

    Args:
        model: With all its weights; its gradients are None afterwards, buffers and random numbers as before.
        graph: Of the model and images of this size.
        spec: Of the images.
        device: Where the model is.
        repeats: The fastest of so many runs counts.
    """
    (stage,) = make_stages(graph, [])
    runs = []
    with as_before(model), torch.no_grad():
        for _ in range(repeats):
            images = torch.randn(spec.shape, dtype=spec.dtype, device=device)
            runner = _TimedRunner(model, device)
            runner.forward(stage, graph, {Value(INPUT, 0): images.as_strided(spec.shape, spec.strides)})
            runs.append(runner.costs)
    costs = [
        CallCost(min(cost.seconds for cost in of_call), any(cost.draws for cost in of_call))
        for of_call in zip(*runs, strict=True)
    ]
    return dict(zip(call_names(graph), costs, strict=True))


class _TimedRunner(StageRunner):
    """Notes what each call costs."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__(model)
        self.device = device
        self.costs: list[CallCost] = []

    def _run(self, call: Call, args: Any, kwargs: Any) -> Any:
        before, begin = self._random_state(), self._now()
        result = super()._run(call, args, kwargs)
        seconds = self._now() - begin
        self.costs.append(CallCost(seconds, not torch.equal(before, self._random_state())))
        return result

    def _random_state(self) -> torch.Tensor:
        is_cuda = self.device.type == "cuda"
        return torch.cuda.get_rng_state(self.device) if is_cuda else torch.get_rng_state()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
