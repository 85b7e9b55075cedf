"""Training: the loop that turns a config and a data set into weights, the same on any number of workers.

Read `train` from top to bottom; `docs/step.md` explains what one step means.
"""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ziggurat.config import RunConfig, definition_sha256, run_task
from ziggurat.inference.evaluate import MAIN_METRIC, Evaluation, evaluate_model
from ziggurat.models.build import build_model
from ziggurat.models.vision import VisionModel, place_model
from ziggurat.models.weights import load_weights
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.heartbeat import phase
from ziggurat.parallel.runtime.preemption import Preemption
from ziggurat.report import write_report
from ziggurat.runs.checkpoint import Checkpoints
from ziggurat.runs.folder import weights_sha256
from ziggurat.runs.log import RunLog
from ziggurat.strategies.joining import join_training
from ziggurat.strategies.mesh import Mesh, make_mesh
from ziggurat.tasks.base import Task
from ziggurat.tasks.registry import make_task
from ziggurat.training.data import TrainingData
from ziggurat.training.nonfinite import nonfinite_faults
from ziggurat.training.optimization import WeightAverage, learning_rate, make_optimizer, set_learning_rate
from ziggurat.training.session import Outcome
from ziggurat.training.snapshot import Handover
from ziggurat.training.step import Passes, autocast, seed_everything


def train(
    workers: Workers, config: RunConfig, folder: Path, resume: bool = False, memory: Path | None = None
) -> dict[str, Any]:
    """Train a model, evaluate it, and leave weights and metrics in the run's folder.

    Args:
        workers: All workers.
        config: The resolved configuration.
        folder: The run's folder.
        resume: Go on from the newest checkpoint of the folder.
        memory: Where survivors of a lost worker hand over their state (`handover`), which may be newer.

    Returns:
        The fields of the command's JSON object.

    Raises:
        UserError: If the data, the weights or the numbers that come out are not usable.
        Preempted: By SIGTERM or SIGUSR1 to any worker, between two steps, with a checkpoint.
    """
    mesh = make_mesh(workers, config.plan)
    data = TrainingData(config, mesh)
    model, weights_report = _build(mesh.home, config, len(data.classes), resume)
    task = make_task(model, config)
    optimizer = make_optimizer(model, config.train)
    average = WeightAverage(model, config.train.ema)
    run, beside = definition_sha256(config), mesh.workers.background()
    checkpoints = Checkpoints(folder / "checkpoints", beside, config.checkpoint, run)
    outcome = Outcome(workers, config, folder, model, optimizer, average, checkpoints)
    outcome.start_folder(data.dataset, resume)
    mesh.name_layers(model)
    mesh.name_layers(average.model)
    first_step, survived = outcome.resume(memory) if resume else (0, False)
    make, compute = partial(make_optimizer, config=config.train), partial(autocast, workers.device, config)
    parallel = join_training(outcome.state(), mesh, config, make, compute, folder)
    outcome.begin(parallel)
    handover = Handover(memory if parallel.survives else None, run, model, average.model, optimizer)
    handover.complete(first_step, outcome.counters)

    with (
        RunLog(folder, data.num_steps, first_step, workers.is_first) as log,
        closing(data.steps(parallel, first_step)) as steps,
        Preemption() as preemption,
        checkpoints,
        handover.on_loss(parallel.abandon),
    ):
        log.say(f"training on {data}, plan {config.plan}, {config.dtype}, into {folder}")
        log.say(weights_report)
        for line in parallel.describe():
            log.say(line)
        outcome.report(log)

        def follow(done: int) -> None:
            """Do what is due after a step; where survivors have handed its state over, the next attempt does it."""
            metric = None
            if _is_due(done, config.train.evaluate_every, data.num_steps):
                evaluation = _evaluate(average.model, task, data, config, mesh)
                log.evaluation(done, evaluation.metrics)
                metric = evaluation.metrics.get(MAIN_METRIC[run_task(config)])
            if _is_due(done, config.train.checkpoint_every, data.num_steps):
                outcome.save_checkpoint(done, log, metric)

        if survived:
            follow(first_step)
        start = time.perf_counter()
        for step, microbatches, waited in steps:
            begin = time.perf_counter()
            outcome.agree(step, preemption.requested, data.take_notices(microbatches, mesh), log)
            set_learning_rate(optimizer, learning_rate(step, data.num_steps, config.train))
            parallel.start(num_leaves=len(data.pieces(step)))
            handover.begin()

            # What the loss is divided by, over all workers, is known before anything is computed.
            assignments = [task.assign(microbatch) for microbatch in microbatches]
            counts = [task.normalizers(assignment) for assignment in assignments]
            totals = parallel.sum(counts, len(task.normalizer_names), parts=task.normalizers_are_parts)
            passes = Passes(model, task, parallel, step, microbatches, assignments, config, mesh)
            # What depends on the outputs of all microbatches takes a pass of its own.
            if task.output_sum_names:
                sums = parallel.sum(passes.output_sums(), len(task.output_sum_names))
                totals = torch.cat([totals, sums])

            # Each microbatch gives one leaf: of the gradient, of the running statistics, of the loss.
            losses = passes.losses(totals)

            # Sums over all workers, in an order that does not depend on their number.
            phase("exchange", step)
            parallel.finish_gradients()
            terms = parallel.gather(losses, len(task.term_names))
            norm = parallel.gradient_norm()
            workers.confirm()
            finite = bool(terms.isfinite().all() and norm.isfinite())
            if finite:
                parallel.finish_statistics()
                phase("optimizer", step)
                workers.confirm()
                handover.change()
                if config.train.clip_norm:
                    parallel.clip(config.train.clip_norm, norm)
                optimizer.step()
                average.update(step)
            else:  # the step changes nothing
                described = [data.describe(piece) for piece in data.pieces(step)]
                find = partial(passes.bad_gradients, totals)
                faults = nonfinite_faults(step, terms, task.term_names, described, parallel, find)
                parallel.abandon()
                outcome.not_finite(step, faults, log)

            log.step(_record(step, data, terms, task, norm, optimizer, time.perf_counter() - begin, waited))
            handover.complete(step + 1, outcome.counters)
            follow(step + 1)

        seconds = time.perf_counter() - start
        parallel.close()
        outcome.save_checkpoint(data.num_steps, log)
        whole = outcome.save_weights()
        evaluation = _evaluate(average.model, task, data, config, mesh)
        log.evaluation(data.num_steps, evaluation.metrics)
        for line in mesh.gathers():
            log.say(line)
        phase("report")
        digest = workers.broadcast_object(weights_sha256(whole.average) if whole and workers.is_first else "")
        if workers.is_first and whole:
            model, board, console = whole.average.to(mesh.home), log.board, log.console
            write_report(folder, evaluation, model, task, data.validation, config, mesh.home, board, console)
        outcome.finish_checkpoints(log)
        mesh.close()
    samples = sum(len(data.sampler.batch(step)) for step in range(first_step, data.num_steps))
    return outcome.result() | {
        "weights_sha256": digest,
        "steps": data.num_steps,
        "samples": samples,
        "seconds": seconds,
        "images_per_second": samples / seconds,
        "loss": float(terms.sum()) if samples and finite else None,
        "metrics": evaluation.metrics,
    }


