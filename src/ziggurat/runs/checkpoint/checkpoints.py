"""The checkpoints of a run: written while training goes on; the newest good one is found when it goes on later."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, NoReturn, Self

import torch
from torch import Tensor

from ziggurat.config import CheckpointConfig
from ziggurat.errors import CollectiveFailed, UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.heartbeat import beside_training, phase, waiting
from ziggurat.runs.checkpoint.folders import (
    checkpoint_folder,
    published_steps,
    remove_checkpoint,
    remove_leftovers,
    set_aside,
)
from ziggurat.runs.checkpoint.manifest import checkpoint_faults, read_manifest
from ziggurat.runs.checkpoint.retention import retained_steps
from ziggurat.runs.checkpoint.writing import Progress, write_checkpoint
from ziggurat.strategies.layout import Chunk


class _Found(NamedTuple):
    """What the first worker has found in the folder; no progress where no checkpoint is good."""

    progress: Progress | None
    metrics: dict[int, float | None]
    messages: list[str]


class Checkpoints:
    """Writes and finds the checkpoints of a run; all workers call the same methods in the same order.

    `save` copies this worker's part of the state to memory of its own and returns; a thread writes it. So training
    pauses for the copy, or longer if the checkpoint before has not been written yet.

    Args:
        folder: The run's ``checkpoints`` folder, one that all workers see.
        workers: All workers, by a group that nothing else uses.
        config: Which checkpoints stay.
        run: Names the definition of the run; a checkpoint of another one is not taken.
        earlier: Other names of the same definition, of checkpoints that earlier versions have written.

    Attributes:
        pauses: Seconds that training has paused for each checkpoint.
        fault: Why the last checkpoint could not be written, on every worker; None if it was.
    """

    def __init__(
        self, folder: Path, workers: Workers, config: CheckpointConfig, run: str, earlier: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.workers = workers
        self.config = config
        self.run, self.runs = run, (run, *earlier)
        self.pauses: list[float] = []
        self.fault: str | None = None
        self._metrics: dict[int, float | None] = {}  # of the checkpoints that are whole, by step
        self._found_faults: list[str] = []
        self._copies: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._mistake: Exception | None = None  # of the thread
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # another worker is lost, and the thread finds out as well; or the end is to come at once
        if not isinstance(error, CollectiveFailed | KeyboardInterrupt):
            self.wait()

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint that is known to be whole."""
        return max(self._metrics, default=None)

    def save(self, progress: Progress, state: Mapping[str, Chunk]) -> None:
        """Begin to write a checkpoint; one of the same step that is whole already stays as it is.

        Args:
            progress: How far the run is.
            state: What this worker writes, by the tensor's name; no two workers write an element of a name.

        Placement:
            Every worker keeps a copy of what it writes in the CPU's memory.

        Communication:
            In the thread, see `write_checkpoint`.
        """
        begin = time.perf_counter()
        self.wait()
        if progress.step in self._metrics:
            return
        copied = self._copy(state)
        pause = time.perf_counter() - begin
        self.pauses.append(pause)
        self._thread = threading.Thread(
            target=self._write_beside, args=(progress, copied, pause), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Return when the checkpoint that is being written is published, or has failed."""
        if self._thread is not None:
            with waiting():  # if a worker hangs in writing, it is the one whose thread does
                self._thread.join()
            self._thread = None
        if self._mistake is not None:
            mistake, self._mistake = self._mistake, None
            raise mistake

    def messages(self) -> list[str]:
        """Return what there is to say since the last call, on the first worker."""
        said = []
        while not self._messages.empty():
            said.append(self._messages.get())
        return said

    def find(self) -> Progress:
        """Return how far the newest good checkpoint is, on every worker; see `look`.

        Raises:
            UserError: If there is none; the message names each that failed, with its fault.
        """
        return self.look() or self.none_found()

    def none_found(self) -> NoReturn:
        """Say that no checkpoint is good, and why.

        Raises:
            UserError: Always.
        """
        if self._found_faults:
            none = f"no checkpoint of {self.folder} is usable: start another run"
            raise UserError([*self._found_faults, none])
        raise UserError(f"nothing to resume: {self.folder} holds no checkpoint; run without --resume")

    def look(self) -> Progress | None:
        """Look for the newest good checkpoint, and return how far it is, on every worker; None if there is none.

        Newer ones that fail their checks are set aside, and what was left half-written is removed.
        """
        found = self.workers.broadcast_object(self._look() if self.workers.is_first else None)
        assert found is not None
        for message in found.messages:
            self._say(message)
        self._found_faults = found.messages
        self._metrics = found.metrics
        return found.progress

    @property
    def known(self) -> dict[int, float | None]:
        """The metrics of the checkpoints that are known to be whole, by step: what `know` takes."""
        return dict(self._metrics)

    def know(self, known: Mapping[int, float | None]) -> None:
        """Take over what is known of the checkpoints of a run that has not ended since."""
        self._metrics = dict(known)

    def path(self, progress: Progress) -> Path:
        """Return the folder of a checkpoint."""
        return checkpoint_folder(self.folder, progress.step)

    def _copy(self, state: Mapping[str, Chunk]) -> dict[str, Chunk]:
        """Copy what this worker writes, into the memory of the last time where that fits."""
        copies = {}
        for name, chunk in state.items():
            value, place = chunk.tensor.detach(), self._copies.get(name)
            if place is None or place.shape != value.shape or place.dtype != value.dtype:
                place = torch.empty_like(value, device="cpu")
            copies[name] = place.copy_(value)
        self._copies = copies
        return {name: Chunk(copy, state[name].offsets) for name, copy in copies.items()}

    def _write_beside(self, progress: Progress, tensors: Mapping[str, Chunk], pause: float) -> None:
        try:
            self._write(progress, tensors, pause)
        except Exception as error:  # noqa: BLE001 - of this program; whoever waits for the checkpoint raises it
            self._mistake = error

    def _write(self, progress: Progress, tensors: Mapping[str, Chunk], pause: float) -> None:
        """Write a checkpoint and remove those that need not stay (in the thread)."""
        begin = time.perf_counter()
        with beside_training("checkpoint data"):
            try:
                fault = write_checkpoint(self.folder, progress, self.run, tensors, self.workers, phase)
            except CollectiveFailed as error:  # a worker is lost, as the training itself finds out
                self._say(f"the checkpoint of step {progress.step} was interrupted: {error}")
                return
        seconds = time.perf_counter() - begin
        self.fault = fault and f"the checkpoint of step {progress.step} could not be written: {fault}"
        if self.fault is not None:
            self._say(
                f"{self.fault}; training goes on, the "
                f"newest checkpoint is {self._newest_name()}: see to the room and the rights of {self.folder}"
            )
            return
        self._metrics[progress.step] = progress.metric
        self._say(
            f"checkpoint of step {progress.step}: training paused for {pause * 1e3:.1f} ms, written in {seconds:.2f} s"
        )
        for step in sorted(self._metrics.keys() - retained_steps(self._metrics, self.config)):
            del self._metrics[step]
            self._remove(step)

    def _newest_name(self) -> str:
        return "none" if self.newest is None else checkpoint_folder(self.folder, self.newest).name

    def _remove(self, step: int) -> None:
        if not self.workers.is_first:
            return
        try:
            remove_checkpoint(self.folder, step)
        except OSError as error:
            self._say(f"the old checkpoint of step {step} could not be removed: {error.strerror}")

    def _say(self, message: str) -> None:
        if self.workers.is_first:
            self._messages.put(message)

    def _look(self) -> _Found:
        """Look for the newest good checkpoint (the first worker)."""
        messages = []
        try:
            leftovers = remove_leftovers(self.folder)
            messages += [f"removed {name}, which was half-written" for name in leftovers]
        except OSError as error:
            messages.append(f"cannot remove what is half-written in {self.folder}: {error.strerror}")
        metrics: dict[int, float | None] = {}
        progress = None
        for step in reversed(published_steps(self.folder)):
            folder = checkpoint_folder(self.folder, step)
            faults = checkpoint_faults(folder, step, *self.runs) if progress is None else []
            if faults:
                messages.append(_set_aside(folder, faults))
            elif progress is None:
                manifest = read_manifest(folder)
                progress = Progress(step, manifest.metric, manifest.counters, manifest.decisions)
                metrics[step] = manifest.metric
            else:
                metrics[step] = _metric(folder)
        return _Found(progress, metrics, messages)


def _metric(folder: Path) -> float | None:
    """Return the metric of an older checkpoint, which is checked only when it is needed."""
    try:
        return read_manifest(folder).metric
    except ValueError:
        return None


def _set_aside(folder: Path, faults: list[str]) -> str:
    """Set a damaged checkpoint aside and say so."""
    reason = f"the checkpoint {folder} failed its checks ({'; '.join(faults)})"
    try:
        return f"{reason}: set aside as {set_aside(folder).name}"
    except OSError as error:
        return f"{reason}, and cannot be renamed: {error.strerror}"
