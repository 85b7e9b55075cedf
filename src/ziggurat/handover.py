"""What survivors of a lost worker hand over, so that the next attempt need not go back to a checkpoint.

Every worker of the dp axis holds the whole state. When one is lost, the collectives of the others fail; each of them is
then in the state after the last step that it completed (a step changes the weights only after its last collective), and
the first to come writes it to memory, as a checkpoint that lives in ``/dev/shm``:

    worker 0   step 7 ... all-gather fails ──> undo the running statistics ──> state after step 6 ──> /dev/shm
    worker 1   step 7 ... killed                                                                        │
    next attempt   worker 0, worker 1 <── state after step 6 ───────────────────────────────────────────┘

Processes are new in each attempt: nothing of a broken process group, loader or half-done step is carried along.
"""

from __future__ import annotations

import fcntl
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ziggurat.checkpoint import newest_step, save_checkpoint

MEMORY = Path("/dev/shm")


class Handover:
    """Knows the step of this worker's state, and hands it over when a collective fails.

    Args:
        folder: In memory; None hands nothing over.
        model: The weights.
        average: Their moving average.
        optimizer: With its state.
    """

    def __init__(
        self, folder: Path | None, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        self.folder = folder
        self.model = model
        self.average = average
        self.optimizer = optimizer
        self.done: int | None = None
        self.within = False

    def begin(self) -> None:
        """Note that a step begins, which can be undone."""
        self.within = True

    def change(self) -> None:
        """Note that the state changes from now on; until it is complete there is nothing to hand over."""
        self.within, self.done = False, None

    def complete(self, done: int) -> None:
        """Note that the state is that after `done` steps, with all that is due after them but the checkpoint."""
        self.within, self.done = False, done

    @contextmanager
    def on_loss(self, undo: Callable[[], None]) -> Iterator[None]:
        """Hand the state over if a collective fails in the block; the error goes on.

        Args:
            undo: Goes back to the running statistics from before the step.
        """
        try:
            yield
        except RuntimeError:  # what a collective raises; a user's error is none
            if self.folder is not None and self.done is not None:
                if self.within:
                    undo()
                self._write(self.folder, self.done)
            raise

    def _write(self, folder: Path, done: int) -> None:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel gives it back when its owner is killed
            if (newest_step(folder) or -1) >= done:
                return
            try:
                save_checkpoint(folder, done, self.model, self.average, self.optimizer)
            except OSError as error:
                print(
                    f"ziggurat: the state after step {done} cannot be handed over in {folder}: {error}; the newest "
                    "checkpoint is used",
                    file=sys.stderr,
                )


def newest_state(checkpoints: Path, memory: Path | None) -> tuple[Path, int] | None:
    """Return the folder and step of the newest state, in memory or on the disk; of equal ones that in memory."""
    places = [place for place in (memory, checkpoints) if place is not None]
    states = [(place, step) for place in places if (step := newest_step(place)) is not None]
    return max(states, key=lambda state: state[1], default=None)


@contextmanager
def memory_folder() -> Iterator[Path | None]:
    """Make a folder in memory while a block runs; None where the system has none."""
    if not MEMORY.is_dir():
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="ziggurat-state-", dir=MEMORY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
