"""What every worker of a plan does in a step: recorded from a run of the plan's own code, hollow or in truth.

Real processes are forked, join each other, place the model, and take steps as `train` does (`ziggurat.training.step.Step`), or compute
batches as `predict` does. Their events and bytes are noted (`hollow`, `events`).

    record_step(model, config, "dp=2,sp=2", (8, 3, 512, 512), 2).programs      one for each worker, in order of rank

**Larger worlds.** Workers of other places of dp do the same. So of a world that is too large for a process each, the workers of the first
place alone are there (`parallel.collectives.absent`): what they do, to how many others they send, and what they add up is that of the large
world, by the plan's own code. How others are alike says `alike_fault`.

A second step is what is recorded: the first, of a microbatch of each place of dp, also makes what lives as long as the run (shared
memory, graphs, anchors).
"""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ziggurat.config import RunConfig
from ziggurat.errors import UserError
from ziggurat.models.vision import VisionModel
from ziggurat.parallel.collectives.absent import first_of
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.generators import key_others
from ziggurat.planning.events import Events
from ziggurat.planning.hollow import Hollow, Noting
from ziggurat.planning.packed_weights import NOTED
from ziggurat.planning.processes import on_workers
from ziggurat.planning.program import Form, Kernel, Program
from ziggurat.planning.work import Marked, Work, decoding, inference_images, sizes_of
from ziggurat.strategies.base import Setting
from ziggurat.strategies.costs.decisions import Decisions
from ziggurat.strategies.costs.measure import measure_calls
from ziggurat.strategies.executor import place_for_inference
from ziggurat.strategies.machines import tiers_among
from ziggurat.strategies.mesh import Mesh, make_mesh
from ziggurat.strategies.mode import EvaluationMode
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.plan import Plan
from ziggurat.strategies.running import Microbatches
from ziggurat.strategies.setting import image_spec
from ziggurat.strategies.state import TrainState
from ziggurat.torch_internals.sharding import seeing_storage
from ziggurat.training.feed import autocast
from ziggurat.training.step import Step
from ziggurat.verification.memory import Ledger
from ziggurat.verification.step import Trial, accumulate_for, start_state

Purpose = Literal["train", "predict"]
Seconds = Callable[[Kernel], float]


@dataclass(frozen=True)
class Recorded:
    """What came of a recording.

    Attributes:
        programs: Of every worker, in order of rank; none where the plan was refused.
        refused: Why the network, or its images, cannot be spread so; None where they can.
        decisions: Where stages begin, and what calls cost, as the run has decided by the seconds that it was given.
    """

    programs: tuple[Program, ...] = ()
    refused: str | None = None
    decisions: Decisions = field(default_factory=Decisions)


@dataclass(frozen=True)
class Order:
    """What is recorded.

    Attributes:
        config: Of the run: model, loss, optimizer, average, type; its plan is not used.
        plan: Where each piece is computed.
        shape: Of the images of a step, ``(B, C, *spatial)``; for ``predict`` of a batch of tiles, or of an image that workers share.
        num_microbatches: Of a step; for ``predict`` the batches that a worker is given, 0 for as many as keep all busy.
        purpose: Training, or prediction.
        decisions: What a run has decided before; the rest is decided by `seconds`.
        seconds: Of each kernel: by these a network is cut into stages, and its branches are placed.
        workers_per_machine: Neighbours that share a machine, through whose memory they exchange gradients; 0 for all. Which tiers
            samples are spread over says the config (``launch.hierarchy``).
        chosen: For ``predict``: candidates of a level and an image above the threshold. The numbers of large tensors are not
            computed, so this is a premise; ``decode.candidates`` is the most that there are after the limit.
        is_hollow: Whether computing is left out.
        shares_memory: Whether workers of a machine exchange through its memory.
        packs: For ``predict``: whether weights of convolutions are packed, as a prediction of more than one batch does on a processor.
    """

    config: RunConfig
    plan: Plan
    shape: tuple[int, ...]
    num_microbatches: int
    purpose: Purpose
    decisions: Decisions
    seconds: Seconds
    workers_per_machine: int
    chosen: int
    is_hollow: bool
    shares_memory: bool = True
    packs: bool = False


def roughly(kernel: Kernel) -> float:
    """Return seconds in proportion to the elements that a kernel is given, and to a convolution's products: for want of a table."""
    forms = [one for one in kernel.arguments if isinstance(one, Form)]
    seconds = 1e-9 * sum(torch.Size(form.shape).numel() for form in forms)
    if "convolution" in kernel.name and len(forms) > 1:
        weight = next((form for form in forms[1:] if len(form.shape) == len(forms[0].shape)), forms[1])
        rows = torch.Size(forms[0].shape).numel() // max(1, forms[0].shape[1])
        seconds += 2e-11 * rows * torch.Size(weight.shape).numel()
    return seconds


