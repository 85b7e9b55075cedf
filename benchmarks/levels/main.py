"""What is to be had from parallel branches: one worker of one thread, ``lp=2`` and ``sp=2`` take the same step in turns.

All run inside the same two processes, so that each ratio is of one moment.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ziggurat.config import RunConfig, override
from ziggurat.models.build import build_model
from ziggurat.models.vision import place_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.graph import tensors_in
from ziggurat.parallel.graph.trace import spec_of
from ziggurat.parallel.runtime.launch import WorkerSettings, launch
from ziggurat.parallel.spatial import SpatialTensor, cut
from ziggurat.strategies.base import Setting
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.running import Microbatches
from ziggurat.strategies.state import TrainState
from ziggurat.system.platform import processor_name

WORLD = 2


@dataclass(frozen=True)
class Case:
    """A step in two microbatches.

    Attributes:
        name: The model.
        images: Of a microbatch.
        side: Rows and columns of an image.
        num_classes: Classes.
    """

    name: str
    images: int
    side: int
    num_classes: int

    def model(self) -> Any:
        """Return the network, the same on every worker, channels-last, in training."""
        torch.manual_seed(0)
        config = override(RunConfig(), {"model.name": self.name})
        return place_model(build_model(config.model, self.num_classes), torch.device("cpu"), True).train()

    def microbatches(self) -> list[Tensor]:
        """Return the images, channels-last."""
        generator = torch.Generator().manual_seed(1)
        shape = (self.images, 3, self.side, self.side)
        made = [torch.rand(shape, generator=generator) for _ in range(2)]
        return [one.contiguous(memory_format=torch.channels_last) for one in made]


CASES = {
    "pnn, 8 images of 256": Case("pnn", 8, 256, 1000),
    "fcos-pnn, 2 images of 320": Case("fcos-pnn", 2, 320, 80),
    "fcos-hrnet_w18-fpn, 1 image of 320": Case("fcos-hrnet_w18-fpn", 1, 320, 80),
    "fcos-resnet18-fpn, 2 images of 320": Case("fcos-resnet18-fpn", 2, 320, 80),
}

QUICK = {"pnn, 2 images of 64": Case("pnn", 2, 64, 10)}


def loss_of(outputs: Any, index: int) -> Tensor:
    """Return a loss that costs next to nothing: the mean square of every output."""
    total: Any = sum(tensor.float().square().mean() for tensor in tensors_in(outputs))
    return total.local if isinstance(total, SpatialTensor) else total


class Steps:
    """The step under a plan.

    Args:
        case: The step.
        workers: Of the plan; they call this together.
        plan: Of as many workers.
    """

    def __init__(self, case: Case, workers: Workers, plan: str) -> None:
        model, self.images = case.model(), case.microbatches()
        state = TrainState.start(model, torch.optim.SGD(model.parameters()))
        setting = Setting(spec_of(self.images[0]), RunConfig(), len(self.images), nullcontext)
        self.parallel = Parallel(state, make_mesh(workers, plan), setting)

    def __call__(self) -> None:
        """Take a step, without the optimizer's."""
        self.parallel.start(len(self.images))
        self.parallel.losses(Microbatches(len(self.images), self._given, loss_of, nullcontext))
        self.parallel.finish_gradients()
        self.parallel.finish_statistics()

    def _given(self, index: int) -> Tensor:
        spatial = self.parallel.mesh.spatial
        return self.images[index] if spatial is None else cut(self.images[index], spatial)


def run(workers: Workers, case: Case, warm_up: int, rounds: int) -> dict[str, Any]:
    """Time all in turns, in alternating order; every worker returns the figures of all."""
    warnings.simplefilter("ignore")  # the networks' own
    alone, branches = Steps(case, Workers(), "dp=1"), Steps(case, workers, f"lp={WORLD}")
    actions: dict[str, Callable[[], object]] = {
        "alone": lambda: alone() if workers.is_first else None,
        "lp": branches,
        "sp": Steps(case, workers, f"sp={WORLD}"),
        "apart": alone,
    }
    taken = []
    for number in range(warm_up + rounds):
        seconds = {}
        for name in list(actions)[:: -1 if number % 2 else 1]:
            workers.barrier()
            begin = time.perf_counter()
            actions[name]()
            workers.barrier()
            seconds[name] = time.perf_counter() - begin
        if number >= warm_up:
            taken.append(seconds)
    of_all = workers.gather(taken)
    worst = [{name: max(one[name] for one in each) for name in actions} for each in zip(*of_all, strict=True)]
    ratios = {
        "speed-up of lp=2": [one["alone"] / one["lp"] for one in worst],
        "speed-up of sp=2": [one["alone"] / one["sp"] for one in worst],
        "two that exchange nothing": [2 * one["alone"] / one["apart"] for one in worst],
    }
    placement = branches.parallel.facts()["branches"]
    return {
        "case": vars(case),
        "bound": placement["bound"],
        "shares": [seconds / sum(placement["seconds"]) for seconds in placement["seconds"]],
        "seconds_alone": statistics.median(one["alone"] for one in worst),
        "ratios": {name: (statistics.median(v), min(v), max(v)) for name, v in ratios.items()},
    }


def measure(cases: dict[str, Case], warm_up: int, rounds: int, results: dict[str, Any]) -> None:
    """Measure cases, print their figures and add them to the results."""
    for name, case in cases.items():
        found = launch(run, (case, warm_up, rounds), WORLD, WorkerSettings(1, "cpu"))
        assert found is not None
        results[name] = found
        print(f"{name}: bound {found['bound']:.2f}, {found['seconds_alone']:.2f} s alone", flush=True)
        for what, (middle, low, high) in found["ratios"].items():
            print(f"   {what}: {middle:.2f} ({low:.2f}-{high:.2f})", flush=True)


def main(words: Sequence[str] | None = None) -> None:
    """Measure every case, print the figures and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--warm-up", type=int, default=1, help="rounds that are not counted")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    parser.add_argument(
        "--quick", action="store_true", help="a form of seconds, which shows that it runs and is not written"
    )
    options = parser.parse_args(words)
    if options.quick:
        measure(QUICK, warm_up=0, rounds=1, results={})
        return
    results = json.loads(options.out.read_text())["results"] if options.out.is_file() else {}
    measure({name: CASES[name] for name in options.cases}, options.warm_up, options.rounds, results)
    result = {
        "torch": torch.__version__,
        "processor": f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}",
        "warm_up": options.warm_up,
        "results": results,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
