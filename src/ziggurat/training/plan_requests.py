"""Who asks a living run for another plan: a file in its folder, or a signal; and what is said of what cannot be.

echo sp=2 > RUN/plan          that plan
echo auto > RUN/plan          the best one for the cores that there are now: the planner looks for it beside the steps
kill -USR2 PROCESS            likewise
echo better > RUN/plan        likewise, if that is forecast to be better by a margin; a run with ``plan.replan=changes`` asks so by itself (`replanning`)
"""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from ziggurat.config import RunConfig, flatten
from ziggurat.data.extents import Extent
from ziggurat.errors import UserError
from ziggurat.parallel.runtime.crew import Line
from ziggurat.parallel.runtime.launch import world_from_environment
from ziggurat.strategies.effects import check_effects
from ziggurat.strategies.plan import parse_plan
from ziggurat.strategies.replica_rules import replica_faults
from ziggurat.strategies.resolve import available_cores, batch_faults, resolve_plan
from ziggurat.training.plan_search import PlanSearch, Search, Searches, best_of, better_than
from ziggurat.training.replanning import Replanning

REQUEST = "plan"  # the file in the run's folder
AUTO = "auto"  # in it, asks for the plan that the planner finds best
BETTER = "better"  # likewise, if it is better by a margin
MOST_BYTES = 1000  # of a plan; the file may be anything


