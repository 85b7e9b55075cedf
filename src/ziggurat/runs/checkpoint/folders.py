"""The folders of checkpoints, each by its name.

.step-40.partial     is being written; removed at the next start
step-40              whole: it got its name by one rename, when all of it was on the disk
step-40.bad          has failed its checks; kept for the user to look at, never read
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def checkpoint_folder(parent: Path, step: int) -> Path:
    """Return where the checkpoint of a step is."""
    return parent / f"step-{step}"


def partial_folder(parent: Path, step: int) -> Path:
    """Return where the checkpoint of a step is while it is written."""
    return parent / f".step-{step}.partial"


def published_steps(parent: Path) -> list[int]:
    """Return the steps of all checkpoints, whole or damaged, in order."""
    names = [path.name.removeprefix("step-") for path in parent.glob("step-*")]
    return sorted(int(name) for name in names if name.isdecimal() and name.isascii())


def make_partial(parent: Path, step: int) -> Path:
    """Make an empty folder for a checkpoint that is to be written; the folder of the run is not made again once it is removed."""
    partial = partial_folder(parent, step)
    if partial.exists():
        shutil.rmtree(partial)
    parent.mkdir(exist_ok=True)
    partial.mkdir()
    return partial


def publish(partial: Path, final: Path) -> None:
    """Give a checkpoint its name, durably. Its files must be on the disk."""
    sync(partial)
    if final.exists():
        set_aside(final)
    partial.rename(final)
    sync(final.parent)


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint so that nothing takes it for a whole one, and return its new name."""
    number = 1
    while True:
        place = folder.with_name(f"{folder.name}.bad" + (f"-{number}" if number > 1 else ""))
        if not place.exists():
            break
        number += 1
    folder.rename(place)
    sync(place.parent)
    return place


def remove_checkpoint(parent: Path, step: int) -> None:
    """Remove a checkpoint: first its name, so that a half-removed one is a leftover and not a damaged one."""
    leftover = partial_folder(parent, step)
    if leftover.exists():
        shutil.rmtree(leftover)
    checkpoint_folder(parent, step).rename(leftover)
    shutil.rmtree(leftover)


def remove_leftovers(parent: Path) -> list[str]:
    """Remove what processes that were killed have left half-written or half-removed; return the names."""
    leftovers = sorted(parent.glob(".step-*.partial"))
    for leftover in leftovers:
        shutil.rmtree(leftover)
    return [leftover.name for leftover in leftovers]


def sync(path: Path) -> None:
    """Return when a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