def record_step(
    model: nn.Module,
    config: RunConfig,
    plan: Plan,
    shape: Sequence[int],
    num_microbatches: int,
    purpose: Purpose = "train",
    decisions: Decisions | None = None,
    seconds: Seconds = roughly,
    workers_per_machine: int = 0,
    hollow: bool = True,
    shares_memory: bool = True,
    only_first: bool = False,
    packs: bool = False,
) -> Recorded:
    """Return what every worker of a plan does in a step, or those of the first replica.

    Args:
        model: With its weights, which need not have numbers (see `hollow_model`); not changed.
        config: As in `Order`, as are the others.
        plan: See `Order`.
        shape: See `Order`.
        num_microbatches: See `Order`.
        purpose: See `Order`.
        decisions: See `Order`.
        seconds: See `Order`.
        workers_per_machine: See `Order`.
        hollow: Whether computing is left out.
        shares_memory: See `Order`.
        only_first: Whether the workers that compute the first microbatches together are there alone; the others do as they do.
        packs: See `Order`.

    Raises:
        RuntimeError: If a worker fails otherwise than by refusing the plan.
        ValueError: If others than those that are there would do other things.
    """
    order = Order(
        config, plan, tuple(shape), num_microbatches, purpose, decisions or Decisions(), seconds, workers_per_machine,
        config.decode.candidates, hollow, shares_memory, packs and config.dtype == "bf16",
    )  # fmt: skip
    if only_first and (fault := alike_fault(plan, num_microbatches)) is not None:
        raise ValueError(fault)
    state = None
    if purpose == "train":
        with _mode(order, Events(), Ledger()):
            state = start_state(copy.deepcopy(model), Trial(torch.empty(0), config.seed, config=config))
    try:
        there = plan.num_of_one if only_first else plan.num_workers
        found = on_workers(_record, there, (model, state, order))
    except UserError as error:
        return Recorded(refused=str(error))
    return Recorded(tuple(program for program, _ in found), None, found[0][1])


def alike_fault(plan: Plan, num_microbatches: int) -> str | None:
    """Return why the replicas of a plan do not all do the same in a step; None if they do.

    Each has as many microbatches, which are one subtree of the canonical tree: a power of two.

    Example:
        >>> alike_fault(Plan(dp=6), 12), alike_fault(Plan(dp=6), 18)
        (None, 'the replicas of dp=6 have other parts of the tree over 18 microbatches: they do the same where each has 1, 2, 4, 8 ... of them')
    """
    each, rest = divmod(num_microbatches, plan.num_data)
    if not rest and each and not each & (each - 1):
        return None
    return (
        f"the replicas of {plan} have other parts of the tree over {num_microbatches} microbatches: they do the same where each has 1, 2, 4, "
        "8 ... of them"
    )


def hollow_model(build: Callable[[], nn.Module], config: RunConfig) -> nn.Module:
    """Return a network whose large weights were not drawn: all of it in a fraction of the time.

    Args:
        build: Makes it.
        config: Of the run: its memory format.
    """
    with Hollow(Events(), Ledger()):
        model = build()
        if isinstance(model, VisionModel) or config.train.channels_last:
            last = config.train.channels_last
            model = model.to(memory_format=torch.channels_last if last else torch.contiguous_format)
    return model


def _mode(order: Order, events: Events, ledger: Ledger) -> Noting:
    if not order.is_hollow:
        return Noting(events, ledger)
    return Hollow(events, ledger, order.chosen, resizes=order.plan.frees_storage)


def _record(
    workers: Workers, model: nn.Module, state: TrainState[nn.Module] | None, order: Order
) -> tuple[Program, Decisions]:
    """Be a worker, and return its program with what was decided."""
    events = Events(not order.is_hollow, order.workers_per_machine, order.seconds, order.shares_memory)
    ledger = Ledger()
    world = first_of(workers, order.plan.num_workers)
    world.observe(events)
    mode = _mode(order, events, ledger)
    with mode, seeing_storage(ledger.count), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network's own
        mesh = make_mesh(world, order.plan, hierarchy_of(order, workers.rank))
        if state is None:
            return _predict(model, mesh, order, events, ledger)
        return _train(state, mesh, order, events, mode)


