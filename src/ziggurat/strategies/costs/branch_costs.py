"""By which costs a model's branches are placed: measured once, and from then on part of the run.

The costs are those of calls, not of a placement: so they serve any number of workers, and images of any size.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from ziggurat.parallel.branches.placement import place, refuse_chain
from ziggurat.parallel.graph.costs import Costs, from_json, to_json
from ziggurat.parallel.graph.trace import ImageSpec, Tracer
from ziggurat.strategies.costs.cache import MeasurementCache
from ziggurat.strategies.costs.decisions import Decisions, decide
from ziggurat.strategies.costs.measure import Measure, measure_calls
from ziggurat.strategies.costs.team import Team

COSTS = "costs.json"
KEY = "lp"  # of the decision
CACHE_KEY = "forward"


def agree_on_costs(
    model: nn.Module,
    tracer: Tracer,
    spec: ImageSpec,
    team: Team,
    compute: Callable[[], AbstractContextManager[Any]] = nullcontext,
    file: Path | None = None,
    decisions: Decisions | None = None,
    measure: Measure = measure_calls,
) -> Costs:
    """Return what each call costs: as the run has decided already, or else as the first worker measures it.

    Args:
        model: With all its weights.
        tracer: Of the model.
        spec: Of the images of a microbatch.
        team: All of them call this together.
        compute: A context in which the model computes.
        file: Where costs that were measured are cached: there are some already when a run goes on.
        decisions: Of the run; those of the first worker count, and every worker's hold these costs afterwards.
        measure: Measures them.

    Raises:
        UserError: On all workers: `NoBranches`, or `CannotCut`.

    Communication:
        One broadcast of the costs.
    """
    known = Decisions() if decisions is None else decisions

    def known_or_measured() -> Costs:
        with compute():
            graph = tracer.trace(spec, allow=("numbers",))
            costs: Costs = decide(
                known, KEY, MeasurementCache(file), CACHE_KEY, from_json, to_json,
                lambda: measure(model, graph, spec, team.workers.device, backward=False),
            )  # fmt: skip
            refuse_chain(place(graph, costs, team.network.size))
        return costs

    costs = team.workers.decide_on_first(known_or_measured)
    known.record(KEY, {name: {"seconds": c.seconds, "draws": c.draws} for name, c in costs.items()})
    return costs
