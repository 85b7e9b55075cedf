"""Writing one checkpoint: every worker's part, the manifest, and the rename that publishes it.

    each worker      its tensors ──> files, on the disk ──> size and SHA-256
                                                                  │ gathered
    first worker     .step-40.partial made                  manifest.json ──> rename to step-40

Whatever fails on whichever worker, all of them learn of it, and nothing has the name of a checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.runs.checkpoint.folders import checkpoint_folder, make_partial, partial_folder, publish, sync
from ziggurat.runs.checkpoint.manifest import MANIFEST, FileFacts, Manifest, file_facts
from ziggurat.runs.checkpoint.tensors import write_tensors
from ziggurat.strategies.layout import Chunk


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: Optimizer steps that are done.
        metric: The task's main metric after this step, where it was evaluated.
        counters: What the run has counted so far, such as skipped steps.
        decisions: What was measured for the run and fixes its bits, such as where its pipeline is cut.
    """

    step: int
    metric: float | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    decisions: Mapping[str, Any] = field(default_factory=dict)


def write_checkpoint(
    parent: Path,
    progress: Progress,
    run: str,
    tensors: Mapping[str, Chunk],
    workers: Workers,
    enter: Callable[[str], None] = lambda name: None,
    is_summed: bool = True,
) -> str | None:
    """Write a checkpoint; all workers call this.

    Args:
        parent: The run's ``checkpoints`` folder, one that all workers see.
        progress: How far the run is.
        run: Names the definition of the run.
        tensors: This worker's part of the state, on the CPU; no two workers have an element of one name.
        workers: All workers, by a group that nothing else uses meanwhile.
        enter: Called as each phase begins, with its name (`phases`).
        is_summed: Whether the manifest has the files' checksums: not of what never leaves memory, where half a gigabyte's would take a second.

    Returns:
        What went wrong, on every worker; None if the checkpoint is published.

    Communication:
        Three broadcasts and a gather of a few hundred bytes.
    """
    partial = partial_folder(parent, progress.step)
    fault = _first_does(workers, lambda: _make(parent, progress.step))
    if fault is None:
        fault = _write_parts(parent, progress, run, tensors, workers, enter, is_summed)
    if fault is not None and workers.is_first:  # give the room back
        shutil.rmtree(partial, ignore_errors=True)
    return fault


def _write_parts(
    parent: Path,
    progress: Progress,
    run: str,
    tensors: Mapping[str, Chunk],
    workers: Workers,
    enter: Callable[[str], None],
    is_summed: bool,
) -> str | None:
    partial = partial_folder(parent, progress.step)
    files: dict[str, FileFacts] = {}
    enter("checkpoint data")
    fault = _fault_of(lambda: files.update(_write_part(partial, tensors, workers.rank, is_summed)))
    gathered = workers.gather((fault, files))
    faults = [f"worker {rank}: {fault}" for rank, (fault, _) in enumerate(gathered) if fault is not None]
    if faults:
        return faults[0]
    every = {name: facts for _, files in gathered for name, facts in files.items()}
    manifest = Manifest(progress.step, run, every, progress.metric, progress.counters, progress.decisions)
    enter("checkpoint manifest")
    fault = _first_does(workers, lambda: write_manifest(partial, manifest))
    if fault is not None:
        return fault
    enter("checkpoint publishing")
    return _first_does(workers, lambda: publish(partial, checkpoint_folder(parent, progress.step)))


def _make(parent: Path, step: int) -> None:
    make_partial(parent, step)


def _write_part(
    partial: Path, tensors: Mapping[str, Chunk], rank: int, is_summed: bool
) -> dict[str, FileFacts]:
    files = write_tensors(partial, tensors, rank)
    for file in files:
        sync(file)
    return {file.name: file_facts(file, is_summed) for file in files}


def write_manifest(partial: Path, manifest: Manifest) -> None:
    """Write a manifest beside the files that it names, which must all be there.

    Raises:
        OSError: If it cannot be written, or a file is not there: the workers do not share the folder.
    """
    for name, facts in manifest.files.items():
        found = (partial / name).stat().st_size if (partial / name).is_file() else None
        if found != facts.bytes:
            raise OSError(
                f"{partial / name} has {found} bytes where the first worker looks, {facts.bytes} were written: "
                "every machine must see the run's folder"
            )
    path = partial / MANIFEST
    path.write_text(manifest.text(), encoding="utf-8")
    sync(path)


def _first_does(workers: Workers, action: Callable[[], object]) -> str | None:
    return workers.broadcast_object(_fault_of(action) if workers.is_first else None)


def _fault_of(action: Callable[[], object]) -> str | None:
    """Do something, and return what went wrong: a checkpoint that fails must not end the training."""
    try:
        action()
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}"
    except Exception as error:  # noqa: BLE001 - the libraries that write have errors of their own
        return f"{type(error).__name__}: {error}"
    return None
