"""`ziggurat train`: completes the config, checks it, starts the workers, and starts them again when one is lost."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch.utils.data

from ziggurat.commands.auto import check_auto
from ziggurat.commands.launching import launch_plan
from ziggurat.commands.members import resume_members, train_members, trains_members
from ziggurat.commands.notes import say
from ziggurat.commands.pieces import Build, Pieces, name_data, name_model, name_task, pieces_for
from ziggurat.commands.resolving import resolve
from ziggurat.config import (
    EXTENDABLE,
    FREE_ON_RESUME,
    RunConfig,
    check_command,
    flatten,
    load_config,
    override,
    read_settings,
)
from ziggurat.data.dataset import Dataset
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.crew import OtherWorkers
from ziggurat.parallel.runtime.failures import Interrupted
from ziggurat.parallel.runtime.guard import leave_if_imported
from ziggurat.parallel.runtime.launch import Restart, restart_count, world_from_environment
from ziggurat.runs.checkpoint import published_steps
from ziggurat.runs.first_weights import first_weights_fault
from ziggurat.runs.folder import (
    CONFIG,
    SOUP,
    WEIGHTS,
    absolute,
    data_as_begun,
    lost_places,
    make_run_folder,
    resume_command,
)
from ziggurat.runs.lock import locked
from ziggurat.runs.members import is_of_members
from ziggurat.runs.reference import find_reference
from ziggurat.strategies.plan import Plan, parse_plan
from ziggurat.strategies.shares import EVEN, SETTING, shares_fault
from ziggurat.system.writing import write_text
from ziggurat.tasks.base import Task
from ziggurat.training.callbacks import Callback, Callbacks
from ziggurat.training.loop import train as train_on_worker
from ziggurat.training.members import config_of_member
from ziggurat.training.plan_change import Change, Kept, PlanAsked, at_hand
from ziggurat.training.plan_requests import asked_by_signal
from ziggurat.training.snapshot import memory_folder

LAUNCH = "torchrun-id"  # file in the run's folder: the --rdzv-id that it was started with


def train(
    data: str | os.PathLike[str] | Dataset | torch.utils.data.Dataset[Any] | None,
    settings: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    validation: Dataset | torch.utils.data.Dataset[Any] | None = None,
    model: str | Build | None = None,
    task: str | type[Task[Any, Any]] | None = None,
    on_step: Callback | None = None,
    on_evaluation: Callback | None = None,
    on_checkpoint: Callback | None = None,
    resume: bool = False,
    config_file: str | os.PathLike[str] | None = None,
    defaults: RunConfig | None = None,
    family: str = "",
) -> dict[str, Any] | None:
    """Train a model on a data set, as `ziggurat train` does.

    Args:
        data: The data set: a path, an object of your own (`ziggurat.data.formats.own`), or one of PyTorch's map-style data
            sets; None takes the config's.
        settings: From dotted names to values; they win over the config file.
        out: The run's folder; None takes the next ``runs/TASK-N``.
        validation: What is evaluated on, where `data` is an object.
        model: Its name, or a function from the number of classes to a `VisionModel`.
        task: Its name, or a class of your own: losses, targets and metrics are a task's.
        on_step: Called after each step by the first worker, with the line of ``metrics.jsonl``; see `ziggurat.training.callbacks`.
        on_evaluation: Called after each evaluation, with ``step`` and the metrics.
        on_checkpoint: Called when a checkpoint is whole, with ``step`` and ``folder``.
        resume: Go on from the newest checkpoint of `out`.
        config_file: A YAML file to start from.
        defaults: The config to start from without a file.
        family: The first part of the folder's name where `out` is None; empty takes the task.

    Returns:
        The fields of the command's JSON object (of several members those of `commands.members`); None on torchrun's workers but the
        first.

    Raises:
        UserError: Listing every fault.
    """
    leave_if_imported()  # before anything is held, opened or said
    settings = check_command(family or "train", {**(settings or {}), **name_model(model), **name_task(task)})
    data = name_data(data, validation)
    out = None if out is None else os.fspath(out)
    callbacks = Callbacks(on_step, on_evaluation, on_checkpoint)
    tasks = (task,) if isinstance(task, type) else ()

    def of_member(given: Mapping[str, Any], folder: str, goes_on: bool, begin: RunConfig | None) -> Any:
        place = data if goes_on else None
        return _train_run(place, given, folder, callbacks, tasks, goes_on, None, begin, family)

    if resume and out is not None and is_of_members(out) and config_file is None:
        return resume_members(of_member, Path(out), settings)
    if not resume:
        from_file = {} if config_file is None else read_settings(Path(config_file))
        # of a run by itself the settings are looked at when its folder is held
        if any(key.startswith("members.") for key in (*from_file, *settings)):
            start = (defaults or RunConfig()) if config_file is None else override(RunConfig(), from_file)
            config = override(start, _with_data(settings, data))
            if trains_members(config):
                config = _with_model_of_weights(config, settings)
                return train_members(of_member, config, out, settings, from_file, family)
    return _train_run(data, settings, out, callbacks, tasks, resume, config_file, defaults, family)


def _train_run(
    data: str | None,
    settings: Mapping[str, Any],
    out: str | None,
    callbacks: Callbacks,
    tasks: tuple[type[Task[Any, Any]], ...],
    resume: bool,
    config_file: str | os.PathLike[str] | None,
    defaults: RunConfig | None,
    family: str,
) -> dict[str, Any] | None:
    """Train one run; see `train`, whose arguments these are."""
    settings = dict(settings)
    world = world_from_environment()
    with ExitStack() as held:
        if (
            out is not None and world is None
        ):  # before anything else: of two runs that start together, one goes on
            held.enter_context(locked(Path(out)))
        again = world is not None and _is_restart(out)
        if again and (Path(out or "") / CONFIG).is_file():  # the same command, but the run is there already
            resume, config_file = True, None
        if resume and config_file is not None:
            raise UserError(f"a run goes on with its own config: remove --config {config_file} or --resume")
        config, from_file = defaults or RunConfig(), {}
        if config_file is not None:
            from_file = read_settings(Path(config_file))
            config = override(RunConfig(), from_file)
        if resume:
            config, settings = _resumed(out, settings)
            if data is None and "data.path" not in settings:
                config, notes = data_as_begun(config, Path(out or ""))
                say(*notes)
            if faults := lost_places(config, settings if data is None else {**settings, "data.path": data}):
                raise UserError(faults)
        settings = _with_data(settings, data)
        config = override(config, settings)
        if not resume and config.members.count > config.members.number >= 0 and not config.members.seed:
            config = config_of_member(config, config.members.number)
        check_auto(config.plan, world)
        if not resume:
            config = _with_model_of_weights(config, settings)
            config = override(config, {"data.images": absolute(config.data.images)})
        if world is not None:
            config = _follow_world(config, world)
        config = resolve(config, world, resume, settings, from_file)
        family = family or config.task
        pieces = pieces_for(config, tasks, callbacks)
        if world is not None:
            return launch_plan(
                train_worker, (config, out, resume and not again, family, again, None, pieces), config
            )
        folder, fault = _choose_folder(out, resume, family)
        if fault:
            raise UserError(fault)
        if out is None:
            held.enter_context(locked(Path(folder)))
        return _train_here(config, folder, resume, family, pieces)


def _with_data(settings: dict[str, Any], data: str | None) -> dict[str, Any]:
    """Return settings with the data set that is given beside them.

    Raises:
        UserError: If they name another one.
    """
    if data is None:
        return settings
    if settings.get("data.path", data) != data:
        raise UserError(
            f"the data set is given twice, {data} and data.path={settings['data.path']}: give one of them"
        )
    return settings | {"data.path": data}


def _train_here(
    config: RunConfig, folder: str, resume: bool, family: str, pieces: Pieces
) -> dict[str, Any] | None:
    """Train on workers that this process starts, in a folder that it holds."""
    with memory_folder() as memory, asked_by_signal(Path(folder)):
        arguments = (config, folder, resume, family, False, memory, pieces)
        try:
            return launch_plan(
                train_worker, arguments, config, _restart(config, folder, family, memory, pieces)
            )
        except (Interrupted, KeyboardInterrupt):
            raise Interrupted(f"interrupted; {_what_is_left(Path(folder))}") from None


def _what_is_left(folder: Path) -> str:
    """Say what there is of a run that was ended at once, and how it goes on."""
    if not (folder / CONFIG).is_file():
        return "the run had not begun: the same command starts it again"
    steps = published_steps(folder / "checkpoints")
    after = f"goes on after step {steps[-1]}" if steps else "starts it again, as there is no checkpoint yet"
    weights = f"; the weights are in {folder / WEIGHTS}" if (folder / WEIGHTS).is_file() else ""
    return f"`{resume_command(folder)}` {after}{weights}"


def _with_model_of_weights(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Return the config with the model, and the task, of the run whose weights it begins with, where no model is named."""
    weights = config.model.weights
    if (
        config.model.name != "auto"
        or first_weights_fault(weights) is not None
        or weights in ("none", "lite0")
    ):
        return config
    reference = find_reference(weights)
    if reference.folder is None:
        return config
    base = reference.config()
    task = base.task if config.task == "auto" else config.task
    say(f"note: the model is that of the weights {weights}: {base.model.name}")
    model = dataclasses.replace(base.model, weights=weights)
    config = dataclasses.replace(config, task=task, model=model)
    return override(config, {name: value for name, value in settings.items() if name.startswith("model.")})


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
    follows = plan.spread_over(world // plan.num_of_one)
    followed = {"plan": str(follows), "train.microbatches": microbatches}
    if follows != plan and shares_fault(config.pipeline.shares, follows.num_data, microbatches) is not None:
        say(f"note: {SETTING}={config.pipeline.shares} is for {plan}: under {follows} shares are even")
        followed["pipeline.shares"] = EVEN
    return override(config, followed)


def _restart(config: RunConfig, out: str, family: str, memory: Path | None, pieces: Pieces) -> Restart:
    """Return how training goes on when a worker is lost: from the newest state, with as many workers or fewer."""

    def plan() -> Plan:
        """Return the plan of the run, which may have changed while it went on."""
        is_there = (Path(out) / CONFIG).is_file()
        return parse_plan(load_config(Path(out) / CONFIG).plan if is_there else config.plan)

    def arguments(num_workers: int) -> tuple[Any, ...]:
        smaller = plan().spread_over(num_workers // plan().num_of_one)
        return dataclasses.replace(config, plan=str(smaller)), out, False, family, True, memory, pieces

    def fewer(num_workers: int) -> int:
        return max(plan().num_of_one, num_workers - plan().num_of_one)

    def survived() -> int | None:
        return max(_steps_in(memory), default=None)

    return Restart(arguments, fewer, survived, lambda: plan().num_workers, prepare_worker)


def _steps_in(folder: Path | None) -> list[int]:
    return published_steps(folder) if folder is not None else []


def _resumed(out: str | None, settings: dict[str, Any]) -> tuple[RunConfig, dict[str, Any]]:
    """Return the config of the run in `out`, and those settings that say only where it goes on, and how far."""
    if out is None or not (Path(out) / CONFIG).is_file():
        raise UserError(
            f"--resume needs --out with the folder of a run (which has a {CONFIG}): got {out}; a run that was ended before it "
            "began is started again without --resume"
        )
    if (Path(out) / SOUP).is_file():
        raise UserError(
            f"{out} is a soup, which no training has led to: start a run from its weights (--weights {out})"
        )
    config = load_config(Path(out) / CONFIG)
    changed = flatten(override(config, settings))
    faults = [
        f"a run goes on as it was defined: {name} was {value}, and cannot become {changed[name]}; remove it, "
        f"or start another run from its weights (--weights {out})"
        for name, value in flatten(config).items()
        if changed[name] != value and name not in FREE_ON_RESUME | EXTENDABLE
    ]
    if changed["train.epochs"] != config.train.epochs and changed["train.steps"]:
        faults.append(
            f"the length of the run {out} is given in steps ({changed['train.steps']}): --epochs has no effect; give --steps"
        )
    if faults:
        raise UserError(faults)
    return config, settings


def prepare_worker(
    config: RunConfig,
    out: str,
    resume: bool,
    family: str,
    again: bool,
    memory: Path | None,
    pieces: Pieces,
) -> tuple[Any, ...]:
    """Return the arguments of `train_worker` on a worker that comes, with what it has at hand while the others still take steps."""
    pieces.install()
    return config, out, resume, family, again, memory, pieces, None, at_hand(config)


def train_worker(
    workers: Workers,
    config: RunConfig,
    out: str | None,
    resume: bool,
    family: str,
    again: bool,
    memory: Path | None = None,
    pieces: Pieces | None = None,
    change: Change | None = None,
    kept: Kept | None = None,
) -> dict[str, Any]:
    """Train on one worker: from the newest state, where a run goes on, also `again` after a worker was lost, or their number changed."""
    kept = kept or (change.kept if change is not None else Kept())
    pieces = pieces or Pieces()
    pieces.install()
    joined = workers.gather((config, again, change))
    machines = {(one.threads, one.device, one.dtype) for one, *_ in joined}
    if len(machines) > 1:
        raise UserError(
            f"threads, device and dtype must be the same on every machine: got {sorted(machines)}; give --threads, "
            "--dtype and --set device=... to all of them"
        )
    config, again = joined[0][0], any(one for _, one, _ in joined)
    if (told := joined[0][2]) is not None:
        change = dataclasses.replace(told, kept=kept)
    with ExitStack() as held:

        def choose() -> str:
            """Return the run's folder, which this process holds if no launcher does."""
            folder, fault = _choose_folder(out, resume or again, family)
            if fault:
                raise UserError(fault)
            if world_from_environment() is not None:
                held.enter_context(locked(Path(folder)))
                write_text(Path(folder) / LAUNCH, os.environ.get("TORCHELASTIC_RUN_ID", "none"))
            return folder

        # The first worker chooses: under torchrun the others may come when its folder is there already.
        folder = workers.decide_on_first(choose)
        if resume or again:  # a run that was killed before its first checkpoint goes on from its beginning
            states = _steps_in(Path(folder) / "checkpoints") + _steps_in(memory) if workers.is_first else []
            resume = workers.broadcast_object(bool(states))
        return _train_under_plans(workers, config, Path(folder), resume, family, memory, pieces, change)


def _train_under_plans(
    workers: Workers,
    config: RunConfig,
    folder: Path,
    resume: bool,
    family: str,
    memory: Path | None,
    pieces: Pieces,
    change: Change | None,
) -> dict[str, Any]:
    """Train under a plan, and under those that are asked for while it goes on; one that the network refuses is left again.

    Raises:
        OtherWorkers: If the next plan is one of another number of workers, with the arguments of `train_worker`.
    """
    while True:
        try:
            return train_on_worker(workers, config, folder, resume, memory, pieces.callbacks, change)
        except PlanAsked as asked:
            change, config, resume = asked.change, asked.change.config, True
        except UserError as error:
            if change is None or config == change.before or load_config(folder / CONFIG).plan == config.plan:
                raise  # it has begun under its plan
            if workers.is_first:
                say(
                    f"the plan {config.plan} cannot be: {'; '.join(error.faults)}; the run goes on under {change.before.plan}"
                )
            config = change.before
            change.why = ""
        num_workers = parse_plan(config.plan).num_workers
        if num_workers != workers.size:
            change.leave_out(num_workers)
            raise OtherWorkers(
                num_workers, (config, str(folder), False, family, True, memory, pieces, change)
            )


def _choose_folder(out: str | None, resume: bool, family: str) -> tuple[str, str]:
    """Return the folder of a run, and what is wrong with it."""
    try:
        folder = Path(out) if out else make_run_folder(Path("runs"), family)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return "", f"cannot make the run's folder: {error}; choose another --out"
    fault = f"{folder} holds a run already: choose another --out, or go on with --resume"
    return str(folder), fault if not resume and (folder / CONFIG).exists() else ""
