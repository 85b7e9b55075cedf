"""The cut of a run, beside its config: a run that goes on is cut where it was, and measures nothing again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from ziggurat.config import PipelineConfig
from ziggurat.parallel.pipeline.balance import StageCost
from ziggurat.strategies.costs.cache import Kept

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
