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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ziggurat.errors import CollectiveFailed
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.heartbeat import phase, waiting
from ziggurat.runs.checkpoint import (
    Progress,
    checkpoint_faults,
    checkpoint_folder,
    published_steps,
    read_manifest,
    remove_checkpoint,
    training_state,
    write_checkpoint,
)

MEMORY = Path("/dev/shm")
PREFIX = "ziggurat-state-"
OWNER = "owner"  # file in the folder, locked as long as the run is there


class Handover:
    """Knows the step of this worker's state, and hands it over when a collective fails.

    Args:
        folder: In memory; None hands nothing over.
        run: Names the definition of the run.
        model: The weights.
        average: Their moving average.
        optimizer: With its state.
    """

    def __init__(
        self,
        folder: Path | None,
        run: str,
        model: nn.Module,
        average: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.folder = folder
        self.run = run
        self.model = model
        self.average = average
        self.optimizer = optimizer
        self.progress: Progress | None = None
        self.within = False

    def begin(self) -> None:
        """Note that a step begins, which can be undone."""
        self.within = True

    def change(self) -> None:
        """Note that the state changes from now on; until it is complete there is nothing to hand over."""
        self.within, self.progress = False, None

    def complete(self, done: int, counters: Mapping[str, int]) -> None:
        """Note that the state is that after `done` steps, and what the run has counted until then."""
        self.within, self.progress = False, Progress(done, counters=dict(counters))

    @contextmanager
    def on_loss(self, undo: Callable[[], None]) -> Iterator[None]:
        """Hand the state over if a collective fails in the block, as another worker is lost; the error goes on.

        Args:
            undo: Goes back to the running statistics from before the step.
        """
        try:
            yield
        except CollectiveFailed:
            if self.folder is not None and self.progress is not None:
                phase("handover")
                if self.within:
                    undo()
                self._write(self.folder, self.progress)
            raise

    def _write(self, folder: Path, progress: Progress) -> None:
        with (folder / "lock").open("w") as lock:
            with waiting():
                fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel gives it back when its owner is killed
            before = published_steps(folder)
            if before and before[-1] >= progress.step:
                return
            state = training_state(self.model, self.average, self.optimizer)
            tensors = {name: value.detach().cpu() for name, value in state.items()}
            fault = write_checkpoint(folder, progress, self.run, tensors, Workers())
            if fault is not None:
                print(
                    f"ziggurat: the state after step {progress.step} cannot be handed over in {folder}: {fault}; the "
                    "newest checkpoint is used",
                    file=sys.stderr,
                )
                return
            for step in before:
                remove_checkpoint(folder, step)


def handed_over(folder: Path | None, run: str) -> Progress | None:
    """Return how far the newest state is that survivors of the run have handed over whole; None if there is none."""
    for step in reversed(published_steps(folder) if folder is not None else []):
        assert folder is not None
        place = checkpoint_folder(folder, step)
        if not checkpoint_faults(place, step, run):
            return Progress(step, counters=read_manifest(place).counters)
    return None


@contextmanager
def memory_folder() -> Iterator[Path | None]:
    """Make a folder in memory while a block runs; None where the system has none.

    Folders of owners that were killed are removed: the kernel has given their locks back.
    """
    if not MEMORY.is_dir():
        yield None
        return
    for left in MEMORY.glob(f"{PREFIX}*"):
        _remove_ownerless(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=MEMORY))
    try:
        with (folder / OWNER).open("w") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)  # shared with the workers, which end with this process
            yield folder
    finally:
        shutil.rmtree(folder)


def _remove_ownerless(folder: Path) -> None:
    try:
        with (folder / OWNER).open() as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    except OSError:  # it has an owner, or is being made, or belongs to another user
        return
