"""The best plan for a run that goes on: `ziggurat plan RUN` in a process beside its steps, which end when the run ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ziggurat.config import RunConfig, flatten
from ziggurat.errors import UserError
from ziggurat.strategies.plan import parse_plan

SAYS = "ziggurat: "  # before what is wrong, on standard error


class Search(Protocol):
    """A search for the best plan."""

    def found(self) -> Mapping[str, Any] | None:
        """Return what ``ziggurat plan --json`` says: ``plans`` that were found, best first, and those that are ``left``; None as long as it looks.

        Raises:
            UserError: If there are none.
        """
        ...

    def close(self) -> None:
        """End the search."""
        ...


class PlanSearch:
    """A search by a process of its own.

    Args:
        folder: Of the run.
        num_workers: That the plans are to have.
        shape: Of the images of a step, as ``--input`` takes it; empty for the run's batch and crop.
    """

    def __init__(self, folder: Path, num_workers: int, shape: str = "") -> None:
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - see `close`
        words = ["plan", str(folder), "--workers", str(num_workers), "--json"]
        words += ["--input", shape] if shape else []
        # it dies with this process, however that ends
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ziggurat.cli.child", str(os.getpid()), *words],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
        )

    def found(self) -> Mapping[str, Any] | None:
        """Return what ``ziggurat plan --json`` says: ``plans`` that were found, best first, and those that are ``left``; None as long as it looks.

        Raises:
            UserError: If there are none.
        """
        status = self._process.poll()
        if status is None:
            return None
        if status:
            said = _text(self._err)
            why = " ".join(said[said.rfind(SAYS) :].removeprefix(SAYS).split()) if SAYS in said else ""
            raise UserError(why or f"`ziggurat plan` has ended with exit status {status}")
        found: Mapping[str, Any] = json.loads(_text(self._out).splitlines()[-1])
        return found

    def close(self) -> None:
        """End the search."""
        self._process.kill()
        self._process.wait()
        self._out.close()
        self._err.close()


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode("utf-8", errors="replace")
    return text


class Searches:
    """Searches for the best plans of several numbers of workers, one after the other.

    Args:
        start: Begins one, of so many workers.
        counts: Numbers of workers; each is looked at once.
    """

    def __init__(self, start: Callable[[int], Search], counts: Iterable[int]) -> None:
        self._start, self._waiting = start, list(dict.fromkeys(counts))
        self._search = start(self._waiting.pop(0))
        self._plans: list[Mapping[str, Any]] = []
        self._left: list[Mapping[str, Any]] = []
        self._is_done = False

    def found(self) -> Mapping[str, Any] | None:
        """Return the ``plans`` of all of them together, best first, and those that are ``left``; None as long as one looks.

        Raises:
            UserError: If one of them has found none.
        """
        if not self._is_done:
            found = self._search.found()
            if found is None:
                return None
            self._plans += found["plans"]
            self._left += found["left"]
            if self._waiting:
                self._search.close()
                self._search = self._start(self._waiting.pop(0))
                return None
            self._plans.sort(key=lambda row: float(row["step_seconds"]))
            self._is_done = True
        return {"plans": self._plans, "left": self._left}

    def close(self) -> None:
        """End the one that looks."""
        self._search.close()


def best_of(plans: Sequence[Mapping[str, Any]], config: RunConfig) -> Mapping[str, Any]:
    """Return the best plan that goes with the settings of a run, which stay as they are.

    Args:
        plans: Best first.
        config: Of the run.

    Raises:
        UserError: If there is none.
    """
    row = next((row for row in plans if _goes_with(row, flatten(config))), None)
    if row is None:
        raise UserError("no plan that was found goes with the settings of the run; `ziggurat plan` says why")
    return row


def _goes_with(row: Mapping[str, Any], flat: Mapping[str, Any]) -> bool:
    return all(flat[name] == value for name, value in row["settings"].items())


class Better(NamedTuple):
    """A plan that is forecast to be better than that of a run.

    Attributes:
        plan: Which one.
        seconds: Of its step.
        own_seconds: Of a step under the plan of the run, at least.
    """

    plan: str
    seconds: float
    own_seconds: float

    @property
    def gain(self) -> float:
        """By which part of it a step is shorter."""
        return 1 - self.seconds / self.own_seconds


def better_than(found: Mapping[str, Any], config: RunConfig, margin: Callable[[str], float]) -> Better:
    """Return the best plan that goes with the settings of a run, if it is forecast to be better than that of the run.

    Both are forecasts of the same planner, so that what is wrong with both alike does not count. Of a plan that the planner has left as too slow
    to be one of the best, the least seconds that it takes are known.

    Args:
        found: The plans of as many workers as there may be, and as the run has.
        config: Of the run.
        margin: From a plan to the part of a step by which it must be better.

    Raises:
        UserError: If there is none, and why.
    """
    own, flat = parse_plan(config.plan), flatten(config)

    def is_own(row: Mapping[str, Any]) -> bool:
        return parse_plan(str(row["plan"])) == own and _goes_with(row, flat)

    row = best_of(found["plans"], config)
    if is_own(row):
        raise UserError(f"it is {row['plan']}, that of the run")
    known = [float(one["step_seconds"]) for one in found["plans"] if is_own(one)]
    known += [float(one["least_seconds"]) for one in found["left"] if is_own(one)]
    if not known:
        raise UserError(
            f"the planner cannot say what a step under {config.plan} takes; `ziggurat plan` says why"
        )
    better = Better(str(row["plan"]), float(row["step_seconds"]), known[0])
    asked = margin(better.plan)
    if not better.seconds <= better.own_seconds * (1 - asked):
        raise UserError(
            f"it is {better.plan}, whose step is forecast to take {better.seconds:.3g} s, and that of {config.plan} {better.own_seconds:.3g} s: "
            f"better by {better.gain:.0%}, where {asked:.0%} are asked for"
        )
    return better
