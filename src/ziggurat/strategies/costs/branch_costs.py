"""The costs of a run's calls, beside its config: a run that goes on has its branches where they were.

The costs are those of calls, not of a placement: so they serve any number of workers.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ziggurat.parallel.branches.placement import CallCost, Costs
from ziggurat.strategies.costs.cache import Kept

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
