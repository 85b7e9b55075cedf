"""Another plan between two steps, in the processes that a run has: asked for by a file in its folder, see ``docs/elastic.md``.

train under dp=2 ... step 7 | PlanAsked: state to memory, groups closed | train under sp=2, from memory: step 8 ...
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ziggurat.config import RunConfig, flatten
from ziggurat.errors import UserError
from ziggurat.strategies.effects import check_effects
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.plan import parse_plan
from ziggurat.strategies.replica_rules import replica_faults
from ziggurat.strategies.resolve import batch_faults

REQUEST = "plan"  # the file in the run's folder
MOST_BYTES = 1000  # of a plan; the file may be anything


class PlanAsked(Exception):  # noqa: N818 - reads as what happened
    """The run goes on under another plan: its state is where the next start finds it, and its groups are closed.

    Attributes:
        config: Of the run, with the new plan.
        begin: When it was asked for, on the clock of `time.perf_counter`.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config.plan)
        self.config, self.begin = config, time.perf_counter()


@dataclass
class Requests:
    """The file that asks for another plan.

    Attributes:
        folder: Of the run.
        is_deaf: Whether it is not looked for any more, as it cannot be taken away.
    """

    folder: Path
    is_deaf: bool = False

    @property
    def path(self) -> Path:
        """Where it is looked for."""
        return self.folder / REQUEST

    @property
    def is_there(self) -> bool:
        """Whether another plan is asked for."""
        return not self.is_deaf and self.path.exists()

    def read(self, config: RunConfig) -> RunConfig | str:
        """Return the config of the run under the plan that is asked for, or why it cannot be.

        Args:
            config: Of the run, as it is.
        """
        text = ""
        try:
            with self.path.open("rb") as file:
                text = file.read(MOST_BYTES).decode("utf-8", errors="replace").strip()
            return under(text, config)
        except OSError as error:
            why = error.strerror or str(error)
        except UserError as error:
            why = "; ".join(error.faults)
        return f"{self.path} asks for the plan '{text}', which cannot be: {why}; the run goes on under {config.plan}"

    def take_away(self) -> str:
        """Remove the file, and return what is in the way of that; nothing where it is gone."""
        try:
            self.path.unlink()
        except OSError as error:
            self.is_deaf = True
            return (
                f"{self.path} cannot be removed ({error.strerror}): no other plan is looked for in this run"
            )
        return ""


def under(text: str, config: RunConfig) -> RunConfig:
    """Return a config under another plan of as many workers.

    Raises:
        UserError: If that cannot be.
    """
    plan, now = parse_plan(text), parse_plan(config.plan)
    if plan == now:
        raise UserError("it is the plan of the run")
    if plan.num_workers != now.num_workers:
        raise UserError(
            f"it has {plan.num_workers} workers, and the run has {now.num_workers}: end it (Ctrl-C), and go on with --resume --plan {plan}"
        )
    faults = batch_faults(plan, config.train.batch_size, config.train.microbatches)
    faults += replica_faults(config, plan, config.train.microbatches)
    if faults:
        raise UserError(faults)
    changed = dataclasses.replace(config, plan=str(plan))
    check_effects(changed, {"plan": text}, flatten(config))
    return changed


@contextmanager
def closed_for_change(parallel: Parallel[Any], mesh: Mesh) -> Iterator[None]:
    """Close what a plan has made, where the run goes on under another one after the block."""
    try:
        yield
    except PlanAsked:
        parallel.close()
        mesh.close()
        raise
