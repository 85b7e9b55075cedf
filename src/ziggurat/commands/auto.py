"""``--plan auto``: a run takes the plan that `ziggurat plan` would find for its network, its batch and the workers that there are.

The plan is chosen before any worker starts, and stands in the run's config as if the user had given it: a run that goes on, or is
repeated, does not choose again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ziggurat.commands.notes import say_notes
from ziggurat.config import RunConfig, bands_of, matches
from ziggurat.config.values import shown
from ziggurat.data.crop_sizes import crop_sizes
from ziggurat.errors import UserError
from ziggurat.inference.tiles import BATCH_PIXELS
from ziggurat.planning.finding import find_plans
from ziggurat.planning.place import config_under, tools_of
from ziggurat.planning.request import (
    PlanRequest,
    Purpose,
    Subject,
    check_priced,
    memory_of_worker,
    read_plan_request,
)
from ziggurat.planning.search import Candidate
from ziggurat.runs.progress import Stages
from ziggurat.strategies.registry import STRATEGIES
from ziggurat.strategies.resolve import available_cores, local_devices

AUTO = ("auto", "auto:measured")
MEASURED = 3  # plans, with auto:measured
SECONDS = 60.0  # of a search
BATCHES = 64  # of tiles of a prediction, for each worker: many


def is_auto(plan: str) -> bool:
    """Whether a plan is to be chosen."""
    return plan.strip() in AUTO


def check_auto(plan: str, world: int | None) -> None:
    """Refuse to choose where each process of another launcher would.

    Raises:
        UserError: If torchrun has started this process.
    """
    if is_auto(plan) and world is not None:
        raise UserError(
            f"--plan {plan} is chosen before workers start: under torchrun run `ziggurat plan` first, and give the plan that it finds"
        )


def of_plans(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings that axes of a plan read: which of them have an effect is known when the plan is."""
    return {
        key: value
        for key, value in given.items()
        if any(matches(strategy.settings, key) for strategy in STRATEGIES.values())
    }


def choose_plan(
    how: str, config: RunConfig, given: Mapping[str, Any], purpose: Purpose, num_classes: int, threads: int
) -> RunConfig:
    """Return a config with the best plan for this machine, and say which it is, and why.

    Args:
        how: ``auto``, or ``auto:measured``: then the best three are measured.
        config: Resolved, but for its plan.
        given: Settings of the user, by dotted names: what they say of a plan stays.
        purpose: ``train`` or ``predict``.
        num_classes: Of the data.
        threads: Of a worker, as the user has said; 0 if nothing was said.

    Raises:
        UserError: If the network runs under no plan.
    """
    check_priced(config.device)
    workers = local_devices(config.device)
    config = dataclasses.replace(config, threads=threads or max(1, available_cores() // workers))
    if workers == 1:
        say_notes([f"--plan {how}: there is one worker here, so the plan is dp=1"])
        return dataclasses.replace(config, plan="dp=1")
    side = max(crop_sizes(config.data))
    together = max(1, BATCH_PIXELS[config.device] // side**2)
    images = config.train.batch_size if purpose == "train" else BATCHES * workers * together
    request = PlanRequest(
        config.model.name,
        Subject(config, config.model.name, num_classes),
        config,
        (images, bands_of(config.model), side, side),
        purpose,
        (1, workers),
        together,
        memory_of_worker(config.device, workers),
        fixed=of_plans(given),
        seconds=SECONDS,
        num_measured=MEASURED if how == AUTO[1] else 0,
        num_best=MEASURED if how == AUTO[1] else 1,
    )
    return config_under(_best_of(request, how), config)


def choose_for_verification(
    how: str, model: str, shape: str, settings: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the best plan of a network that is verified, and the settings with those of the plan's axes.

    Args:
        how: See `choose_plan`.
        model: Name of the network.
        shape: Of the input.
        settings: Of the user, by dotted names.

    Raises:
        UserError: If the input is wrong, or the network runs under no plan.
    """
    how = how.strip()
    if not is_auto(how):
        raise UserError(f"--plan must be {' or '.join(AUTO)}, or name axes such as sp=2: got {shown(how)}")
    measure = str(MEASURED) if how == AUTO[1] else None
    asked = read_plan_request(model, settings, shape=shape, measure=measure)
    request = dataclasses.replace(asked, num_best=max(1, asked.num_measured), seconds=SECONDS)
    best = _best_of(request, how)
    return str(best.plan), {**settings, **dict(best.settings)}


def _best_of(request: PlanRequest, how: str) -> Candidate:
    """Return the best plan, and say which it is, and why."""
    with Stages("plan") as stages:
        tools = tools_of(request, stages)
        try:
            found, result = find_plans(request, tools.judge, tools.measure, stages)
        except UserError as error:
            raise UserError(f"--plan {how} finds none: {fault}" for fault in error.faults) from error
        finally:
            tools.keep()
    if not found.best:
        raise UserError(
            f"no plan of {request.num_workers} workers runs {request.name}: {'; '.join(_reasons(result))}"
        )
    rows = list(zip(found.best, result["plans"], strict=True))
    if request.num_measured:
        rows = sorted(rows[: request.num_measured], key=lambda row: row[1]["measured_seconds"])
    best, row = rows[0]
    say_notes([_sentence(how, str(best.candidate), row, result)])
    return best.candidate


def _reasons(result: Mapping[str, Any]) -> list[str]:
    return [f"{row['plan']}: {row['reason']}" for row in result["refused"]]


def _sentence(how: str, name: str, row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    what = "step" if result["for"] == "train" else "prediction of so many tiles"
    took = f"a {what} takes {row['step_seconds']:.3g} s by forecast"
    if row["measured_seconds"] is not None:
        took += f", {row['measured_seconds']:.3g} s as measured"
    others = [other for other in result["plans"] if other is not row]
    second = f"; next {others[0]['plan']}, {others[0]['step_seconds']:.3g} s" if others else ""
    left = f"; {len(result['left'])} were not looked at" if result["left"] else ""
    return (
        f"--plan {how}: {name}, the best of {len(result['plans'])} that were simulated for {result['workers']} workers: {took}{second}{left} "
        f"({result['planning_seconds']:.0f} s)"
    )
