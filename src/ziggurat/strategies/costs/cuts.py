"""Where a model is cut into stages: chosen by measured costs, and from then on part of the run, which is cut there when it goes on."""

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
from ziggurat.parallel.collectives.canonical import gradients_held
from ziggurat.parallel.graph.stages import find_places
from ziggurat.parallel.graph.trace import ImageSpec, Tracer
from ziggurat.parallel.pipeline.balance import StageCost, Unit, balance, cost_of, units_of
from ziggurat.parallel.pipeline.memory import predict_memory
from ziggurat.parallel.pipeline.recompute import share_again
from ziggurat.parallel.pipeline.schedules import make_schedule, num_stages
from ziggurat.strategies.costs.cache import MeasurementCache
from ziggurat.strategies.costs.decisions import Decisions, decide
from ziggurat.strategies.costs.measure import Measure, measure_calls, state_bytes
from ziggurat.strategies.costs.team import Team
from ziggurat.strategies.shares import Shares

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


def key_of(num_workers: int, config: PipelineConfig) -> str:
    """Return the key of a cut that was measured: there is one for each number of workers and way of cutting.

    Example:
        >>> key_of(2, PipelineConfig())
        'pp=2,1f1b,max_bytes=0,none'
    """
    return f"pp={num_workers},{config.schedule},max_bytes={config.max_bytes},{config.checkpoint}"


def from_json(found: Any) -> Cut:
    """Return a cut from what ``asdict`` gave.

    Raises:
        ValueError: If it is none.
    """
    try:
        return Cut(tuple(found["layers"]), tuple(StageCost(**cost) for cost in found["costs"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no cut: {type(error).__name__}: {error}") from error


def choose_cut(
    model: nn.Module,
    tracer: Tracer,
    spec: ImageSpec,
    team: Team,
    config: PipelineConfig,
    num_leaves: int,
    compute: Callable[[], AbstractContextManager[Any]] = nullcontext,
    file: Path | None = None,
    decisions: Decisions | None = None,
    measure: Measure = measure_calls,
) -> Cut:
    """Return the cut: the user's, or the one that the run has decided on, or the one that balances what the first worker measures.

    Args:
        model: With all its weights on the first worker.
        tracer: Of the model.
        spec: Of the images of a microbatch.
        team: All of them call this together.
        config: How to cut.
        num_leaves: Microbatches of a step: decides how many activations and gradients are alive at once.
        compute: A context in which the model computes.
        file: Where a cut that was measured is cached: there is one already when a run goes on.
        decisions: Of the run; those of the first worker count. Every worker's hold the cut afterwards, but for the user's own, which
            the config holds.
        measure: Measures what calls cost.

    Raises:
        UserError: On all workers, if the cut's layers are wrong, too many, or too few, or no cut is within the bound.

    Communication:
        One broadcast of the cut.
    """
    known = Decisions() if decisions is None else decisions
    key = key_of(team.network.size, config)

    def choose() -> Cut:
        with compute():
            return _choose(model, tracer, spec, team, config, num_leaves, measure)

    if config.cut:
        return team.workers.decide_on_first(choose)
    cache = MeasurementCache(file)
    cut = team.workers.decide_on_first(lambda: decide(known, key, cache, key, from_json, asdict, choose))
    known.record(key, asdict(cut))
    return cut


def _choose(
    model: nn.Module,
    tracer: Tracer,
    spec: ImageSpec,
    team: Team,
    config: PipelineConfig,
    num_leaves: int,
    measure: Measure,
) -> Cut:
    num_workers = team.network.size
    count = num_stages(config.schedule, num_workers)
    graph = tracer.trace(spec, allow=("numbers",))
    layers = [name.strip() for name in config.cut.split(",") if name.strip()]
    if layers and len(layers) != count - 1:
        raise UserError(
            f"plan.cut must name a layer for each stage but the first: {num_workers} workers under {config.schedule} "
            f"have {count} stages: got {len(layers)} ({','.join(layers)}); name {count - 1}, or leave plan.cut out"
        )
    places = find_places(graph, layers)  # before anything is measured
    units = units_of(graph, measure(model, graph, spec, team.workers.device), state_bytes(model))
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
    leaves = Shares.read(config.shares).parts(num_leaves, team.data.size)
    longest = max(map(len, leaves))
    orders = make_schedule(config.schedule, team.network.size, longest)
    of_places = itertools.zip_longest(
        *(gradients_held(mine, num_leaves, lends=config.wire == "fp32") for mine in leaves),
        fillvalue=(0, 0),
    )
    held = [(max(before for before, _ in one), max(during for _, during in one)) for one in of_places]
    again = config.checkpoint == "stage"

    def memory(stage: int, cost: StageCost) -> int:
        return predict_memory(cost, orders, stage, again, held).total

    def seconds(stage: int, cost: StageCost) -> float:
        share = share_again(orders, stage, longest) if again else 0.0
        return cost.seconds + share * cost.forward_seconds

    return balance(units, num_stages(config.schedule, team.network.size), memory, config.max_bytes, seconds)
