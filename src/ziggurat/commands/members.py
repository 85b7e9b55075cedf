"""`ziggurat train --members N`: one run after the other, each by itself, and a table of what they have come to."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ziggurat.commands.notes import say
from ziggurat.commands.resolving import resolve
from ziggurat.config import RunConfig, load_config, override, range_faults, run_task, save_config
from ziggurat.errors import UserError
from ziggurat.parallel.runtime.failures import WorkerFailed
from ziggurat.parallel.runtime.launch import world_from_environment
from ziggurat.runs.folder import CONFIG, make_run_folder, resume_command, with_places
from ziggurat.runs.lock import locked
from ziggurat.runs.members import MEMBERS, is_of_members, member_folder
from ziggurat.system.writing import write_text
from ziggurat.tasks.registry import find_task
from ziggurat.training.members import config_of_member

TABLE = "members.json"

# Trains one run, or lets it go on: called with settings, its folder, whether it goes on, and the config that it begins with.
TrainOne = Callable[[Mapping[str, Any], str, bool, RunConfig | None], dict[str, Any] | None]


def trains_members(config: RunConfig) -> bool:
    """Whether a config is of several runs, and not of one of them."""
    return config.members.count > 1 and config.members.number < 0


def train_members(
    train_one: TrainOne,
    config: RunConfig,
    out: str | None,
    given: Mapping[str, Any],
    from_file: Mapping[str, Any],
    family: str,
) -> dict[str, Any]:
    """Train all members in folders of their own; one whose workers have failed does not keep the others.

    Args:
        train_one: Trains a member.
        config: Of all members.
        out: The folder that holds theirs; None takes the next ``runs/TASK-N``.
        given: What the user has set.
        from_file: What a config file names.
        family: The first part of the folder's name where `out` is None; empty takes the task.

    Returns:
        The fields of the command's JSON object; see `_result`.

    Raises:
        UserError: Listing every fault; before anything is written, if it is of all members.
        WorkerFailed: At the end, naming the members whose workers have failed.
    """
    _check_world(config)
    faults = range_faults(config)
    if any(fault.startswith("members.") for fault in faults):  # before a member's own take their place
        raise UserError(faults)
    first = resolve(config_of_member(config, 0), None, False, given, from_file)
    common = override(
        first, {"members.member": "all", "members.seed": config.members.seed, "seed": config.seed}
    )
    folder = Path(out) if out is not None else make_run_folder(Path("runs"), family or run_task(common))
    with locked(folder):
        if (folder / CONFIG).exists() or is_of_members(folder):
            raise UserError(
                f"{folder} holds {'members' if is_of_members(folder) else 'a run'} already: choose another --out, or go on with --resume"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the run's folder: {error}; choose another --out") from None
        save_config(with_places(common), folder / MEMBERS)
        return _train_each(train_one, common, folder, {})


def resume_members(train_one: TrainOne, folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Go on with all members of a folder: one that has not begun begins.

    Args:
        train_one: Trains a member.
        folder: That holds theirs.
        given: What the user has set: where they go on, and how far.

    Raises:
        UserError: As `train_members`.
        WorkerFailed: As `train_members`.
    """
    common = load_config(folder / MEMBERS)
    _check_world(common)
    with locked(folder):
        return _train_each(train_one, common, folder, given)


def _check_world(config: RunConfig) -> None:
    if world_from_environment() is not None:
        raise UserError(
            f"torchrun's workers train one member: got members.count={config.members.count}; start each by itself, with "
            "members.member=0, 1 ..., and --out RUN/member-0 ..."
        )


def _train_each(
    train_one: TrainOne, common: RunConfig, folder: Path, given: Mapping[str, Any]
) -> dict[str, Any]:
    results, failed = [], dict[int, WorkerFailed]()
    for number in range(common.members.count):
        own = member_folder(folder, number)
        goes_on = (own / CONFIG).is_file()
        say(f"member {number} of {common.members.count}: {own}")
        begin = None if goes_on else config_of_member(common, number)
        try:
            result = train_one(given, str(own), goes_on, begin)
        except WorkerFailed as error:
            failed[number] = error
            say(f"member {number} has failed; `{resume_command(own)}` goes on with it alone")
            continue
        assert result is not None  # of the only process
        results.append(result)
    if failed:
        numbers = ", ".join(map(str, failed))
        raise WorkerFailed(
            f"{next(iter(failed.values()))}\nof {common.members.count} members these have failed: {numbers}; `{resume_command(folder)}` "
            "goes on with all of them"
        )
    result = _result(folder, common, results)
    write_text(folder / TABLE, json.dumps(result, indent=2) + "\n")
    return result


def _result(folder: Path, common: RunConfig, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the fields of the command's JSON object.

    Returns:
        ``run`` (the folder), ``task``, ``model``, ``data`` (``members.data``), ``members`` (the result of each), ``metrics`` (the mean of each
        metric that is a number), ``spread`` (its standard deviation over the members), ``main_metric`` (its name).
    """
    names = [
        name
        for name in results[0]["metrics"]
        if all(isinstance(one["metrics"].get(name), (int, float)) for one in results)
    ]
    values = {name: [float(one["metrics"][name]) for one in results] for name in names}
    return {
        "run": str(folder),
        "task": common.task,
        "model": common.model.name,
        "data": common.members.data,
        "members": list(results),
        "metrics": {name: statistics.fmean(of_all) for name, of_all in values.items()},
        "spread": {name: statistics.stdev(of_all) for name, of_all in values.items()},
        "main_metric": find_task(run_task(common)).main_metric,
    }
