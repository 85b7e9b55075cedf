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
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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
    write_checkpoint,
)
from ziggurat.strategies.layout import Chunk
from ziggurat.strategies.parallel import Parallel
from ziggurat.system.writing import CannotWrite, write_text

MEMORY = Path("/dev/shm")
PREFIX = "ziggurat-state-"
OWNER = "owner"  # file in the folder, locked as long as the run is there


class Snapshots:
    """Hands the state of this worker over when a collective fails.

    Args:
        folder: In memory; None hands nothing over.
        run: Names the definition of the run.
        parallel: The state, whole on this worker (`Parallel.survives`).

    Attributes:
        row: What the log says of the last step: the first worker may be lost between the step and its line.
    """

    def __init__(self, folder: Path | None, run: str, parallel: Parallel[Any]) -> None:
        self.folder = folder if parallel.survives else None
        self.run, self.parallel = run, parallel
        self.row: dict[str, Any] | None = None

    @contextmanager
    def on_loss(self) -> Iterator[None]:
        """Hand the state over if a collective fails in the block; the error goes on."""
        state = self.parallel.state
        try:
            yield
        except CollectiveFailed:
            if self.folder is not None and state.condition != "changing":
                phase("handover")
                if state.condition == "computing":
                    self.parallel.abandon()
                self._write(self.folder)
            raise

    def _write(self, folder: Path) -> None:
        state = self.parallel.state
        progress = Progress(state.step, counters=dict(state.counters), decisions=state.decisions.to_json())
        with (folder / "lock").open("w") as lock:
            with waiting():
                fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel gives it back when its owner is killed
            before = published_steps(folder)
            if before and before[-1] >= progress.step:
                return
            if self.row is not None and self.row["step"] == progress.step:  # before the state has its name
                with suppress(CannotWrite):  # if there is no room, the state says so
                    write_text(_row_file(folder, progress.step), json.dumps(self.row))
            chunks = {name: Chunk.whole(value.detach().cpu()) for name, value in state.tensors().items()}
            fault = write_checkpoint(folder, progress, self.run, chunks, Workers(), is_summed=False)
            if fault is not None:
                print(
                    f"ziggurat: the state after step {progress.step} cannot be handed over in {folder}: {fault}; the "
                    "newest checkpoint is used",
                    file=sys.stderr,
                )
                return
            for step in before:
                remove_checkpoint(folder, step)
                _row_file(folder, step).unlink(missing_ok=True)


def hand_over(folder: Path, run: str, parallel: Parallel[Any]) -> str | None:
    """Write the state after a step to memory, each worker what it has of it, and return what went wrong; all workers call this.

    Args:
        folder: In memory that all workers see.
        run: Names the definition of the run.
        parallel: The state, on its workers.
    """
    state, workers = parallel.state, parallel.mesh.workers
    before = published_steps(folder) if workers.is_first else []
    if workers.broadcast_object(state.step in before):
        return None
    progress = Progress(state.step, counters=dict(state.counters), decisions=state.decisions.to_json())
    chunks = {
        name: Chunk(chunk.tensor.detach().cpu(), chunk.offsets) for name, chunk in _written(parallel).items()
    }
    fault = write_checkpoint(folder, progress, run, chunks, workers, is_summed=False)
    if fault is None:
        for step in before:
            remove_checkpoint(folder, step)
    return fault


def _written(parallel: Parallel[Any]) -> dict[str, Chunk]:
    """Return what this worker writes of the state: where each has all of it, every worker a part, as they wait for each other."""
    state, workers = parallel.state, parallel.mesh.workers
    if not parallel.survives or state.replicas is not None:
        return parallel.chunks()
    tensors, sizes, mine = state.tensors(), [0] * workers.size, {}
    for name in sorted(tensors, key=lambda name: (-tensors[name].nbytes, name)):
        rank = sizes.index(min(sizes))
        sizes[rank] += tensors[name].nbytes
        if rank == workers.rank:
            mine[name] = Chunk.whole(tensors[name])
    return mine


def row_handed_over(folder: Path, step: int) -> dict[str, Any] | None:
    """Return what survivors would have logged of the step after which they have handed the state over; None if they have not said."""
    try:
        row: dict[str, Any] = json.loads(_row_file(folder, step).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return row


def _row_file(folder: Path, step: int) -> Path:
    return folder / f"row-{step}.json"


def handed_over(folder: Path | None, run: str) -> Progress | None:
    """Return how far the newest state is that survivors of the run have handed over whole; None if there is none."""
    for step in reversed(published_steps(folder) if folder is not None else []):
        assert folder is not None
        place = checkpoint_folder(folder, step)
        if not checkpoint_faults(place, step, run, is_summed=False):
            manifest = read_manifest(place)
            return Progress(step, counters=manifest.counters, decisions=manifest.decisions)
    return None


@contextmanager
def memory_folder() -> Iterator[Path | None]:
    """Make a folder in memory while a block runs; None where the system has none that can be written.

    Folders of owners that were killed are removed: the kernel has given their locks back.
    """
    if not MEMORY.is_dir():
        yield None
        return
    for left in MEMORY.glob(f"{PREFIX}*"):
        _remove_ownerless(left)
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=MEMORY))
        owner = (folder / OWNER).open("w")
    except OSError as error:
        print(
            f"ziggurat: note: {MEMORY} cannot be written ({error.strerror}): should a worker be lost, the run goes on from "
            "its newest checkpoint",
            file=sys.stderr,
        )
        yield None
        return
    try:
        with owner:
            fcntl.flock(owner, fcntl.LOCK_EX)  # shared with the workers, which end with this process
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_ownerless(folder: Path) -> None:
    try:
        with (folder / OWNER).open() as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    except OSError:  # it has an owner, or is being made, or belongs to another user
        return
