"""`ziggurat evaluate`: measures a run on a data set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ziggurat.commands.launching import launch_plan
from ziggurat.commands.notes import say_notes
from ziggurat.commands.runs import Members, members_of
from ziggurat.config import run_task
from ziggurat.data.dataset import notes_of
from ziggurat.data.formats.table import Split
from ziggurat.data.regions import RegionDataset
from ziggurat.errors import UserError
from ziggurat.exports.engines import EngineName
from ziggurat.inference.evaluate import evaluate_run
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.runs.members import RunNames
from ziggurat.runs.progress import Meter
from ziggurat.tasks.opening import open_dataset


def evaluate(
    run: RunNames,
    data: str | os.PathLike[str],
    settings: Mapping[str, Any] | None = None,
    *,
    split: Split = "val",
    engine: EngineName | None = None,
) -> dict[str, Any] | None:
    """Evaluate a run, or the average of several, on a split of a data set, as `ziggurat evaluate` does.

    Args:
        run: A run, a checkpoint of it (``runs/x@best``), or a file of weights, whose model is ``model.name`` in the settings; or
            several (`ziggurat.runs.members`).
        data: The data set.
        settings: From dotted names to values.
        split: ``val``, ``test`` or ``train``; an annotation file serves as each.
        engine: What computes; as for `ziggurat.predict`.

    Raises:
        UserError: If the run, the data, or the settings are not usable.
    """
    members = members_of(run, dict(settings or {}) | {"data.path": os.fspath(data)}, "evaluate", engine)
    config = members.config
    dataset = open_dataset(config.data.path, split, run_task(config), config.data, config.digits)
    if dataset is None:
        raise UserError(
            f"{data} has no validation split: give --split train or --split test, or name the annotation file itself"
        )
    said = notes_of(dataset)
    say_notes(said)
    if isinstance(dataset, RegionDataset):
        say_notes(
            [
                f"measured are the {split} blocks; --set data.split=given measures all pixels, whatever was trained on"
            ]
        )
    result = launch_plan(_evaluate_worker, (members, split), config)
    if result is not None:
        result["members"] = list(members.names)
        say_notes(note for note in result["notes"] if note not in said)
    return result


def _evaluate_worker(workers: Workers, members: Members, split: Split) -> dict[str, Any]:
    run, *others = members.load()
    with Meter("evaluation", "tiles", workers.is_first) as meter:
        return evaluate_run(run, members.config, workers, split, meter, others)
