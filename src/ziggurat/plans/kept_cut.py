"""The cut of a run, beside its config: a run that goes on is cut where it was, and measures nothing again."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ziggurat.config import PipelineConfig
from ziggurat.parallel.pipeline.balance import StageCost

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
        self.path = path if not config.cut else None  # a cut by hand is in the config
        self.key = f"pp={num_workers},{config.schedule},max_bytes={config.max_bytes},{config.checkpoint}"

    def read(self) -> Cut | None:
        """Return the cut; None where there is none yet, or the file cannot be read."""
        try:
            kept = self._all()[self.key]
            return Cut(tuple(kept["layers"]), tuple(StageCost(**cost) for cost in kept["costs"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, cut: Cut) -> None:
        """Keep a cut; where the file cannot be written, the next start measures again."""
        if self.path is None:
            return
        try:
            known = self._all()
        except (OSError, ValueError):
            known = {}
        try:
            new = self.path.with_suffix(".new")
            new.write_text(json.dumps(known | {self.key: asdict(cut)}, indent=2) + "\n", encoding="utf-8")
            os.replace(new, self.path)
        except OSError:
            return

    def _all(self) -> dict[str, Any]:
        if self.path is None:
            return {}
        read: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return read
