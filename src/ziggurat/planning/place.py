"""What a plan is looked for with: recordings of the network's own steps; costs of kernels and links, of this machine or of described ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ziggurat.config import RunConfig, override
from ziggurat.planning.calibration import links_of_this_machine
from ziggurat.planning.costs import CostTable, Machine
from ziggurat.planning.devices import DeviceCosts
from ziggurat.planning.judging import Costs, Judge, Recorded
from ziggurat.planning.large import LargeJudge
from ziggurat.planning.measuring import Conditions
from ziggurat.planning.network import Links
from ziggurat.planning.overheads import Overheads, WithOverheads
from ziggurat.planning.program import Kernel
from ziggurat.planning.record import hollow_model, record_step, roughly
from ziggurat.planning.request import PlanRequest
from ziggurat.planning.search import Candidate
from ziggurat.planning.small_steps import ASSUMED, known_overheads, overheads_of_this_machine
from ziggurat.planning.spread import known_spread_costs, spread_costs_of_this_machine, spread_or_assumed
from ziggurat.planning.stepping import measure_steps
from ziggurat.strategies.costs.cache import MeasurementCache
from ziggurat.strategies.resolve import available_cores
from ziggurat.system.platform import processor_name

FILE = "kernels.json"
QUICK = Conditions(passes=2, enough_seconds=5.0)


def cache_of_user() -> MeasurementCache:
    """Return what was measured of this machine, in ``$XDG_CACHE_HOME/ziggurat``, or ``~/.cache/ziggurat``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(base) if base else Path.home() / ".cache") / "ziggurat"
    with suppress(OSError):  # writing says so
        folder.mkdir(parents=True, exist_ok=True)
    return MeasurementCache(folder / FILE)


def config_under(candidate: Candidate, config: RunConfig) -> RunConfig:
    """Return a run's config with a plan, and the settings of its axes."""
    return override(config, {"plan": str(candidate.plan), **dict(candidate.settings)})


@dataclass
class Recorder:
    """Records steps of one network.

    Attributes:
        request: Says of what.
        model: The network; its large weights have no numbers.
        costs: By these a network is cut into stages, and its branches are placed.
    """

    request: PlanRequest
    model: nn.Module
    costs: Costs

    def __call__(self, candidate: Candidate) -> Recorded:
        """Return what the workers do."""
        request = self.request
        config = config_under(candidate, request.config)
        seconds: Callable[[Kernel], float] = self.costs.seconds if candidate.plan.num_workers > 1 else roughly
        count = request.amount(candidate.plan).pieces
        return record_step(
            self.model, config, candidate.plan, request.recorded_shape, count, request.purpose, seconds=seconds,
            workers_per_machine=request.machines[1] if request.machines[0] > 1 else 0, shares_memory=request.shares_memory,
            packs=request.packs(candidate.plan),
        )  # fmt: skip

    def of_first(self, candidate: Candidate, count: int) -> Recorded:
        """Return what the workers of the first replica do in a step of so many microbatches."""
        request, plan = self.request, candidate.plan
        each = request.shape[0] // request.config.train.microbatches
        seconds: Callable[[Kernel], float] = self.costs.seconds if plan.num_workers > 1 else roughly
        return record_step(
            self.model, config_under(candidate, request.config), plan, (each * count, *request.shape[1:]), count, seconds=seconds,
            workers_per_machine=request.machines[1], shares_memory=request.shares_memory, only_first=True,
        )  # fmt: skip


class Prices:
    """What kernels cost on this machine: those of one worker's step are measured well, what other plans have besides in a few passes.

    Args:
        table: Of this machine.
    """

    def __init__(self, table: CostTable) -> None:
        self.table, self.conditions = table, Conditions()

    def known(self, kernel: Kernel) -> bool:
        """Whether a kernel was measured, or takes nothing."""
        return self.table.known(kernel)

    def measure(self, kernels: Iterable[Kernel]) -> None:
        """Measure kernels."""
        self.table.measure(kernels, self.conditions)
        self.conditions = QUICK

    def seconds(self, kernel: Kernel) -> float:
        """Return what a kernel takes."""
        return self.table.seconds(kernel)