def hierarchy_of(order: Order, rank: int) -> str:
    """Return how a worker meets those that take other microbatches, on the machines of which it is told."""
    plan, each = order.plan, order.workers_per_machine or order.plan.num_workers
    members = range(rank % plan.num_of_one, plan.num_workers, plan.num_of_one)
    tiers = tiers_among(
        plan.num_data, order.config.launch.hierarchy, lambda: [str(member // each) for member in members]
    )
    return "x".join(map(str, tiers))


def _setting(order: Order, mesh: Mesh, shape: Sequence[int], count: int, events: Events) -> Setting:
    compute = partial(autocast, mesh.workers.device, order.config)
    spec = image_spec(shape, order.config.train.channels_last, mesh)
    measure = partial(measure_calls, runs=1, now=lambda: events.now)
    return Setting(spec, order.config, count, compute, order.decisions, measure=measure)


class FiniteParallel(Parallel[nn.Module]):
    """A hollow run's state, whose step ends as one does whose numbers are finite: memory that nobody has written to may hold anything.

    Attributes:
        events: Where what a real step does not do is not noted.
    """

    events: Events

    def gather(self, *args: Any, **named: Any) -> Tensor:
        """Return what was gathered; 0 where it is not finite."""
        return self._finite(super().gather(*args, **named))

    def norm(self) -> Tensor:
        """Return the norm; 0 if it is not finite."""
        return self._finite(super().norm())

    def _finite(self, tensor: Tensor) -> Tensor:
        with self.events.pausing():
            found = np.nan_to_num(np.asarray(tensor.numpy()), nan=0.0, posinf=0.0, neginf=0.0)
            return torch.from_numpy(np.asarray(found).reshape(tuple(tensor.shape)))


def _train(
    state: TrainState[nn.Module], mesh: Mesh, order: Order, events: Events, mode: Noting
) -> tuple[Program, Decisions]:
    config, ledger = order.config, mode.ledger
    count, *rest = order.shape
    shapes = [(size, *rest) for size in sizes_of(count, order.num_microbatches)]
    model = state.model
    setting = _setting(order, mesh, shapes[0], len(shapes), events)
    parallel = FiniteParallel(state, mesh, setting) if order.is_hollow else Parallel(state, mesh, setting)
    if isinstance(parallel, FiniteParallel):
        parallel.events = events
    with torch.no_grad(), mode.in_truth():
        work = Work.of(model, config, mesh, shapes, parallel.microbatches_of(len(shapes)))
    marked = Marked(work, events, mode.in_truth)
    accumulate_for(state, work.loss, config.seed)
    step = Step(parallel, marked, marked, config.train.clip_norm)
    for tensor in state.tensors().values():
        ledger.count(tensor)
    first = parallel.microbatches_of(mesh.data.size)
    step(work.batches[: len(first)], mesh.data.size)
    state.complete()
    parallel.start(len(shapes))  # maps shared memory for as many roots
    gc.collect()
    ledger.peak = ledger.now
    with events.noting():
        result = step(work.batches, len(shapes))
    if not result.finite:
        raise RuntimeError(
            "a hollow step has come out with numbers that are not finite: its end was left out"
        )
    kinds = {"model": "weights", "optimizer": "moments", "average": "average", "loss": "moments"}
    held_bytes = dict.fromkeys(kinds.values(), 0)
    for name, tensor in state.tensors().items():
        held_bytes[kinds[name.partition(".")[0]]] += tensor.nbytes
    program = Program(mesh.workers.rank, tuple(events.noted), ledger.peak, held_bytes)
    parallel.close()
    mesh.close()
    return program, order.decisions


def _predict(
    model: nn.Module, mesh: Mesh, order: Order, events: Events, ledger: Ledger
) -> tuple[Program, Decisions]:
    config = order.config
    setting = _setting(order, mesh, order.shape, 1, events)
    executor = place_for_inference(model, mesh, setting, NOTED)
    count = order.num_microbatches or executor.at_once
    finish = decoding(model, config, order.shape)

    def images(index: int) -> Tensor:
        events.mark(f"forward {index}")
        return inference_images(model, config, mesh, order.shape)

    def seed(index: int) -> None:
        torch.manual_seed(config.seed)
        key_others()

    held = [tensor for tensor in (*model.parameters(), *model.buffers()) if not tensor.is_meta]
    for tensor in held:
        ledger.count(tensor)

    def run(batches: int) -> None:
        executor.run(Microbatches(batches, images, finish, setting.compute, seed))
        executor.end()

    with EvaluationMode(model), executor.context() if order.packs else executor.runner.inference():
        run(1 if order.packs else count)
        ledger.peak = ledger.now
        if order.packs:
            run(count)  # weights are packed, beside those that are rounded for this batch
        with events.noting():
            run(count)
        held_bytes = {"weights": sum(t.nbytes for t in held), "packed": executor.packed.num_bytes}
    program = Program(mesh.workers.rank, tuple(events.noted), ledger.peak, held_bytes)
    mesh.close()
    return program, order.decisions
