"""Which prediction lies in a folder: whether it may begin there, and whether one that has not ended may go on."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ziggurat.config import RunConfig, flatten
from ziggurat.errors import UserError
from ziggurat.inference.asked import Asked, path_of
from ziggurat.inference.journal import FOLDER, Records, read_journal
from ziggurat.inference.result_files import RESULTS
from ziggurat.system.writing import files_of, write_text

REQUEST = "request.json"
# Of the settings, those that results depend on.
SECTIONS = ("task", "dtype", "threads", "model.", "data.", "decode.")
FREE = {"model.weights", "data.path", "data.val", "data.workers", "data.cache_bytes", "data.on_error"}
SHOWN = 5  # faults of a kind that are named


@dataclass(frozen=True)
class Begun:
    """What there is of a prediction as it begins, or goes on.

    Attributes:
        folder: Of its journal.
        attempt: Its number, from 1.
        records: Of the attempts before.
    """

    folder: Path
    attempt: int
    records: Records

    def numbers(self, kind: str) -> set[int]:
        """Return the numbers of the records of a kind."""
        return {number for one, number in self.records if one == kind}

    def spoiled(self) -> dict[int, str]:
        """Return why images cannot be decoded, by their numbers."""
        return {
            index: self.records["fault", index].read().decode() for index in sorted(self.numbers("fault"))
        }


def request_of(config: RunConfig, asked: Asked, weights: str, more: dict[str, Any]) -> dict[str, Any]:
    """Return what the results of a prediction depend on, in plain values.

    Args:
        config: Of the prediction.
        asked: The images.
        weights: Digest of the weights.
        more: What else there is.
    """
    settings = {
        name: value
        for name, value in flatten(config).items()
        if name.startswith(SECTIONS) and name not in FREE
    }
    inputs = [_input(asked, index) for index in range(len(asked.images))]
    settings = {**settings, **more, "version": importlib.metadata.version("ziggurat")}
    plain: dict[str, Any] = json.loads(
        json.dumps({"weights": weights, "settings": settings, "inputs": inputs})
    )
    return plain


def _input(asked: Asked, index: int) -> list[Any]:
    """Return the name of an image, its size and, where it is a file, its bytes and when it was changed."""
    record, path = asked.images.record(index), path_of(asked.images, index)
    facts = [record.name, *record.extent]
    try:
        about = os.stat(record.name if path is None else path)
    except OSError:  # of a data set that is no folder of files
        return facts
    return [*facts, about.st_size, about.st_mtime_ns]


def begin(out: Path, request: Callable[[], dict[str, Any]], resume: bool, overwrite: bool) -> Begun:
    """Begin a prediction in a folder, or go on with the one that has not ended there.

    Args:
        out: The folder, which exists.
        request: Makes what the prediction depends on.
        resume: Whether it goes on.
        overwrite: Whether what lies there is replaced.

    Raises:
        UserError: If results lie there, or a prediction that has not ended and is not resumed; or if it is resumed with other
            weights, settings or images.
    """
    folder = out / FOLDER
    asked = request()
    if folder.exists() and resume:
        records = read_journal(folder, check=True)
        attempts = [int(file.stem.partition("-")[0]) for file in folder.glob("*.jsonl")]
        faults = _differences(folder, asked)
        if faults:
            raise UserError(
                [
                    *faults,
                    f"a prediction goes on as it began: give the same again, or begin anew ({out}: --overwrite)",
                ]
            )
        return Begun(folder, max(attempts, default=0) + 1, records)
    if (out / RESULTS).exists() and not overwrite:
        what = "a prediction that has ended, and cannot go on" if resume else "predictions already"
        raise UserError(f"{out} holds {what}: choose another --out, or replace them (--overwrite)")
    if folder.exists() and not overwrite and read_journal(folder):
        raise UserError(
            f"{out} holds a prediction that has not ended: go on with it (--resume), or begin anew (--overwrite)"
        )
    with files_of(folder):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
    write_text(folder / REQUEST, json.dumps(asked))
    return Begun(folder, 1, {})


def _differences(folder: Path, asked: dict[str, Any]) -> list[str]:
    """Return what is asked for otherwise than it was, each with its name."""
    try:
        was: dict[str, Any] = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [f"{folder / REQUEST} cannot be read: it is not known what was asked for"]
    faults = [] if was["weights"] == asked["weights"] else ["the weights are not those that it began with"]
    settings = was["settings"].keys() | asked["settings"].keys()
    for name in sorted(settings):
        before, now = was["settings"].get(name), asked["settings"].get(name)
        if before != now:
            faults.append(f"{name} is {now}, and was {before}")
    if len(was["inputs"]) != len(asked["inputs"]):
        faults.append(f"there are {len(asked['inputs'])} images, and were {len(was['inputs'])}")
    pairs = zip(was["inputs"], asked["inputs"], strict=False)
    changed = [
        now[0] if now[0] == before[0] else f"{now[0]} (was {before[0]})"
        for before, now in pairs
        if before != now
    ]
    if changed:
        rest = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        faults.append(f"images are others, or have changed: {', '.join(changed[:SHOWN])}{rest}")
    return faults