@dataclass(frozen=True)
class Tools:
    """What a plan is looked for with.

    Attributes:
        judge: Simulates steps.
        measure: Takes steps.
        keep: Keeps what was measured meanwhile.
        beside: What is beside kernels, and whether it was measured, as fields of the command's JSON object; None on described devices.
    """

    judge: Judge | LargeJudge
    measure: Callable[[Candidate], float]
    keep: Callable[[], None]
    beside: dict[str, Any] | None = None


def tools_of(request: PlanRequest, begins: Callable[[str], None], learns: bool = False) -> Tools:
    """Return what the plan of a request is looked for with; links of this machine are measured, or found in the user's cache.

    Args:
        request: What is asked for.
        begins: Called as a part of it begins, with a word for it.
        learns: Whether what is beside kernels is measured where it is not known of this machine, in some seconds; else it is assumed.

    Raises:
        UserError: If the network cannot be built.
    """
    begins("the network is built")
    model = hollow_model(lambda: request.build(request.config), request.config)
    threads, cluster, cache = request.config.threads, request.cluster, cache_of_user()
    device = None if cluster is None else cluster.device
    cores = available_cores() / threads if device is None and request.config.device == "cpu" else None
    at_once = max(1, min(request.machines[1], available_cores() // threads))
    table: CostTable | None = None
    priced: Costs
    beside: dict[str, Any] | None = None
    before = 0.0  # of a step; a prediction has none
    overheads = Overheads()
    if device is None:
        table = CostTable.read(cache, Machine.here(threads, at_once))
        if learns and known_overheads(processor_name(), cache) is None:
            begins("small steps are taken, which tell what is beside kernels")
            _learn(table, cache)
        found = known_overheads(processor_name(), cache)
        overheads = found or ASSUMED
    links = Links({}) if cluster is None else cluster.links
    if cluster is None and request.num_workers > 1:
        begins("messages between workers of this machine are measured")
        count = max(2, min(request.num_workers, available_cores()))
        links = links_of_this_machine(count, processor_name(), cache, request.config.device)
    spread: Mapping[str, float] = {}
    if table is not None:
        before = overheads.step
        if "swap" in links.begins:
            overheads = overheads._replace(start=links.begins["swap"].alpha)
        spread_costs = known_spread_costs(processor_name(), cache)
        if learns and spread_costs is None and links.begins:
            begins("operations on spread tensors are measured")
            spread_costs = spread_costs_of_this_machine(
                overheads.call, links.begin_seconds, processor_name(), cache
            )
        spread = spread_or_assumed(spread_costs)
        beside = {
            "call_seconds": overheads.call, "message_seconds": overheads.start, "step_seconds": overheads.step,
            "measured": found is not None,
        }  # fmt: skip
        priced = WithOverheads(
            Prices(table), overheads, spread, links.begin_seconds if links.begins else None
        )
    elif device is not None:
        priced = WithOverheads(DeviceCosts(device), overheads)
    recorder = Recorder(request, model, priced)
    judge: Judge | LargeJudge
    if request.is_large:
        judge = LargeJudge(recorder.of_first, priced, links, request.pieces, request.places)
    else:
        judge = Judge(
            recorder, priced, links, request.pieces, lambda plan: request.amount(plan).times, cores, request.places,
            links.processor_seconds, before if request.purpose == "train" else 0.0, is_formula=device is not None,
        )  # fmt: skip

    def keep() -> None:
        if table is not None:
            table.write(cache)

    def measure(candidate: Candidate) -> float:
        config = config_under(candidate, request.config)
        amount = request.amount(candidate.plan)
        taken = measure_steps(request.build, config, request.recorded_shape, amount.pieces, request.purpose)
        return taken.seconds * amount.times

    return Tools(judge, measure, keep, beside)


def _learn(table: CostTable, cache: MeasurementCache) -> None:
    """Find what is beside kernels of workers of one thread, and keep it."""
    one_thread = (
        table if table.machine.threads == 1 else CostTable.read(cache, replace(table.machine, threads=1))
    )
    overheads_of_this_machine(one_thread, processor_name(), cache)
    one_thread.write(cache)
