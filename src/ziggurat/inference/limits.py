"""What limits have cut off from predictions: counted, and said once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ziggurat.data.detections import PICTURE_SCORE
from ziggurat.tasks.base import CutOff, Task


def cut_off(task: Task[Any, Any], found: Mapping[int, Any]) -> dict[int, CutOff]:
    """Return what was cut off from predictions, by the number of the image, of those where it is something."""
    cut = {index: task.cut_off(prediction) for index, prediction in found.items()}
    return {index: one for index, one in cut.items() if one.number}


def joined(parts: Iterable[Mapping[int, CutOff]]) -> dict[int, CutOff]:
    """Return what was cut off on all workers, in the order of images."""
    every = {index: one for part in parts for index, one in part.items()}
    return {index: every[index] for index in sorted(every)}


def truncation(cut: Mapping[int, CutOff]) -> int:
    """Return how much was cut off."""
    return sum(one.number for one in cut.values())


def truncation_notes(
    task: Task[Any, Any], cut: Mapping[int, CutOff], name_of: Callable[[int], str]
) -> tuple[str, ...]:
    """Say what was cut off, if anything was, and how to raise the limit, where it is worth it."""
    if not cut:
        return ()
    worst = max(cut, key=lambda index: cut[index].number)
    limit = cut[worst].limit or task.limit
    best = max(one.best for one in cut.values())
    images = f"{len(cut)} image{'s' if len(cut) > 1 else ''}"
    if best < PICTURE_SCORE:
        return (f"{limit} has cut off {truncation(cut)} detections in {images}, of scores up to {best:.2f}",)
    more = 10_000 if limit == "decode.candidates" else 1000
    return (
        f"{limit} has cut off {truncation(cut)} detections in {images}, {cut[worst].number} of them in {name_of(worst)}, the "
        f"best with a score of {best:.2f}: raise it, such as --set {limit}={more}",
    )
