"""One worker, a pipeline, two workers that exchange nothing and the peer, in turns inside the same processes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from cases import Case, make_step
from peer import Peer

from ziggurat.config import RunConfig, override
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.trace import spec_of
from ziggurat.parallel.pipeline.balance import StageCost
from ziggurat.parallel.pipeline.memory import predict_memory
from ziggurat.parallel.pipeline.schedules import make_schedule
from ziggurat.parallel.pipeline.timing import Trace
from ziggurat.strategies.base import Setting
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.pipeline import Stages
from ziggurat.strategies.running import Microbatches
from ziggurat.strategies.state import TrainState
from ziggurat.verification.memory import PeakBytes

PEER_BLOCK = "layer3.0"  # where a chain of blocks is cut by hand, see README


class Steps:
    """The step under a plan.

    Args:
        case: The step.
        workers: Of the plan; they call this together.
        plan: Of as many workers.
        cut: Where by hand; empty balances the measured times.
    """

    def __init__(self, case: Case, workers: Workers, plan: str, cut: str = "") -> None:
        self.case, self.step = case, make_step(case)
        settings = {"plan.cut": cut, "plan.schedule": case.schedule, "plan.checkpoint": case.checkpoint}
        config, spec = override(RunConfig(), settings), spec_of(self.step.images[0])
        state = TrainState.start(self.step.model, torch.optim.SGD(self.step.model.parameters()))
        setting = Setting(spec, config, case.count, case.compute)
        self.parallel = Parallel(state, make_mesh(workers, plan), setting)
        self.trace = Trace(torch.device("cpu"))
        self.parallel.trace_to(self.trace)

    @property
    def costs(self) -> list[StageCost]:
        """What each stage costs, as it was measured before."""
        return [
            cost for one in self.parallel.placed.joined if isinstance(one, Stages) for cost in one.cut.costs
        ]

    def __call__(self, count: int = 0) -> None:
        """Take a step, without the optimizer's, of all microbatches or of some."""
        count = count or self.case.count
        self.parallel.start(count)
        images = self.step.images.__getitem__
        self.parallel.losses(Microbatches(count, images, self.step.loss, self.case.compute))
        self.parallel.finish_gradients()
        self.parallel.finish_statistics()


class Turns:
    """All of them, on this worker."""

    def __init__(self, workers: Workers, case: Case) -> None:
        self.workers, self.case = workers, case
        self.plan = f"pp={workers.size}"
        self.alone, self.together = Steps(case, Workers(), "dp=1"), Steps(case, workers, self.plan, case.cut)
        self.actions: dict[str, Callable[[], None]] = {
            "alone": self._alone,
            "together": self.together,
            "apart": lambda: self.alone(case.count // workers.size),
        }
        if case.name == "resnet50":
            self.same_cut = Steps(case, workers, self.plan, PEER_BLOCK)
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
        costs, size = self.together.costs, self.workers.size
        orders = make_schedule(self.case.schedule, size, self.case.count)
        mine = range(self.workers.rank, len(costs), size)
        own = [predict_memory(costs[n], orders, n, self.case.checkpoint == "stage") for n in mine]
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
        return [vars(cost) for cost in self.together.costs]


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
