"""Taking real steps under a plan, to see whether they take as long as was forecast."""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ziggurat.config import RunConfig
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.generators import key_others
from ziggurat.parallel.runtime.heartbeat import phase
from ziggurat.parallel.runtime.launch import WorkerSettings, launch
from ziggurat.planning.work import Work, decoding, inference_images, sizes_of
from ziggurat.strategies.base import Setting
from ziggurat.strategies.costs.decisions import Decisions
from ziggurat.strategies.executor import place_for_inference
from ziggurat.strategies.mesh import Mesh, make_mesh
from ziggurat.strategies.mode import EvaluationMode
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.plan import parse_plan
from ziggurat.strategies.running import Microbatches
from ziggurat.strategies.setting import image_spec
from ziggurat.training.feed import autocast
from ziggurat.training.step import Step
from ziggurat.verification.step import Trial, accumulate_for, start_state

STEPS = 2  # after one that is not counted


class Taken(NamedTuple):
    """Steps that were taken.

    Attributes:
        seconds: Of a step: the median of all, of the slowest worker.
        processor: Seconds of the processor that all workers together take for a step: their own threads, and those that carry messages.
        others: Share of the machine's processors that others than these workers have taken meanwhile: where it is more than little,
            `seconds` are not the plan's.
    """

    seconds: float
    processor: float
    others: float


def measure_steps(
    build: Callable[[RunConfig], nn.Module],
    config: RunConfig,
    shape: Sequence[int],
    pieces: int,
    purpose: str,
    num_steps: int = STEPS,
    decisions: Decisions | None = None,
) -> Taken:
    """Take steps under a config's plan, and return what they have taken.

    Args:
        build: Makes the network; a module's own function, or a record.
        config: Of the run, with its plan.
        shape: Of the images of a step, or of a batch of a prediction.
        pieces: Microbatches of a step, or batches of a prediction that a worker is given.
        purpose: ``train`` or ``predict``.
        num_steps: That count; one comes before.
        decisions: Where stages begin and branches are placed; by default the workers decide.
    """
    settings = WorkerSettings(config.threads, config.device, config.launch)
    plan = parse_plan(config.plan)
    order = (build, config, tuple(shape), pieces, purpose, num_steps, decisions or Decisions())
    taken = launch(_measure, order, plan.num_workers, settings)
    assert taken is not None  # torchrun's workers do not plan
    return taken


def _measure(
    workers: Workers,
    build: Callable[[RunConfig], nn.Module],
    config: RunConfig,
    shape: tuple[int, ...],
    pieces: int,
    purpose: str,
    num_steps: int,
    decisions: Decisions,
) -> Taken:
    """Be a worker."""
    torch.manual_seed(config.seed)
    key_others()
    prepare = _training if purpose == "train" else _prediction
    times = []
    with warnings.catch_warnings(), make_mesh(workers, config.plan) as mesh:
        warnings.simplefilter("ignore")  # the network's own
        model = build(config)
        last = torch.channels_last if config.train.channels_last else torch.contiguous_format
        take = prepare(model.to(memory_format=last), mesh, config, shape, pieces, decisions)
        clock = _Clock()
        for number in range(num_steps + 1):
            phase("step under the plan")
            workers.barrier()
            if number == 1:
                clock = _Clock()
            begin = time.perf_counter()
            take()
            if workers.device.type == "cuda":
                torch.cuda.synchronize(workers.device)
            if number:
                times.append(time.perf_counter() - begin)
        passed, mine, all_of_machine = clock.read()
    slowest = torch.tensor([statistics.median(times)], dtype=torch.float64, device=workers.device)
    seconds = float(workers.to_host(workers.add_up(slowest, "max")))
    processor = torch.tensor([mine], dtype=torch.float64, device=workers.device)
    ours = float(workers.to_host(workers.add_up(processor)))
    others = max(0.0, all_of_machine - ours) / (passed * (os.cpu_count() or 1))
    return Taken(seconds, ours / num_steps, round(others, 4))


class _Clock:
    """Seconds that pass, that this process has the processor, and that all processes of the machine together have it."""

    def __init__(self) -> None:
        self.begin = self._now()

    def read(self) -> tuple[float, float, float]:
        """Return them since the beginning."""
        passed, mine, machine = (now - then for now, then in zip(self._now(), self.begin, strict=True))
        return passed, mine, machine

    @staticmethod
    def _now() -> tuple[float, float, float]:
        # proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal
        ticks = list(map(int, Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]))
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), time.process_time(), busy


def _setting(
    mesh: Mesh, config: RunConfig, shape: Sequence[int], count: int, decisions: Decisions
) -> Setting:
    compute = partial(autocast, mesh.workers.device, config)
    return Setting(image_spec(shape, config.train.channels_last, mesh), config, count, compute, decisions)


def _training(
    model: nn.Module, mesh: Mesh, config: RunConfig, shape: tuple[int, ...], pieces: int, decisions: Decisions
) -> Callable[[], None]:
    """Return what takes a step of training."""
    count, *rest = shape
    shapes = [(size, *rest) for size in sizes_of(count, pieces)]
    state = start_state(model.to(mesh.home), Trial(torch.empty(0), config.seed, config=config))
    parallel = Parallel(state, mesh, _setting(mesh, config, shapes[0], len(shapes), decisions))
    work = Work.of(state.model, config, mesh, shapes, parallel.microbatches_of(len(shapes)))
    accumulate_for(state, work.loss, config.seed)
    step = Step(parallel, work.loss, work.feed, config.train.clip_norm)

    def take() -> None:
        step(work.batches, len(shapes))
        state.complete()

    return take


def _prediction(
    model: nn.Module, mesh: Mesh, config: RunConfig, shape: tuple[int, ...], pieces: int, decisions: Decisions
) -> Callable[[], None]:
    """Return what computes batches."""
    setting = _setting(mesh, config, shape, 1, decisions)
    executor = place_for_inference(model.to(mesh.home), mesh, setting)
    finish = decoding(model, config, shape)

    def images(index: int) -> Tensor:
        return inference_images(model, config, mesh, shape)

    def seed(index: int) -> None:
        torch.manual_seed(config.seed)

    def take() -> None:
        with EvaluationMode(model), executor.context():
            executor.run(Microbatches(pieces, images, finish, setting.compute, seed))
            executor.end()

    return take
