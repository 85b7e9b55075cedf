"""From what the user asked to workers at work: completes the config, checks it, and starts the workers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ziggurat.commands.norm_batch import check_smallest_microbatch
from ziggurat.config import FREE_ON_RESUME, RunConfig, flatten, load_config, override, run_task
from ziggurat.data.dataset import Dataset
from ziggurat.data.samples import TrainingSamples
from ziggurat.errors import UserError
from ziggurat.inference.evaluate import evaluate_run
from ziggurat.inference.predict import predict_files
from ziggurat.models.build import GRAMMAR, build_model, task_of
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.launch import (
    Restart,
    WorkerSettings,
    launch,
    restart_count,
    world_from_environment,
)
from ziggurat.runs.checkpoint import published_steps
from ziggurat.runs.folder import CONFIG, Run, load_run, make_run_folder
from ziggurat.runs.pretrained import load_published, published_config
from ziggurat.strategies.plan import parse_plan
from ziggurat.strategies.resolve import resolve_batch, resolve_place
from ziggurat.tasks.opening import open_dataset, recognise_tasks
from ziggurat.tasks.registry import TASKS, find_task, model_task
from ziggurat.training.data import open_validation
from ziggurat.training.loop import train
from ziggurat.training.snapshot import memory_folder

T = TypeVar("T")

LAUNCH = "torchrun-id"  # file in the run's folder: the --rdzv-id that it was started with


def start_training(
    data: str | None,
    settings: dict[str, Any],
    out: str | None,
    *,
    resume: bool = False,
    config_file: str | None = None,
    defaults: RunConfig | None = None,
    family: str = "",
) -> dict[str, Any] | None:
    """Train as `ziggurat train` does.

    Args:
        data: The data set; None takes the config's.
        settings: From dotted names to values; they win over the config file.
        out: The run's folder; None takes the next ``runs/TASK-N``.
        resume: Go on from the newest checkpoint of `out`.
        config_file: A YAML file to start from.
        defaults: The config to start from without a file.
        family: The first part of the folder's name where `out` is None; empty takes the task.

    Returns:
        The fields of the command's JSON object; None on torchrun's workers but the first.

    Raises:
        UserError: Listing every fault.
    """
    world = world_from_environment()
    again = world is not None and _is_restart(out)
    if again and (Path(out or "") / CONFIG).is_file():  # the same command, but the run is there already
        resume, config_file = True, None
    if resume and config_file is not None:
        raise UserError(f"a run goes on with its own config: remove --config {config_file} or --resume")
    config = defaults or RunConfig()
    if config_file is not None:
        config = load_config(Path(config_file))
    if resume:
        config, settings = _resumed(out, settings)
    if data is not None:
        settings = settings | {"data.path": data}
    config = override(config, settings)
    if world is not None:
        config = _follow_world(config, world)
    config = _resolved(config, world, resume)
    family = family or config.task
    if world is not None:
        return _launch(_train_worker, (config, out, resume and not again, family, again), config)
    out, fault = _choose_folder(out, resume, family)
    if fault:
        raise UserError(fault)
    with memory_folder() as memory:
        arguments = (config, out, resume, family, False, memory)
        return _launch(_train_worker, arguments, config, _restart(config, out, family, memory))


def _is_restart(out: str | None) -> bool:
    """Whether torchrun has started this run before: it counts restarts, or the run's folder knows its ``--rdzv-id``.

    A machine that joins later counts from 0, and those that were there do not count its coming.
    """
    if restart_count() > 0 and out is None:
        raise UserError("torchrun has started a lost worker again, which needs the run's folder: give --out")
    known = Path(out or "") / LAUNCH
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    same = name != "none" and known.is_file() and known.read_text(encoding="utf-8") == name
    return restart_count() > 0 or (out is not None and same)


def _follow_world(config: RunConfig, world: int) -> RunConfig:
    """Return the config with as many workers along dp (or fsdp) as torchrun's world has; the microbatches stay."""
    if not config.plan or "TORCHELASTIC_RUN_ID" not in os.environ:
        return config
    plan = parse_plan(config.plan)
    if world % plan.num_of_one:
        return config  # refused with what else is wrong
    microbatches = config.train.microbatches or plan.num_microbatches
    follows = str(plan.spread_over(world // plan.num_of_one))
    return override(config, {"plan": follows, "train.microbatches": microbatches})


def _restart(config: RunConfig, out: str, family: str, memory: Path | None) -> Restart:
    """Return how training goes on when a worker is lost: from the newest state, with as many workers or fewer."""
    plan = parse_plan(config.plan)

    def arguments(num_workers: int) -> tuple[Any, ...]:
        smaller = plan.spread_over(num_workers // plan.num_of_one)
        return dataclasses.replace(config, plan=str(smaller)), out, False, family, True, memory

    def fewer(num_workers: int) -> int:
        return max(plan.num_of_one, num_workers - plan.num_of_one)

    return Restart(arguments, fewer, lambda: max(_steps_in(memory), default=None))


def _steps_in(folder: Path | None) -> list[int]:
    return published_steps(folder) if folder is not None else []


def _resumed(out: str | None, settings: dict[str, Any]) -> tuple[RunConfig, dict[str, Any]]:
    """Return the config of the run in `out`, and those settings that say only where it goes on."""
    if out is None or not (Path(out) / CONFIG).is_file():
        raise UserError(
            f"--resume needs --out with the folder of a run (which has a {CONFIG}): got {out}; a run that was ended before it "
            "began is started again without --resume"
        )
    config = load_config(Path(out) / CONFIG)
    changed = flatten(override(config, settings))
    faults = [
        f"a run goes on as it was defined: {name} was {value}, and cannot become {changed[name]}; remove it, "
        "or start another run"
        for name, value in flatten(config).items()
        if changed[name] != value and name not in FREE_ON_RESUME
    ]
    if faults:
        raise UserError(faults)
    return config, settings


def _resolved(config: RunConfig, world: int | None, resume: bool) -> RunConfig:
    """Complete the config, and check it together with the model's name and the data; all faults at once."""
    faults: list[str] = []

    def check(part: Callable[[], T]) -> T | None:
        try:
            return part()
        except UserError as error:
            faults.extend(fault for fault in error.faults if fault not in faults)
            return None

    config = check(lambda: _resolve_task(config)) or config
    placed = check(lambda: resolve_place(config, world))
    resolved = check(lambda: resolve_batch(placed or config, world))
    if config.task not in TASKS:  # a fault of its own; the data may have others
        check(lambda: _natural_task(config))
    else:
        model = check(lambda: build_model(config.model, num_classes=2))
        dataset = check(lambda: _open_training(config))
        if config.data.path:  # two splits, two lists of faults
            check(partial(open_validation, config, dataset.classes if dataset is not None else None))
        # nothing is computed with numbers that are out of their range
        if placed and resolved and model is not None and dataset is not None:
            kind = find_task(run_task(config)).targets
            num_samples = len(TrainingSamples(dataset, kind, config.data, config.seed))
            check(partial(check_smallest_microbatch, model, resolved, num_samples))
    weights = config.model.weights
    if weights not in ("none", "lite0") and not Path(weights).is_file() and not resume:
        faults.append(f"model.weights must be a file, lite0 or none: there is no file {weights}")
    if faults or resolved is None:
        raise UserError(faults)
    return resolved


def _resolve_task(config: RunConfig) -> RunConfig:
    """Complete the task, the model and what depends on them.

    Raises:
        UserError: If the model is for another task.
    """
    name, model = config.task, config.model.name
    if name == "auto":
        name = task_of(model) if model != "auto" else _natural_task(config)
    task = find_task(name)
    if model != "auto" and task_of(model) != model_task(task):
        raise UserError(
            f"model.name must be a model to {model_task(task)}: '{model}' is one to {task_of(model)}; {GRAMMAR}; "
            f"or give --task {task_of(model)}"
        )
    model = task.default_model if model == "auto" else model
    return override(config, {"task": name, "model.name": model, **task.natural_settings(config)})


def _natural_task(config: RunConfig) -> str:
    """Return what the annotations of the data set are for."""
    _check_path(config)
    tasks = recognise_tasks(config.data.path, config.data)
    if not tasks:
        raise UserError(f"no task is known for the annotations of {config.data.path}: give --task")
    return tasks[0]


def _check_path(config: RunConfig) -> None:
    if not config.data.path:
        raise UserError("no data set: give DATA (a folder, an annotation file, or digits) or data.path")


def _open_training(config: RunConfig) -> Dataset | None:
    _check_path(config)
    return open_dataset(config.data.path, "train", run_task(config), config.data, config.digits)


def start_evaluation(run: Path, data: str, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Evaluate a run on the validation split of a data set, as `ziggurat evaluate` does.

    Args:
        run: The folder of a run; or a file of weights, whose model is ``model.name`` in the settings.
        data: The data set.
        settings: From dotted names to values.

    Raises:
        UserError: If the run, the data, or the settings are not usable.
    """
    config = _of_run(run, settings | {"data.path": data})
    if open_dataset(data, "val", run_task(config), config.data, config.digits) is None:
        raise UserError(f"{data} has no validation split: name the annotation file itself")
    return _launch(_evaluate_worker, (run, config), config)


def start_prediction(
    run: Path, images: list[str], out: Path | None, settings: dict[str, Any]
) -> dict[str, Any] | None:
    """Run a trained model on images, as `ziggurat predict` does.

    Args:
        run: As for `start_evaluation`.
        images: Files, folders and globs.
        out: Where results and pictures go; None takes the run's ``predictions``.
        settings: From dotted names to values.

    Raises:
        UserError: If the run, the images, or the settings are not usable.
    """
    config = _of_run(run, settings)
    folder = run if run.is_dir() else run.parent
    return _launch(_predict_worker, (run, config, images, out or folder / "predictions"), config)


def _of_run(run: Path, settings: dict[str, Any]) -> RunConfig:
    """Return the config of a run, or of a file of weights, for evaluation or prediction on this machine."""
    if run.is_file():
        base = published_config(settings.get("model.name", "auto"), run)
    elif (run / CONFIG).is_file():
        base = load_config(run / CONFIG)
        if settings.get("model.name", base.model.name) != base.model.name:
            raise UserError(f"--model belongs to a file of weights: the run {run} is of {base.model.name}")
    else:
        raise UserError(f"{run} is not the folder of a run (it has no {CONFIG}), nor a file of weights")
    here: dict[str, Any] = {"plan": "", "device": "auto"}  # threads stay: they decide the last bits
    return resolve_place(override(base, here | settings), world_from_environment())


def _load(run: Path, config: RunConfig) -> Run:
    return load_published(run, config) if run.is_file() else load_run(run)


def _launch(
    function: Any, args: tuple[Any, ...], config: RunConfig, restart: Restart | None = None
) -> dict[str, Any] | None:
    num_workers = parse_plan(config.plan).num_workers
    settings = WorkerSettings(config.threads, config.device, config.launch)
    result: dict[str, Any] | None = launch(function, args, num_workers, settings, restart)
    return result


def _train_worker(
    workers: Workers,
    config: RunConfig,
    out: str | None,
    resume: bool,
    family: str,
    again: bool,
    memory: Path | None = None,
) -> dict[str, Any]:
    """Train on one worker: from the newest state, where a run goes on, also `again` after a worker was lost."""
    joined = workers.gather((config, again))
    machines = {(one.threads, one.device, one.dtype) for one, _ in joined}
    if len(machines) > 1:
        raise UserError(
            f"threads, device and dtype must be the same on every machine: got {sorted(machines)}; give --threads, "
            "--dtype and --set device=... to all of them"
        )
    config, again = joined[0][0], any(one for _, one in joined)
    # The first worker chooses: under torchrun the others may come when its folder is there already.
    folder, fault = workers.broadcast_object(
        _choose_folder(out, resume or again, family) if workers.is_first else ("", "")
    )
    if fault:
        raise UserError(fault)
    if workers.is_first and "TORCHELASTIC_RUN_ID" in os.environ:
        (Path(folder) / LAUNCH).write_text(os.environ["TORCHELASTIC_RUN_ID"], encoding="utf-8")
    if resume or again:  # a run that was killed before its first checkpoint goes on from its beginning
        states = _steps_in(Path(folder) / "checkpoints") + _steps_in(memory) if workers.is_first else []
        resume = workers.broadcast_object(bool(states))
    return train(workers, config, Path(folder), resume, memory)


def _choose_folder(out: str | None, resume: bool, family: str) -> tuple[str, str]:
    """Return the folder of a run, and what is wrong with it."""
    try:
        folder = Path(out) if out else make_run_folder(Path("runs"), family)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return "", f"cannot make the run's folder: {error}; choose another --out"
    fault = f"{folder} holds a run already: choose another --out, or go on with --resume"
    return str(folder), fault if not resume and (folder / CONFIG).exists() else ""


def _evaluate_worker(workers: Workers, run: Path, config: RunConfig) -> dict[str, Any]:
    return evaluate_run(_load(run, config), config, workers)


def _predict_worker(
    workers: Workers, path: Path, config: RunConfig, images: list[str], out: Path
) -> dict[str, Any]:
    run = _load(path, config)
    classes = run.classes or tuple(str(label) for label in range(run.model.num_classes))
    category_ids = run.category_ids or tuple(range(run.model.num_classes))
    return predict_files(run.model, None, classes, category_ids, images, config, workers, out)
