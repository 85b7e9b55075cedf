"""Functions of the user's own that are called in a run: after a step, an evaluation, a checkpoint.

They are called on the first worker alone, between two steps, with a dictionary: the line of ``metrics.jsonl`` that was just written, or the
step and the folder of a checkpoint that is whole. With several workers that is a process of its own: what a function changes in memory stays
there, so it writes to a file, or the run has one worker.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ziggurat.parallel.collectives.workers import Workers

Callback = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Callbacks:
    """What is called.

    Attributes:
        on_step: With the line of a training step.
        on_evaluation: With the step and the metrics.
        on_checkpoint: With ``step`` and ``folder``.
    """

    on_step: Callback | None = None
    on_evaluation: Callback | None = None
    on_checkpoint: Callback | None = None

    def __bool__(self) -> bool:
        return any((self.on_step, self.on_evaluation, self.on_checkpoint))


NO_CALLBACKS = Callbacks()


class Calls:
    """Calls them, and keeps what they raise until all workers end together.

    Args:
        callbacks: The same on every worker.
        workers: All of them.
    """

    def __init__(self, callbacks: Callbacks, workers: Workers) -> None:
        self.callbacks, self.workers = callbacks, workers
        self.failed = ""
        self.told = -1  # the newest checkpoint of which it was told

    def step(self, row: Mapping[str, Any]) -> None:
        """Tell of a step."""
        self._call("on_step", self.callbacks.on_step, row)

    def evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Tell of an evaluation."""
        self._call("on_evaluation", self.callbacks.on_evaluation, {"step": step, **metrics})

    def checkpoint(self, step: int | None, folder: str) -> None:
        """Tell of the newest checkpoint, once."""
        if step is not None and step > self.told:
            self.told = step
            self._call("on_checkpoint", self.callbacks.on_checkpoint, {"step": step, "folder": folder})

    def fault(self) -> str:
        """Return what one of them has raised, on every worker; empty if nothing.

        Communication: one sum of one number, where there are callbacks; one broadcast where one has failed.
        """
        if not self.callbacks or not any(self.workers.sum([bool(self.failed)])):
            return ""
        return self.workers.broadcast_object(self.failed)

    def _call(self, name: str, function: Callback | None, given: Mapping[str, Any]) -> None:
        if function is None or self.failed or not self.workers.is_first:
            return
        try:
            function(dict(given))
        except Exception as error:  # noqa: BLE001 - of the user's function: all workers end with it
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.failed = (
                f"the callback {name} failed at step {given['step']}: {type(error).__name__}: {error} "
                f"({where.filename}, line {where.lineno})"
            )
