"""What a run says: a line per step in ``metrics.jsonl``, TensorBoard events, ``log.txt`` and a progress bar.

Only the first worker speaks; on the others every call does nothing. Progress goes to standard error.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter


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
        self.text = (folder / "log.txt").open("a", encoding="utf-8")
        rows = _continue_lines(folder / "metrics.jsonl", first_step)
        self.evaluated = {row["step"] for row in rows if row["kind"] == "val"}
        self.metrics = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self.board = SummaryWriter(str(folder), purge_step=first_step + 1)
        self.progress = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(), TextColumn("{task.fields[loss]}"),
            console=self.console, disable=not self.console.is_terminal,
        )  # fmt: skip
        self.bar = self.progress.add_task("train", total=num_steps, completed=first_step, rate="", loss="")
        self.num_steps = num_steps
        self.last_line = time.monotonic()

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
            self.progress.console.print(message, highlight=False, markup=False)
            self.text.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")
            self.text.flush()

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
            time.monotonic() - self.last_line > 10 or values["step"] in (1, self.num_steps)
        ):
            self.last_line = time.monotonic()
            self.say(f"step {values['step']}/{self.num_steps}  {rate}  {loss}  lr {values['lr']:.2e}")

    def evaluation(self, step: int, metrics: dict[str, Any]) -> None:
        """Record the metrics of an evaluation after `step` steps; a run that goes on may repeat its last one."""
        if self.active:
            if step not in self.evaluated:
                self._record({"step": step, **metrics}, "val")
                self.board.flush()
            shown = {name: value for name, value in metrics.items() if isinstance(value, float)}
            self.say("evaluation: " + "  ".join(f"{name} {value:.4f}" for name, value in shown.items()))

    def sync(self) -> None:
        """Return when what was recorded is on the disk: a checkpoint must not know of steps that the log does not."""
        if self.active:
            os.fsync(self.metrics.fileno())
            self.board.flush()

    def _record(self, values: dict[str, Any], kind: str) -> None:
        self.metrics.write(json.dumps({"kind": kind, **values}) + "\n")
        self.metrics.flush()
        for name, value in values.items():
            if isinstance(value, float):
                self.board.add_scalar(f"{kind}/{name}", value, values["step"])


def _continue_lines(path: Path, first_step: int) -> list[dict[str, Any]]:
    """Drop the lines of steps after `first_step`, which will be taken again, at once or not at all; return the rest."""
    if not path.exists():
        return []
    rows = [row for line in path.read_text(encoding="utf-8").splitlines() if (row := _row(line)) is not None]
    kept = [row for row in rows if row["step"] <= first_step]
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in kept)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return kept


def _row(line: str) -> dict[str, Any] | None:
    """Return what a line says; None of one that a kill has cut."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) and "kind" in row else None
