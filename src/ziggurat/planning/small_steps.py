"""Small steps that are taken in truth on this machine: what they take beside their kernels are the overheads of all.

Where maps are small the overheads weigh most. Each step is recorded, its kernels are priced, and the same step is taken some times by
as many workers as its plan has.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
import warnings
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from ziggurat.config import RunConfig
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.generators import key_others
from ziggurat.parallel.runtime.allocator import keep_freed_memory
from ziggurat.planning.overheads import Costs, Overheads, Sample, fit_overheads, sample_of
from ziggurat.planning.processes import on_workers
from ziggurat.planning.program import Kernel, Program, is_spread_operation
from ziggurat.planning.record import hollow_model, record_step
from ziggurat.planning.work import Work, sizes_of
from ziggurat.strategies.base import Setting
from ziggurat.strategies.costs.cache import MeasurementCache
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.plan import parse_plan
from ziggurat.strategies.setting import image_spec
from ziggurat.training.feed import autocast
from ziggurat.training.step import Step
from ziggurat.verification.networks import build_network
from ziggurat.verification.step import Trial, accumulate_for, start_state

# Where nothing was found yet: about what was seen on two cores of a Xeon (Sapphire Rapids) that others used, too.
ASSUMED = Overheads(call=6e-6, start=1.5e-4)
SERIES, LONG = 20, 100  # of calls one after the other, and how many there are of each kind
REPEATS, BEFORE = 5, 2  # steps that count, and those before that do not


class SmallStep(NamedTuple):
    """A step that is taken.

    Attributes:
        network: As ``ziggurat verify`` takes it.
        shape: Of the images.
        plan: Of its workers.
    """

    network: str
    shape: tuple[int, ...]
    plan: str


SMALL_STEPS = (
    SmallStep("timm:resnet18", (1, 3, 64, 64), "dp=1"),
    SmallStep("fcos-resnet18-fpn", (1, 3, 64, 64), "dp=1"),
)
"""On one worker: what messages and operations on spread tensors take is measured by itself."""


def overheads_of_this_machine(
    costs: Costs, machine: str, cache: MeasurementCache, steps: Sequence[SmallStep] = SMALL_STEPS
) -> Overheads:
    """Return what steps take beside their kernels: from the cache, or found from some that are taken now.

    Args:
        costs: Of kernels of this machine, for one thread.
        machine: Names the machine.
        cache: Where it is kept.
        steps: Are taken.
    """
    found = known_overheads(machine, cache)
    if found is None:
        found = fit_overheads([take_small_step(step, costs) for step in steps], seconds_of_a_call())
        cache.write(_key(machine), list(found))
    return found


def known_overheads(machine: str, cache: MeasurementCache) -> Overheads | None:
    """Return what was found for a machine; None if nothing was. Nothing is measured.

    Args:
        machine: Names it.
        cache: Where it may be.
    """
    found = cache.read(_key(machine))
    if found is None:
        return None
    try:
        return Overheads(*(float(value) for value in found))
    except (TypeError, ValueError):
        cache.discard(_key(machine))
        return None


def _key(machine: str) -> str:
    return f"overheads of calls on one worker of {machine}, torch {torch.__version__}"


def seconds_of_a_call() -> float:
    """Return the processor's time that a call of an operator takes at least: of calls one after the other, forward and backward, on one number."""
    x, one = torch.zeros(1, requires_grad=True), torch.ones(1)
    times = []
    for _ in range(SERIES):
        begin = time.thread_time()
        y = x
        for _ in range(LONG):
            y = y.view(1).neg()
        y.backward(one)  # a view and a negative for each of them
        times.append(time.thread_time() - begin)
    return min(times) / (4 * LONG)


def take_small_step(step: SmallStep, costs: Costs, repeats: int = REPEATS) -> Sample:
    """Return what a step takes, and what its kernels take of it.

    Args:
        step: Which one.
        costs: Of kernels; those that are not known are measured.
        repeats: How often it is taken.
    """
    config = RunConfig()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, name=step.network))
    plan = parse_plan(step.plan)
    model = hollow_model(partial(build_network, step.network, config.model), config)
    recorded = record_step(model, config, plan, step.shape, 1)
    if recorded.refused is not None:
        raise ValueError(f"{step.network} under {step.plan} is no step to learn from: {recorded.refused}")
    program: Program = recorded.programs[0]
    costs.measure(
        event for event in program.events if isinstance(event, Kernel) and not is_spread_operation(event)
    )
    seconds = on_workers(_take, plan.num_workers, (step, config, repeats))
    return sample_of(program, costs, seconds[0])


def _take(workers: Workers, step: SmallStep, config: RunConfig, repeats: int) -> float:
    """Be a worker; return the processor's time of a step, without waiting for others."""
    keep_freed_memory()
    torch.manual_seed(config.seed)
    key_others()
    times = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network's own
        mesh = make_mesh(workers, parse_plan(step.plan))
        last = torch.channels_last if config.train.channels_last else torch.contiguous_format
        model: nn.Module = build_network(step.network, config.model).to(memory_format=last)
        shapes = [(size, *step.shape[1:]) for size in sizes_of(step.shape[0], 1)]
        state = start_state(model, Trial(torch.empty(0), config.seed, config=config))
        compute = partial(autocast, workers.device, config)
        setting = Setting(image_spec(shapes[0], config.train.channels_last, mesh), config, 1, compute)
        parallel = Parallel(state, mesh, setting)
        work = Work.of(state.model, config, mesh, shapes, parallel.microbatches_of(1))
        accumulate_for(state, work.loss, config.seed)
        take = Step(parallel, work.loss, work.feed, config.train.clip_norm)
        for number in range(BEFORE + repeats):
            workers.barrier()
            begin = time.thread_time()
            take(work.batches, 1)
            state.complete()
            if number >= BEFORE:
                times.append(time.thread_time() - begin)
        parallel.close()
        mesh.close()
    return statistics.median(times)
