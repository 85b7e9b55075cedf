"""Who asks a living run for another plan: a file in its folder, or a signal; and what is said of what cannot be.

echo sp=2 > RUN/plan          that plan
echo auto > RUN/plan          the best one for the cores that there are now: the planner looks for it beside the steps
kill -USR2 PROCESS            likewise
"""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ziggurat.config import RunConfig, flatten
from ziggurat.errors import UserError
from ziggurat.parallel.runtime.crew import Line
from ziggurat.parallel.runtime.launch import world_from_environment
from ziggurat.strategies.effects import check_effects
from ziggurat.strategies.plan import parse_plan
from ziggurat.strategies.replica_rules import replica_faults
from ziggurat.strategies.resolve import available_cores, batch_faults, resolve_plan
from ziggurat.training.plan_search import PlanSearch, Search, best_of

REQUEST = "plan"  # the file in the run's folder
AUTO = "auto"  # in it, asks for the plan that the planner finds best
MOST_BYTES = 1000  # of a plan; the file may be anything


@dataclass
class Requests:
    """The file that asks for another plan.

    Attributes:
        folder: Of the run.
        config: Of the run, as it is.
        line: To what can start other workers; None where their number stays.
        is_deaf: Whether it is not looked for any more, as it cannot be taken away.
        start_search: Begins to look for the best plan of the run in a folder, of so many workers.
        found: What `look` has found: the config under the plan that is asked for, or why that cannot be.
        coming: The plan whose workers are being started.
        search: For the best plan, where that is asked for.
        news: What there is to say.
    """

    folder: Path
    config: RunConfig
    line: Line | None = None
    is_deaf: bool = False
    start_search: Callable[[Path, int], Search] = PlanSearch
    found: RunConfig | str = ""
    coming: str = ""
    search: Search | None = None
    news: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """Where it is looked for."""
        return self.folder / REQUEST

    @property
    def is_there(self) -> bool:
        """Whether another plan is asked for."""
        return not self.is_deaf and self.path.exists()

    def look(self) -> bool:
        """Return whether there is an answer to a file that asks for another plan; not yet where it is looked for, or its workers are coming."""
        if not self.is_there:
            self.close()
            if self.line is not None:
                self.line.call_off(parse_plan(self.config.plan).num_workers)
            return False
        found = self._read()
        if found is None:
            return False
        self.found = found
        if isinstance(self.found, str) or self.line is None:
            return True
        plan, now = parse_plan(self.found.plan), parse_plan(self.config.plan).num_workers
        if plan.num_workers <= now:
            self.line.call_off(now)
            return True
        why, coming = self.line.ready(plan.num_workers), self.coming
        self.coming = str(plan) if why is None else ""
        if self.coming not in ("", coming):
            self.news.append(f"workers for the plan {plan} are started; steps go on until they are ready")
        if why:
            self.found = self._refusal(str(plan), why)
        return why is not None

    def close(self) -> None:
        """Look for no plan any more."""
        if self.search is not None:
            self.search.close()
            self.search = None

    def _read(self) -> RunConfig | str | None:
        """Return the config of the run under the plan that is asked for, or why it cannot be; None as long as it is looked for."""
        text = ""
        try:
            with self.path.open("rb") as file:
                text = file.read(MOST_BYTES).decode("utf-8", errors="replace").strip()
            if text == AUTO:
                best = self._best()
                return None if best is None else under(best, self.config, self.line is not None)
            self.close()
            return under(text, self.config, self.line is not None)
        except OSError as error:
            why = error.strerror or str(error)
        except UserError as error:
            why = "; ".join(error.faults)
        return self._refusal(text, why)

    def _best(self) -> str | None:
        """Return the best plan of as many workers as there are cores for now; None as long as it is looked for.

        Raises:
            UserError: If there is none, or it is that of the run.
        """
        if world_from_environment() is not None:
            raise UserError("under torchrun name the plan that `ziggurat plan` finds")
        plan = parse_plan(self.config.plan)
        stays = self.line is None
        count = plan.num_workers if stays else max(1, available_cores() // max(1, self.config.threads))
        if count == 1:
            best = "dp=1"
        else:
            if self.search is None:
                self.search = self.start_search(self.folder, count)
                self.news.append(
                    f"the best plan of {count} workers is looked for, by a process beside the steps, which go on"
                )
            plans = self.search.plans()
            if plans is None:
                return None
            best = best_of(plans, self.config)
        if parse_plan(best) == plan:
            raise UserError(f"of {count} workers it is {best}, that of the run")
        return best

    def _refusal(self, text: str, why: str) -> str:
        if text == AUTO:
            return f"{self.path} asks for the best plan: {why}; the run goes on under {self.config.plan}"
        return f"{self.path} asks for the plan '{text}', which cannot be: {why}; the run goes on under {self.config.plan}"

    def take_away(self) -> str:
        """Remove the file, and return what is in the way of that; nothing where it is gone."""
        self.close()
        try:
            self.path.unlink()
        except OSError as error:
            self.is_deaf = True
            return (
                f"{self.path} cannot be removed ({error.strerror}): no other plan is looked for in this run"
            )
        return ""


@contextmanager
def asked_by_signal(folder: Path) -> Iterator[None]:
    """Let SIGUSR2 to this process, or to a worker that it has forked, ask for the best plan of a run while a block runs.

    It is what ``echo auto > RUN/plan`` is; a file that is there already stays. Who has a use of his own for the signal keeps it.
    """
    is_main = threading.current_thread() is threading.main_thread()  # Python allows handlers in no other
    if not is_main or signal.getsignal(signal.SIGUSR2) is not signal.SIG_DFL:
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        with suppress(OSError), (folder / REQUEST).open("x", encoding="utf-8") as file:
            file.write(f"{AUTO}\n")

    signal.signal(signal.SIGUSR2, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)


def under(text: str, config: RunConfig, other_workers: bool) -> RunConfig:
    """Return a config under another plan.

    Args:
        text: The plan.
        config: Of the run, as it is.
        other_workers: Whether their number can change while the run goes on.

    Raises:
        UserError: If that cannot be.
    """
    plan, now = parse_plan(text), parse_plan(config.plan)
    if plan == now:
        raise UserError("it is the plan of the run")
    if plan.num_workers != now.num_workers and not other_workers:
        raise UserError(
            f"it has {plan.num_workers} workers, and the run has {now.num_workers}, whose number stays under torchrun and on GPUs: "
            f"end it (Ctrl-C), and go on with --resume --plan {plan}"
        )
    if other_workers:
        resolve_plan(text, plan.num_microbatches, config.device, None, config.launch.backend)
    faults = batch_faults(plan, config.train.batch_size, config.train.microbatches)
    faults += replica_faults(config, plan, config.train.microbatches)
    if faults:
        raise UserError(faults)
    changed = dataclasses.replace(config, plan=str(plan))
    check_effects(changed, {"plan": text}, flatten(config))
    return changed
