"""What names a trained model: a run, one of its checkpoints, or a file of weights.

runs/detect-1                        the weights at its end
runs/detect-1@best                   the checkpoint with the best metric, of those that were evaluated
runs/detect-1@last                   the newest checkpoint
runs/detect-1@step-400               the checkpoint of that step
runs/detect-1/checkpoints/step-400   the same, by its folder
runs/detect-1/weights.safetensors    the same as the run
weights.pth                          any other file: its model has to be named
"""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ziggurat.config import RunConfig, definition_sha256, earlier_definition, load_config
from ziggurat.errors import UserError, nearest
from ziggurat.runs.checkpoint import checkpoint_faults, checkpoint_folder, published_steps, read_manifest
from ziggurat.runs.checkpoint.manifest import MANIFEST
from ziggurat.runs.checkpoint.tensors import read_tensors, stored_tensors
from ziggurat.runs.folder import CLASSES, CONFIG, WEIGHTS, Run, build_run, load_run
from ziggurat.strategies.state import names_of
from ziggurat.tasks.registry import find_task

CHECKPOINTS = "checkpoints"
_WORDS = ("best", "last")


@dataclass(frozen=True)
class Reference:
    """A trained model, as the user names it.

    Attributes:
        text: As it was named.
        folder: Of the run; None of a file of weights by itself.
        step: Of the checkpoint; None for the weights at the end.
        file: The file of weights; None of a checkpoint.
    """

    text: str
    folder: Path | None
    step: int | None = None
    file: Path | None = None

    @property
    def name(self) -> str:
        """The run's own name for a checkpoint; empty for the weights at its end."""
        return "" if self.step is None else f"step-{self.step}"

    def config(self) -> RunConfig:
        """Return the config of the run."""
        assert self.folder is not None
        return load_config(self.folder / CONFIG)


def find_reference(given: str | os.PathLike[str]) -> Reference:
    """Return what is named, without reading weights.

    Raises:
        UserError: If there is no such run, checkpoint or file; says what there is.
    """
    text = os.fspath(given)
    path = Path(text)
    if path.is_dir():
        return _of_folder(text, path)
    if path.is_file():
        is_a_runs = path.name == WEIGHTS and all((path.parent / name).is_file() for name in (CONFIG, CLASSES))
        return Reference(text, path.parent if is_a_runs else None, file=path)
    base, at, word = text.rpartition("@")
    if at and (Path(base) / CONFIG).is_file():
        return Reference(text, Path(base), _step(Path(base), word))
    if at and Path(base).is_dir():
        raise UserError(f"{base} is not the folder of a run (it has no {CONFIG})")
    parent = Path(base if at else text).parent
    names = sorted(one.name for one in parent.iterdir()) if parent.is_dir() else []
    close = difflib.get_close_matches(Path(base if at else text).name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{parent / close[0]}'?" if close else ""
    raise UserError(
        f"there is no file {text}: it is not the folder of a run (it has no {CONFIG}), nor a file of weights{hint}"
    )


def _of_folder(text: str, path: Path) -> Reference:
    if (path / CONFIG).is_file():
        return Reference(text, path, file=path / WEIGHTS)
    run = path.absolute().parent.parent
    if (path / MANIFEST).is_file() and path.name.startswith("step-") and (run / CONFIG).is_file():
        return Reference(text, run, _step(run, path.name))
    if (path / "member-0" / CONFIG).is_file():
        raise UserError(f"{path} holds several runs: name one of them, such as {path / 'member-0'}")
    raise UserError(f"{path} is not the folder of a run (it has no {CONFIG}), nor a file of weights")


def _step(run: Path, word: str) -> int:
    """Return the step that ``best``, ``last`` or ``step-400`` means."""
    steps = published_steps(run / CHECKPOINTS)
    there = ", ".join(f"step-{step}" for step in steps) or "none"
    if word == "last" and steps:
        return steps[-1]
    if word == "best":
        measured = metrics_by_step(run, steps)
        if not measured:
            raise UserError(
                f"no checkpoint of {run} was evaluated, so that none is the best: there are {there}; train with "
                "train.evaluate_every, or name one"
            )
        return max(measured, key=lambda step: (measured[step], step))
    number = word.removeprefix("step-")
    if number.isdecimal() and number.isascii() and int(number) in steps:
        return int(number)
    hint = nearest(word, [*_WORDS, *(f"step-{step}" for step in steps)])
    raise UserError(f"there is no checkpoint {word} of the run {run}: there are {there}; {hint}")


def metrics_by_step(run: Path, steps: list[int]) -> dict[int, float]:
    """Return the main metric of each checkpoint that was evaluated: from its manifest, else from the run's log.

    The last checkpoint is written before its evaluation, which the log alone has.
    """
    found: dict[int, float] = {}
    name = find_task(load_config(run / CONFIG).task).main_metric
    for line in _lines(run / "metrics.jsonl"):
        step, metric = line.get("step"), line.get(name)
        if line.get("kind") == "val" and step in steps and isinstance(metric, float):
            found[step] = metric
    for step in steps:
        try:
            metric = read_manifest(checkpoint_folder(run / CHECKPOINTS, step)).metric
        except ValueError:
            continue
        if metric is not None:
            found[step] = metric
    return found


def _lines(file: Path) -> list[dict[str, Any]]:
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:  # one that a kill has cut
            continue
        rows.append(row)
    return [row for row in rows if isinstance(row, dict)]


def load_reference(reference: Reference) -> Run:
    """Build the model of a run and load the weights that are named.

    Raises:
        UserError: If the run is not finished and no checkpoint is named, or the checkpoint is damaged.
    """
    folder = reference.folder
    assert folder is not None
    if reference.step is None:
        if not (folder / WEIGHTS).is_file() and published_steps(folder / CHECKPOINTS):
            newest = published_steps(folder / CHECKPOINTS)[-1]
            raise UserError(
                f"the run {folder} has not come to its end, and has no {WEIGHTS}: go on with --resume, or name its newest "
                f"checkpoint, {folder}@step-{newest}"
            )
        return load_run(folder)
    run = build_run(folder)
    tensors = checkpoint_weights(reference)
    try:
        run.model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"{reference.text} does not hold the weights of {run.config.model.name}: {error}"
        ) from None
    return run


def checkpoint_weights(reference: Reference) -> dict[str, Tensor]:
    """Return the averaged weights and buffers of a checkpoint, by the model's names; the model's own where none are averaged.

    Raises:
        UserError: If the checkpoint is damaged; each fault is listed.
    """
    assert reference.folder is not None
    assert reference.step is not None
    folder = checkpoint_folder(reference.folder / CHECKPOINTS, reference.step)
    config = reference.config()
    faults = checkpoint_faults(folder, reference.step, definition_sha256(config), earlier_definition(config))
    if faults:
        raise UserError(f"the checkpoint {folder} failed its checks ({'; '.join(faults)}): name another")
    facts = stored_tensors(folder)
    kind = "average" if any(name.startswith("average.") for name in facts) else "model"
    wanted = {
        name: torch.empty(one.shape, dtype=one.dtype)
        for name, one in facts.items()
        if name.startswith(f"{kind}.")
    }
    read_tensors(folder, wanted)
    return names_of(wanted, kind)
