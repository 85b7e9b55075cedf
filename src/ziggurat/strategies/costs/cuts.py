"""Where a model is cut into stages: chosen by measured costs, and kept beside the run, which is cut there again when it goes on."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ziggurat.config import PipelineConfig
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.canonical import gradients_held, partition
from ziggurat.parallel.graph.stages import find_places
from ziggurat.parallel.graph.trace import ImageSpec, Tracer
from ziggurat.parallel.pipeline.balance import StageCost, Unit, balance, cost_of
from ziggurat.parallel.pipeline.measure import measure
from ziggurat.parallel.pipeline.memory import predict_memory
from ziggurat.parallel.pipeline.recompute import share_again
from ziggurat.parallel.pipeline.schedules import make_schedule, num_stages
from ziggurat.strategies.costs.cache import Kept
from ziggurat.strategies.costs.team import Team

CUTS = "cuts.json"


@dataclass(frozen=True)
class Cut:
    """Where a model is cut into stages.

    Attributes:
        layers: At which new stages start.
        costs: Of each stage, as measured on the first worker.
    """

    layers: tuple[str, ...]
    costs: tuple[StageCost, ...]


class KeptCuts:
    """The cuts that were measured for a run, one for each number of workers and way of cutting.

    Args:
        path: Of the file; None keeps nothing.
        num_workers: Of the pp axis.
        config: How to cut.
    """

    def __init__(self, path: Path | None, num_workers: int, config: PipelineConfig) -> None:
        self.kept = Kept(path if not config.cut else None)  # a cut by hand is in the config
        self.key = f"pp={num_workers},{config.schedule},max_bytes={config.max_bytes},{config.checkpoint}"

    def read(self) -> Cut | None:
        """Return the cut; None where there is none yet, or it cannot be read."""
        kept = self.kept.read(self.key)
        if kept is None:
            return None
        try:
            return Cut(tuple(kept["layers"]), tuple(StageCost(**cost) for cost in kept["costs"]))
        except (KeyError, TypeError):
            self.kept.discard(self.key)
            return None

    def write(self, cut: Cut) -> None:
        """Keep a cut."""
        self.kept.write(self.key, asdict(cut))


def choose_cut(
    model: nn.Module,
    tracer: Tracer,
    spec: ImageSpec,
    team: Team,
    config: PipelineConfig,
    num_leaves: int,
    compute: Callable[[], AbstractContextManager[Any]] = nullcontext,
    file: Path | None = None,
) -> Cut:
    """Return the cut: the user's, or else the one that balances the times which the first worker measures.

    Args:
        model: With all its weights on the first worker.
        tracer: Of the model.
        spec: Of the images of a microbatch.
        team: All of them call this together.
        config: How to cut.
        num_leaves: Microbatches of a step: decides how many activations and gradients are alive at once.
        compute: A context in which the model computes.
        file: Where a cut that was measured is kept: there is one already when a run goes on.

    Raises:
        UserError: On all workers, if the cut's layers are wrong, too many, or too few, or no cut is within the bound.

    Communication:
        One broadcast of the cut.
    """
    kept = KeptCuts(file, team.network.size, config)

    def known_or_chosen() -> Cut:
        cut = kept.read()
        if cut is None:
            with compute():
                cut = _choose(model, tracer, spec, team, config, num_leaves)
            kept.write(cut)
        return cut

    return team.workers.decide_on_first(known_or_chosen)


def _choose(
    model: nn.Module,
    tracer: Tracer,
    spec: ImageSpec,
    team: Team,
    config: PipelineConfig,
    num_leaves: int,
) -> Cut:
    num_workers = team.network.size
    count = num_stages(config.schedule, num_workers)
    graph = tracer.trace(spec)
    layers = [name.strip() for name in config.cut.split(",") if name.strip()]
    if layers and len(layers) != count - 1:
        raise UserError(
            f"plan.cut must name a layer for each stage but the first: {num_workers} workers under {config.schedule} "
            f"have {count} stages: got {len(layers)} ({','.join(layers)}); name {count - 1}, or leave plan.cut out"
        )
    places = find_places(graph, layers)  # before anything is measured
    units = measure(model, tracer, spec)
    if not layers:
        layers = _balanced(units, team, config, num_leaves)
        places = find_places(graph, layers)
    open_places = graph.places()
    starts = [open_places[unit.name] if unit.name else 0 for unit in units]
    bounds = [0, *(starts.index(place) for place in places), len(units)]
    costs = [cost_of(units[first:stop]) for first, stop in itertools.pairwise(bounds)]
    costs = [dataclasses.replace(c, name=n) for c, n in zip(costs, ["", *layers], strict=True)]
    return Cut(tuple(layers), tuple(costs))


def _balanced(units: Sequence[Unit], team: Team, config: PipelineConfig, num_leaves: int) -> list[str]:
    """Return the layers at which stages start that take equally long, each within the memory bound on every place of dp."""
    leaves = partition(num_leaves, team.data.size)
    orders = make_schedule(config.schedule, team.network.size, len(leaves[0]))
    of_places = itertools.zip_longest(
        *(gradients_held(mine, num_leaves) for mine in leaves), fillvalue=(0, 0)
    )
    held = [(max(before for before, _ in one), max(during for _, during in one)) for one in of_places]
    again = config.checkpoint == "stage"

    def memory(stage: int, cost: StageCost) -> int:
        return predict_memory(cost, orders, stage, again, held).total

    def seconds(stage: int, cost: StageCost) -> float:
        share = share_again(orders, stage, len(leaves[0])) if again else 0.0
        return cost.seconds + share * cost.forward_seconds

    return balance(units, num_stages(config.schedule, team.network.size), memory, config.max_bytes, seconds)
