"""One worker, a pipeline, two workers that exchange nothing and the peer, in turns inside the same processes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from cases import Case, make_step
from peer import Peer
from ziggurat.strategies.pipeline_parallel import PipelineParallel

from ziggurat.config import PipelineConfig
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.trace import Tracer, spec_of
from ziggurat.parallel.pipeline.memory import predict_memory
from ziggurat.parallel.pipeline.pipeline import Work
from ziggurat.parallel.pipeline.schedules import make_schedule
from ziggurat.parallel.pipeline.timing import Trace
from ziggurat.strategies.costs.cuts import choose_cut
from ziggurat.strategies.data_parallel import DataParallel
from ziggurat.strategies.mesh import make_mesh
from ziggurat.verification.memory import PeakBytes

PEER_BLOCK = "layer3.0"  # where a chain of blocks is cut by hand, see README


class Alone:
    """The step on one worker, which takes one microbatch after the other."""

    def __init__(self, case: Case) -> None:
        self.case, self.step = case, make_step(case)
        self.parallel = DataParallel(self.step.model, Workers())

    def __call__(self, count: int = 0) -> None:
        """Take a step, of all microbatches or of some."""
        count = count or self.case.count
        self.parallel.start(count)
        for index in range(count):
            with self.parallel.leaf(index):
                with self.case.compute():
                    outputs = self.step.model(self.step.images[index])
                self.step.loss(outputs, index).backward()
        self.parallel.finish_gradients()
        self.parallel.finish_statistics()


class Together:
    """The step as a pipeline of all workers."""

    def __init__(self, case: Case, workers: Workers, cut: str) -> None:
        self.case, self.step = case, make_step(case)
        mesh, spec = make_mesh(workers, f"pp={workers.size}"), spec_of(self.step.images[0])
        model, tracer = self.step.model, Tracer(self.step.model)
        config = PipelineConfig(cut=cut, schedule=case.schedule, checkpoint=case.checkpoint)
        self.cut = choose_cut(model, tracer, spec, mesh, config, case.count, case.compute)
        with case.compute():
            self.parallel = PipelineParallel(model, tracer, self.cut.layers, spec, mesh, config)
        self.trace = Trace(torch.device("cpu"))
        self.parallel.pipeline.trace_to(self.trace)

    def __call__(self) -> None:
        """Take a step."""
        self.parallel.start(self.case.count)
        work = Work(self.case.count, self.step.images.__getitem__, self.step.loss, compute=self.case.compute)
        self.parallel.step(work)
        self.parallel.finish_gradients()
        self.parallel.finish_statistics()


class Turns:
    """All of them, on this worker."""

    def __init__(self, workers: Workers, case: Case) -> None:
        self.workers, self.case = workers, case
        self.alone, self.together = Alone(case), Together(case, workers, case.cut)
        self.actions: dict[str, Callable[[], None]] = {
            "alone": self._alone,
            "together": self.together,
            "apart": lambda: self.alone(case.count // workers.size),
        }
        if case.name == "resnet50":
            self.same_cut = Together(case, workers, PEER_BLOCK)
            self.actions["same cut"] = self.same_cut
            self.actions["peer"] = Peer(case, make_step(case), PEER_BLOCK, workers)

    def _alone(self) -> None:
        if self.workers.is_first:
            self.alone()

    def round(self, backwards: bool) -> dict[str, dict[str, float]]:
        """Return this worker's seconds of each action, all of which are taken once."""
        found: dict[str, dict[str, float]] = {}
        for name, action in list(self.actions.items())[:: -1 if backwards else 1]:
            self.together.trace.spans.clear()
            self.workers.barrier()
            begin = time.perf_counter()
            action()
            found[name] = {"seconds": time.perf_counter() - begin}
            if name == "together":
                spans = self.together.trace.spans
                for kind in ("forward", "backward", "send", "receive", "wait"):
                    found[name][kind] = sum(s.end - s.begin for s in spans if s.doing == kind)
                losses = (s.end - s.begin for s in spans if s.name.startswith("loss"))
                found[name]["loss, in forward"] = sum(losses)
            self.workers.barrier()
        return found

    def memory(self) -> list[dict[str, float]]:
        """Return, of each worker, the peak of what a step adds to the weights, and what was predicted."""
        with PeakBytes([]) as alone:
            self._alone()
        self.workers.barrier()
        with PeakBytes([]) as together:
            self.together()
        self.workers.barrier()
        pipeline, costs = self.together.parallel.pipeline, self.together.cut.costs
        orders = make_schedule(self.case.schedule, self.workers.size, self.case.count)
        own = [predict_memory(costs[n], orders, n, self.case.checkpoint == "stage") for n in pipeline.mine]
        weights = sum(t.nbytes for t in self.together.step.model.state_dict().values() if not t.is_meta)
        return self.workers.gather(
            {
                "alone": alone.peak / 1e6,
                "together": together.peak / 1e6,
                "predicted": sum(one.gradients + one.activations for one in own) / 1e6,
                "predicted_activations": sum(one.activations for one in own) / 1e6,
                "weights": weights / 1e6,
            }
        )

    def stages(self) -> list[dict[str, Any]]:
        """Return what each stage costs, as it was measured before."""
        return [vars(cost) for cost in self.together.cut.costs]


def summary(
    case: Case,
    of_all: list[list[dict[str, dict[str, float]]]],
    stages: list[dict[str, Any]],
    memory: list[dict[str, float]],
) -> dict[str, Any]:
    """Return the figures of a case from the rounds of every worker."""
    rounds = [
        {name: max(one[name]["seconds"] for one in each) for name in each[0]}
        for each in zip(*of_all, strict=True)
    ]
    world = len(of_all)
    bound = world * case.count / (case.count + world - 1)
    ratios = {
        "speed-up": [one["alone"] / one["together"] for one in rounds],
        "share of the bound": [one["alone"] / one["together"] / bound for one in rounds],
        "two that exchange nothing": [one["alone"] / one["apart"] for one in rounds],
    }
    if "peer" in rounds[0]:
        ratios["speed-up of the peer"] = [one["alone"] / one["peer"] for one in rounds]
        ratios["ours over the peer, same cut"] = [one["peer"] / one["same cut"] for one in rounds]
        ratios["ours over the peer, measured cut"] = [one["peer"] / one["together"] for one in rounds]
    workers = [
        {key: statistics.median(one["together"][key] for one in worker) for key in worker[0]["together"]}
        for worker in of_all
    ]
    busy = [worker["forward"] + worker["backward"] for worker in workers]
    return {
        "case": vars(case),
        "bound": bound,
        "ratios": {name: (statistics.median(v), min(v), max(v)) for name, v in ratios.items()},
        "rounds": ratios,
        "seconds_alone": statistics.median(one["alone"] for one in rounds),
        "imbalance": max(busy) / statistics.mean(busy) - 1,
        "cut": [stage["name"] for stage in stages[1:]],
        "of_each_worker": workers,
        "stages": stages,
        "megabytes_of_each_worker": memory,
    }