def _build(home: torch.device, config: RunConfig, num_classes: int, resume: bool) -> tuple[VisionModel, str]:
    """Return the model with its first weights, on a device, and what was loaded."""
    seed_everything(config.seed)
    model = build_model(config.model, num_classes)
    report = "weights: of the newest state" if resume else "weights: random"
    if config.model.weights != "none" and not resume:
        report = load_weights(model, config.model.weights).summary()
    return place_model(model, home, config.train.channels_last).train(), report


def _evaluate(
    model: VisionModel, task: Task, data: TrainingData, config: RunConfig, mesh: Mesh
) -> Evaluation:
    """Measure the model on the validation split; nothing where there is none."""
    phase("evaluation")
    if data.validation is None:
        return Evaluation({}, None)
    return evaluate_model(model, task, data.validation, config, mesh, lambda done, total: phase("evaluation"))


def _is_due(done: int, every: int, num_steps: int) -> bool:
    """Whether something that happens every so many steps happens after `done` steps (the last is apart)."""
    return every > 0 and done % every == 0 and 0 < done < num_steps


def _record(
    step: int,
    data: TrainingData,
    terms: Tensor,
    task: Task,
    norm: Tensor,
    optimizer: torch.optim.Optimizer,
    seconds: float,
    waited: float,
) -> dict[str, Any]:
    """Return the line of ``metrics.jsonl`` for a step."""
    num_images = len(data.sampler.batch(step))
    by_term = {f"loss_{n}": _finite(v) for n, v in zip(task.term_names, terms.sum(dim=0), strict=True)}
    return {
        "step": step + 1,
        "epoch": step // data.sampler.steps_per_epoch,
        "loss": _finite(terms.sum()),
        **by_term,
        "lr": optimizer.param_groups[0]["lr"],
        "gradient_norm": _finite(norm),
        "images": num_images,
        "images_per_second": num_images / (seconds + waited),
        "seconds": seconds,
        "data_seconds": waited,
    }


def _finite(value: Tensor) -> float | None:
    """Return a number for JSON, which knows no NaN."""
    return float(value) if value.isfinite() else None
