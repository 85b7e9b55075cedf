"""`ziggurat report`: makes the report of a run again, or one on other data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ziggurat.commands.launching import launch_plan
from ziggurat.commands.notes import say, say_notes
from ziggurat.commands.runs import config_of, load
from ziggurat.config import RunConfig, run_task
from ziggurat.data.dataset import notes_of
from ziggurat.data.formats.table import Split
from ziggurat.errors import UserError
from ziggurat.inference.evaluate import Evaluation, evaluate
from ziggurat.inference.predictor import Predictor
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.report import write_report
from ziggurat.runs.folder import data_as_begun
from ziggurat.runs.progress import Meter
from ziggurat.runs.reference import find_reference
from ziggurat.strategies.mesh import make_mesh
from ziggurat.tasks.opening import open_dataset
from ziggurat.tasks.registry import make_task
from ziggurat.training.data import open_validation


def report(
    run: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    split: Split = "val",
) -> dict[str, Any] | None:
    """Make the report of a run again, as `ziggurat report` does.

    Args:
        run: A run, or a checkpoint of it (``runs/x@best``).
        data: What it is measured on; None takes what the run was evaluated on.
        out: Where the report goes; None takes the run's ``report``, of a checkpoint ``report-step-400``.
        settings: From dotted names to values.
        split: Of `data`.

    Returns:
        The fields of the command's JSON object: ``report`` (the folder), ``files``, ``metrics``, ``images``.

    Raises:
        UserError: If the run, the data or the settings are not usable.
    """
    reference = find_reference(run)
    if reference.folder is None:
        raise UserError(f"a report is of a run, whose steps it shows: {run} is a file of weights by itself")
    config = config_of(run, settings or {}, "report")
    if data is None:
        config, notes = data_as_begun(config, reference.folder)
        say(*notes)
    else:
        config = replace(config, data=replace(config.data, path=os.fspath(data), val=""))
    own = reference.folder / "-".join(filter(None, ("report", reference.name)))
    target = Path(out) if out is not None else own
    arguments = (run, config, reference.folder, target, None if data is None else split)
    result = launch_plan(_report_worker, arguments, config)
    if result is not None:
        say_notes(result["notes"])
    return result


def _report_worker(
    workers: Workers,
    run: str | os.PathLike[str],
    config: RunConfig,
    folder: Path,
    out: Path,
    split: Split | None,
) -> dict[str, Any]:
    loaded = load(run, config)
    classes = loaded.classes or None
    if split is None:
        dataset = open_validation(config, classes)
    else:
        kind = run_task(config)
        dataset = open_dataset(config.data.path, split, kind, config.data, config.digits, classes)
    evaluation = Evaluation({}, None)
    if dataset is not None:
        meter = Meter("evaluation", "tiles", workers.is_first)
        with make_mesh(workers, config.plan) as mesh:
            predictor = Predictor.of_run(loaded._replace(config=config), mesh)
            evaluation = evaluate(predictor, dataset, meter, loaded.frequency)
    measured = evaluation.dataset or dataset
    files: dict[str, str] = {}
    if workers.is_first:  # it has the whole network, whatever the plan has left of the first one
        model = load(run, config).model.to(workers.device)
        task = make_task(model, config)
        files = write_report(
            folder, evaluation, model, task, measured, config, workers.device, None, Console(stderr=True), out
        )
    return {
        "report": str(out),
        "files": files,
        "metrics": evaluation.metrics,
        "images": 0 if measured is None else len(measured),
        "notes": [*notes_of(dataset), *evaluation.notes],
    }
