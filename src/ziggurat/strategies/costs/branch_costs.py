"""The costs of a run's calls, beside its config: a run that goes on has its branches where they were.

The costs are those of calls, not of a placement: so they serve any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from ziggurat.parallel.branches.measure import measure_calls
from ziggurat.parallel.branches.placement import CallCost, Costs, place, refuse_chain
from ziggurat.parallel.graph.trace import ImageSpec, Tracer
from ziggurat.strategies.costs.cache import Kept
from ziggurat.strategies.costs.team import Team

COSTS = "costs.json"
KEY = "forward"


class KeptCosts:
    """The costs that were measured for a run.

    Args:
        path: Of the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.kept = Kept(path)

    def read(self) -> Costs | None:
        """Return the costs; None where there are none yet, or they cannot be read."""
        found = self.kept.read(KEY)
        if found is None:
            return None
        try:
            return {
                name: CallCost(float(cost["seconds"]), bool(cost["draws"])) for name, cost in found.items()
            }
        except (AttributeError, KeyError, TypeError, ValueError):
            self.kept.discard(KEY)
            return None

    def write(self, costs: Costs) -> None:
        """Keep the costs."""
        self.kept.write(KEY, {name: asdict(cost) for name, cost in costs.items()})


def agree_on_costs(
    model: nn.Module,
    tracer: Tracer,
    spec: ImageSpec,
    team: Team,
    compute: Callable[[], AbstractContextManager[Any]] = nullcontext,
    file: Path | None = None,
) -> Costs:
    """Return what each call costs, as the first worker measures it.

    Args:
        model: With all its weights.
        tracer: Of the model.
        spec: Of the images of a microbatch.
        team: All of them call this together.
        compute: A context in which the model computes.
        file: Where costs that were measured are kept: there are some already when a run goes on.

    Raises:
        UserError: On all workers: `NoBranches`, or `CannotCut`.

    Communication:
        One broadcast of the costs.
    """
    kept = KeptCosts(file)

    def known_or_measured() -> Costs:
        with compute():
            graph, costs = tracer.trace(spec), kept.read()
            if costs is None:
                costs = measure_calls(model, graph, spec, team.workers.device)
                kept.write(costs)
            refuse_chain(place(graph, costs, team.network.size))
        return costs

    return team.workers.decide_on_first(known_or_measured)