@dataclass
class Requests:
    """The file that asks for another plan.

    Attributes:
        folder: Of the run.
        config: Of the run, as it is.
        replanning: Whether it is time that the run asks by itself.
        crop_of: Returns rows and columns of the images of a step.
        line: To what can start other workers; None where their number stays.
        is_deaf: Whether it is not looked for any more, as it cannot be taken away.
        start_search: Begins to look for the best plan of the run in a folder, of so many workers, for images of a shape.
        cores: Returns how many cores this process may use.
        found: What `look` has found: the config under the plan that is asked for, or why that cannot be.
        coming: The plan whose workers are being started.
        search: For the best plan, where that is asked for.
        news: What there is to say.
        why: Why the plan that is found is taken, where the planner has found it better.
        is_planned: Whether the planner is asked, and no plan named.
    """

    folder: Path
    config: RunConfig
    replanning: Replanning
    crop_of: Callable[[int], Extent]
    line: Line | None = None
    is_deaf: bool = False
    start_search: Callable[[Path, int, str], Search] = PlanSearch
    cores: Callable[[], int] = available_cores
    found: RunConfig | str = ""
    coming: str = ""
    search: Searches | None = None
    news: list[str] = field(default_factory=list)
    why: str = ""
    is_planned: bool = False

    @property
    def path(self) -> Path:
        """Where it is looked for."""
        return self.folder / REQUEST

    @property
    def is_there(self) -> bool:
        """Whether another plan is asked for."""
        return not self.is_deaf and self.path.exists()

    def look(self, done: int) -> bool:
        """Return whether there is an answer to a file that asks for another plan; not yet where it is looked for, or its workers are coming.

        Args:
            done: Steps that are done.
        """
        if self.replanning.every:
            self._ask_by_itself(done)
        if not self.is_there:
            self.close()
            if self.replanning.asked_for is not None:  # somebody has called it off
                self.replanning.settle(done)
            if self.line is not None:
                self.line.call_off(parse_plan(self.config.plan).num_workers)
            return False
        self.why = ""
        found = self._read(done)
        if found is None:
            return False
        self.found = found
        if not self._is_ready():
            return False
        if self.replanning.is_stale:
            self.replanning.drop()
        elif self.is_planned or not isinstance(self.found, str):
            self.replanning.settle(done)
        if self.why and not isinstance(self.found, str):
            self.replanning.left[self.config.plan] += 1
            self.news.append(self.why)
        return True

    def look_late(self) -> bool:
        """Return whether somebody asks for another plan after the last step; what the run asks by itself is taken away."""
        if self.replanning.asked_for is not None and self.is_there:
            with suppress(OSError):  # gone, or not to be read: then nobody knows that it is the run's own
                if self._text() == BETTER:
                    self.take_away()
        return self.is_there

    def _ask_by_itself(self, done: int) -> None:
        """Write the file if it is time to."""
        self.replanning.see(done, self.cores(), self.crop_of(done))
        reason = self.replanning.reason(done)
        if not reason or self.is_deaf or self.is_there:
            return
        try:
            with self.path.open("x", encoding="utf-8") as file:
                file.write(f"{BETTER}\n")
        except FileExistsError:
            return  # somebody has asked in this instant
        except OSError as error:
            self.replanning.asked_at = done  # there may be room later
            self.path.unlink(missing_ok=True)
            self.news.append(f"{reason}, but {self.path} cannot be written ({error.strerror})")
            return
        self.replanning.ask(done)
        self.news.append(
            f"{reason}: a better plan than {self.config.plan} is asked for (plan.replan=changes)"
        )

    def _is_ready(self) -> bool:
        """Return whether what is found can be answered now: it needs no other workers, they are there, or cannot come."""
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

    def _text(self) -> str:
        with self.path.open("rb") as file:
            return file.read(MOST_BYTES).decode("utf-8", errors="replace").strip()

    def _read(self, done: int) -> RunConfig | str | None:
        """Return the config of the run under the plan that is asked for, or why it cannot be; None as long as it is looked for."""
        text = ""
        try:
            text = self._text()
            if not text:  # who writes it has opened it, and is about to
                return None
            self.is_planned = text in (AUTO, BETTER)
            if self.is_planned:
                best = self._best(done, text == BETTER)
                return None if best is None else under(best, self.config, self.line is not None)
            self.close()
            return under(text, self.config, self.line is not None)
        except OSError as error:
            why = error.strerror or str(error)
        except UserError as error:
            why = "; ".join(error.faults)
        return self._refusal(text, why)

    def _best(self, done: int, only_better: bool) -> str | None:
        """Return the best plan of as many workers as there are cores for now; None as long as it is looked for.

        Args:
            done: Steps that are done.
            only_better: Whether it must be forecast to be better than that of the run by a margin, which may have another number of workers.

        Raises:
            UserError: If there is none, or it is that of the run.
        """
        if world_from_environment() is not None:
            raise UserError("under torchrun name the plan that `ziggurat plan` finds")
        plan = parse_plan(self.config.plan)
        stays = self.line is None
        count = plan.num_workers if stays else max(1, self.cores() // max(1, self.config.threads))
        if count == 1 and not only_better:
            best = "dp=1"
        else:
            found = self._found(done, count, only_better)
            if found is None:
                return None
            if only_better:
                better = better_than(found, self.config, self.replanning.margin)
                self.why = (
                    f"a step under {better.plan} is forecast to take {better.seconds:.3g} s, and under {plan} {better.own_seconds:.3g} s: better "
                    f"by {better.gain:.0%}"
                )
                return better.plan
            best = str(best_of(found["plans"], self.config)["plan"])
        if parse_plan(best) == plan:
            raise UserError(f"of {count} workers it is {best}, that of the run")
        return best

    def _found(self, done: int, count: int, only_better: bool) -> Mapping[str, Any] | None:
        """Return what the planner has found; None as long as it looks.

        Raises:
            UserError: If it has found nothing, or what it looks for is of no use any more.
        """
        own = parse_plan(self.config.plan).num_workers
        if self.search is None:
            counts, shape = [count], ""
            if only_better:
                counts, shape = [count, own], self.replanning.shape(self.config)
                self.replanning.ask(done)
            self.search = Searches(lambda number: self.start_search(self.folder, number, shape), counts)
            beside = f" (and of {own}, as there are)" if only_better and count != own else ""
            self.news.append(
                f"the best plan of {count} workers{beside} is looked for, by a process beside the steps, which go on"
            )
        if only_better and self.replanning.is_stale:
            raise UserError("what it is asked for has become something else meanwhile")
        return self.search.found()

    def _refusal(self, text: str, why: str) -> str:
        if text in (AUTO, BETTER):
            words = "the best" if text == AUTO else "a better"
            return f"{self.path} asks for {words} plan: {why}; the run goes on under {self.config.plan}"
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
