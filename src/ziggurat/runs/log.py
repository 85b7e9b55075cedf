"""What a run says: a line per step in ``metrics.jsonl``, TensorBoard events, ``log.txt`` and a progress bar.

Only the first worker speaks; on the others every call does nothing. Progress goes to standard error. Lines that a full disk does not
take are kept and written later; those that are left at the end are a fault of the run (`missing`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ziggurat.runs.board import Board
from ziggurat.runs.progress import Meter, time_left
from ziggurat.system.writing import CannotWrite, Lines, whole_file

LOG = "log.txt"
LINE_SECONDS = 10.0  # between two lines on the steps, where there is no terminal


class RunLog:
    """The log of one run.

    Args:
        folder: The run's folder.
        num_steps: Steps of the whole run.
        first_step: Steps that are done already; later lines of ``metrics.jsonl`` are cut off.
        active: Whether this worker speaks.
    """

    def __init__(self, folder: Path, num_steps: int, first_step: int, active: bool) -> None:
        self.active = active
        if not active:
            return
        self.console = Console(stderr=True)
        self.text = Lines(folder / LOG)
        rows = _continue_lines(folder / "metrics.jsonl", first_step)
        self.evaluations = {row["step"]: row for row in rows if row["kind"] == "val"}
        self.last_step = max((row["step"] for row in rows if row["kind"] == "train"), default=0)
        self.metrics = Lines(folder / "metrics.jsonl")
        self.board = Board(folder, first_step + 1)
        self.faults: dict[Path, CannotWrite] = {}  # of files that do not take their lines now
        self.told: set[Path] = set()
        self.progress = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(), TextColumn("{task.fields[loss]}"),
            console=self.console, disable=not self.console.is_terminal,
        )  # fmt: skip
        self.bar = self.progress.add_task("train", total=num_steps, completed=first_step, rate="", loss="")
        self.num_steps, self.first_step = num_steps, first_step
        self.begin = self.last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self.active:
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.active:
            self.progress.stop()
            self.text.close()
            self.metrics.close()
            self.board.close()

    def say(self, message: str) -> None:
        """Print a line above the progress bar, and keep it in ``log.txt``."""
        if self.active:
            self._print(message)
        self.keep(message)

    def keep(self, message: str) -> None:
        """Keep a line in ``log.txt`` that the user has read already."""
        if self.active:
            self._note(self.text, self.text.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}"))

    def lacks(self, step: int) -> bool:
        """Whether a step before the first one of this log has no line."""
        return self.active and self.last_step < step

    def step(self, values: dict[str, Any]) -> None:
        """Record one step: ``step`` (from 1), ``loss``, ``images_per_second`` and any further numbers.

        The loss of a step that was skipped, as its numbers are not finite, is None.
        """
        if not self.active:
            return
        self._record(values, "train")
        rate = f"{values['images_per_second']:.2f} images/s"
        loss = "skipped" if values["loss"] is None else f"loss {values['loss']:.4f}"
        self.progress.update(self.bar, completed=values["step"], rate=rate, loss=loss)
        if self.progress.disable and (
            time.monotonic() - self.last_line > LINE_SECONDS or values["step"] in (1, self.num_steps)
        ):
            self.last_line = time.monotonic()
            done, total = values["step"] - self.first_step, self.num_steps - self.first_step
            left = time_left(self.last_line - self.begin, done, total)
            self.say(f"step {values['step']}/{self.num_steps}  {rate}  {loss}  lr {values['lr']:.2e}{left}")

    def evaluation(self, step: int, metrics: dict[str, Any]) -> None:
        """Record the metrics of an evaluation after `step` steps; a run that goes on may repeat its last one."""
        if not self.active:
            return
        if not metrics:
            self.say(
                "no evaluation: the data set has no validation images; keep some aside as its val split, name other data with "
                "--set data.val=..., or divide images with boxes or masks: --set data.split=blocks"
            )
            return
        if step not in self.evaluations:
            self.evaluations[step] = {"step": step, **metrics}
            self._record(self.evaluations[step], "val")
        shown = [f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)]
        self.say("evaluation: " + ("  ".join(shown) or "no metric has a value for these images"))

    def balance(self, values: dict[str, Any]) -> None:
        """Record what the last steps took on all workers: ``step``, and further numbers."""
        if self.active:
            self._record(values, "balance")

    def change(self, values: dict[str, Any]) -> None:
        """Note that the run goes on under another plan, and say how long it has paused.

        Args:
            values: As `plan_change.Change.pause` returns them.
        """
        if not self.active:
            return
        parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in values["seconds_of"].items())
        self.say(
            f"the plan is {values['plan']} now; the run has paused for {values['seconds']:.2f} s: {parts}"
        )
        self._record(values, "plan")

    def history(self, metric: str) -> list[tuple[int, float | None]]:
        """Return the step and a metric of every evaluation so far; none on workers that do not speak."""
        if not self.active:
            return []
        return [(step, row.get(metric)) for step, row in sorted(self.evaluations.items())]

    def watch(self, what: str, unit: str) -> Callable[[int, int], None]:
        """Return what takes note of how far something beside the steps is: in the bar on a terminal, else a line now and then."""
        if not self.active:
            return lambda done, total: None
        if self.progress.disable:
            return Meter(what, unit, stream=self.console.file)

        def show(done: int, total: int) -> None:
            self.progress.update(self.bar, loss=f"{what} {done}/{total} {unit}" if done < total else "")

        return show

    def sync(self) -> None:
        """Return when what was recorded is on the disk, if that has room: a checkpoint should not know of steps that the log does not."""
        if self.active:
            self._note(self.metrics, self.metrics.write(sync=True))

    @property
    def removed(self) -> CannotWrite | None:
        """The fault of a file that is not there any more, and with it the run's folder; None as long as all are."""
        gone = (
            [one for one in self.faults.values() if isinstance(one.error, FileNotFoundError)]
            if self.active
            else []
        )
        return gone[0] if gone else None

    def missing(self) -> list[CannotWrite]:
        """Try once more to write the lines that were kept, and return what is in their way; the fault of each file."""
        if self.active:
            for lines in (self.metrics, self.text):
                self._note(lines, lines.write())
        return list(self.faults.values()) if self.active else []

    def _print(self, message: str) -> None:
        with suppress(OSError):  # its reader is gone: the file has the line
            self.progress.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def _note(self, lines: Lines, fault: CannotWrite | None) -> None:
        """Note whether a file takes its lines; the first time that it does not, the user is told."""
        if fault is None:
            self.faults.pop(lines.path, None)
            return
        self.faults[lines.path] = fault
        if lines.path not in self.told:
            self.told.add(lines.path)
            self._print(f"{fault}; its lines are kept, and written when they can be")

    def _record(self, values: dict[str, Any], kind: str) -> None:
        self._note(self.metrics, self.metrics.add(json.dumps({"kind": kind, **values})))
        had_fault = self.board.fault is not None
        for name, value in values.items():
            if isinstance(value, float):
                self.board.add_scalar(f"{kind}/{name}", value, values["step"])
        if self.board.fault is not None and not had_fault:
            self._print(f"{self.board.fault}; TensorBoard shows no more of this run")


def _continue_lines(path: Path, first_step: int) -> list[dict[str, Any]]:
    """Drop the lines of steps after `first_step`, which will be taken again, at once or not at all; return the rest."""
    if not path.exists():
        return []
    rows = [
        row
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if (row := _row(line)) is not None
    ]
    kept = [row for row in rows if row["step"] <= first_step]
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in kept)
        file.flush()
        os.fsync(file.fileno())
    return kept


def _row(line: str) -> dict[str, Any] | None:
    """Return what a line says; None of one that a kill has cut."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) and "kind" in row else None
