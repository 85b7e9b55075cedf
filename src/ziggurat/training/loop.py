"""Training: the loop that turns a config and a data set into weights, the same on any number of workers.

Read `train` from top to bottom; `docs/step.md` explains what one step means, and `step` is it.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from ziggurat.config import RunConfig, definition_sha256
from ziggurat.data.aspect_groups import smallest_side
from ziggurat.data.batch import Microbatch
from ziggurat.inference.evaluate import Evaluation, evaluate_model
from ziggurat.models.build import build_model
from ziggurat.models.vision import VisionModel, place_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.generators import seed_everything
from ziggurat.parallel.runtime.heartbeat import phase
from ziggurat.parallel.runtime.preemption import Preemption
from ziggurat.report import write_report
from ziggurat.runs.checkpoint import Checkpoints
from ziggurat.runs.first_weights import class_note, load_first_weights
from ziggurat.runs.folder import weights_sha256
from ziggurat.runs.log import RunLog
from ziggurat.strategies.executor import Executor
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.replicas import Replicas
from ziggurat.strategies.setting import run_setting
from ziggurat.strategies.state import TrainState, names_of
from ziggurat.strategies.whole import give_states
from ziggurat.tasks.base import Task
from ziggurat.tasks.registry import make_task
from ziggurat.training.balancing import refuse_single_images
from ziggurat.training.callbacks import NO_CALLBACKS, Callbacks, Calls
from ziggurat.training.data import TrainingData
from ziggurat.training.extension import earlier_definitions
from ziggurat.training.feed import SampleFeed, autocast
from ziggurat.training.first_batch import show_first_batch
from ziggurat.training.freezing import freeze
from ziggurat.training.local_sgd import LocalStep
from ziggurat.training.nonfinite import nonfinite_faults
from ziggurat.training.normalizing import as_begun
from ziggurat.training.optimization import learning_rate, make_optimizer, set_learning_rate
from ziggurat.training.patience import Patience
from ziggurat.training.plan_change import Change, Kept, build_without_values, closed_for_change
from ziggurat.training.records import StepRecord
from ziggurat.training.replanning import Replanning
from ziggurat.training.session import Session
from ziggurat.training.snapshot import Snapshots, row_handed_over
from ziggurat.training.step import Step
from ziggurat.training.unequal_workers import Balance

STOPPING = (
    "a signal asks for the end: the step or evaluation under way is finished, and a checkpoint written (Ctrl-C once more ends at "
    "once)"
)


def train(
    workers: Workers,
    config: RunConfig,
    folder: Path,
    resume: bool = False,
    memory: Path | None = None,
    callbacks: Callbacks = NO_CALLBACKS,
    change: Change | None = None,
) -> dict[str, Any]:
    """Train a model, evaluate it, and leave weights and metrics in the run's folder.

    Args:
        workers: All workers.
        config: The resolved configuration.
        folder: The run's folder.
        resume: Go on from the newest checkpoint of the folder.
        memory: Where survivors of a lost worker hand over their state (`snapshot`), which may be newer.
        callbacks: Are called by the first worker; what they raise ends the run with a checkpoint.
        change: Of the plan of this living run, after which it goes on here.

    Returns:
        The fields of the command's JSON object.

    Raises:
        UserError: If the data, the weights or the numbers that come out are not usable.
        PlanAsked: Between two steps, if another plan is asked for (`plan_change`): it is trained under that next, with ``resume``.
        Preempted: By SIGTERM, SIGUSR1, SIGHUP or Ctrl-C to any worker, between two steps, with a checkpoint.
    """
    mark = (lambda done: None) if change is None else change.mark
    mark("leaving and meeting")
    mesh = make_mesh(workers, config.plan, config.launch.hierarchy)
    mark("groups")
    kept = Kept() if change is None else change.take(mesh.home)
    begun = as_begun(config, folder) if resume and change is None else config
    data = TrainingData(begun, mesh, kept.data)
    config = data.config
    model, weights_report = _build(mesh.home, config, data.classes, resume, kept)
    smallest = smallest_side(data.dataset, config.data)
    refuse_single_images(model, config, smallest, data.sampler, data.num_steps)
    task = make_task(model, config)
    if data.counts is not None:
        task.take_counts(data.counts)
    optimizer, decay, is_whole = make_optimizer(model, config.train), config.train.ema, bool(kept.tensors)
    if is_whole:
        state = TrainState.go_on(model, optimizer, decay, kept.tensors)
    else:
        state = TrainState.start(model, optimizer, decay, len(task.accumulated_names))
    del kept  # what the plan leaves to other workers goes
    if config.local_sgd.replicas:
        state.replicas = Replicas(model, state.optimizer, config.local_sgd, mesh.data)
    run = definition_sha256(config)
    earlier = earlier_definitions(folder) if resume and change is None else ()
    checkpoints = Checkpoints(
        folder / "checkpoints", mesh.workers.background(), config.checkpoint, run, earlier
    )
    asked = None if change is None else change.replanning
    session = Session(
        workers, config, folder, state, checkpoints, lambda number: data.shape(number).extent,
        asked or Replanning.of(config), memory=memory,
    )  # fmt: skip
    survived, extension = False, None
    if change is None:
        session.start_folder(data.dataset, resume)
        session.list_skipped(data.left_out)
        session.write_counts(data.counts)
        survived = resume and session.resume(memory)
        extension = session.extension(data) if resume else None
    else:
        mark("data and network")
        session.go_on(change, is_whole)
        mark("state from memory")
    setting = run_setting(config, mesh, lambda: autocast(workers.device, config), state.decisions, folder)
    setting.is_common = resume
    setting.has_no_history = change is not None and change.has_no_history
    parallel = Parallel(state, mesh, setting)
    session.begin(parallel)
    step = _make_step(parallel, task, config, data.num_steps)
    first_step, samples, result, sent = state.step, 0, None, 0
    calls, snapshots = Calls(callbacks, workers), Snapshots(memory, run, parallel)

    with (
        closed_for_change(parallel, mesh, data),
        RunLog(folder, data.num_steps, first_step, workers.is_first) as log,
        closing(data.steps(parallel, first_step)) as steps,
        Preemption(STOPPING if workers.is_first else "") as preemption,
        checkpoints,
        closing(session.requests),
        snapshots.on_loss(),
        ExitStack() as measuring,
    ):
        workers.barrier()  # all note signals before one takes a step: in a worker that sets up one ends the run at once
        log.say(f"training on {data}, plan {config.plan}, {config.dtype}, into {folder}")
        log.say(weights_report)
        for note in data.notes:
            (log.keep if note in data.said else log.say)(f"note: {note}")
        if extension is not None:
            log.say(extension)
        for line in parallel.describe():
            log.say(line)
        session.report(log)
        balance = Balance(parallel, log)

        def follow(done: int) -> None:
            """Do what is due after a step; where survivors have handed its state over, the next attempt does it."""
            metric = None
            if _is_due(done, config.train.evaluate_every, data.num_steps):
                evaluation = _evaluate(parallel.executor, task, data, config, log)
                log.evaluation(done, evaluation.metrics)
                calls.evaluation(done, evaluation.metrics)
                metric = evaluation.metrics.get(task.main_metric)
                patience.note(done, workers.broadcast_object(metric))
            if _is_due(done, config.train.checkpoint_every, data.num_steps) and not patience.is_over:
                session.save_checkpoint(done, log, metric)
            session.call(calls, done, log)

        history = [row for row in log.history(task.main_metric) if row[0] < first_step or not survived]
        patience = Patience(config.train.patience, workers.broadcast_object(history))
        if first_step == 0:
            show_first_batch(data, task, folder, log)
        if survived:
            if memory is not None and log.lacks(first_step) and (row := row_handed_over(memory, first_step)):
                log.step(row)  # who was lost had not come to it
                calls.step(row)
            follow(first_step)
        start = time.perf_counter()
        if change is not None:
            mark("placing and the rest")
            log.change(change.pause() | {"plan": config.plan})
        measuring.enter_context(balance.measuring())
        for number, batches, waited in steps:
            if patience.is_over:
                log.say(patience.verdict(task.main_metric, state.step))
                break
            record = StepRecord(number, data, waited)
            parallel.first.begin(record.looks_at_first)
            balance.before_step()
            session.agree(number, preemption, data.take_notices(batches, mesh), log)
            set_learning_rate(state.optimizer, learning_rate(number, data.num_steps, config.train))
            pieces = data.pieces(number)
            before = parallel.data_bytes
            result = step(batches, len(pieces))
            sent += parallel.data_bytes - before
            if not result.finite:
                described = [data.describe(piece) for piece in pieces]
                session.not_finite(nonfinite_faults(result, task.term_names, described, parallel), log)
            row = record.row(result, task.term_names, state.optimizer, parallel.first.norm())
            snapshots.row = row
            log.step(row)
            calls.step(row)
            state.complete()
            samples += record.num_images
            balance.after_step(number + 1, waited, row["seconds"])
            follow(number + 1)

        seconds = time.perf_counter() - start
        for line in balance.table().splitlines():
            log.say(line)
        (sent,) = workers.sum([sent])
        measuring.close()
        parallel.close()
        session.save_checkpoint(state.step, log)
        whole = session.save_weights()
        session.finish_checkpoints(log)
        session.agree(state.step, preemption, (0, []), log, is_last=True)
        preemption.end_at_once()
        evaluation = _evaluate(parallel.executor, task, data, config, log)
        log.evaluation(state.step, evaluation.metrics)
        calls.evaluation(state.step, evaluation.metrics)
        session.call(calls, state.step, log)
        for note in evaluation.notes:
            log.say(f"note: {note}")
        for line in mesh.gathers():
            log.say(line)
        phase("report")
        session.list_skipped(data.left_out)  # with the validation images that could not be decoded
        digest = workers.broadcast_object("" if whole is None else weights_sha256(whole))
        if whole is not None:
            place, whole = mesh.home, whole.to(mesh.home)
            with session.noting_missing():
                write_report(
                    folder, evaluation, whole, task, data.validation, config, place, log.board, log.console
                )
                balance.write(folder)
        session.finish(log)
        mesh.close()
    return session.result(data) | {
        "weights_sha256": digest,
        "steps": state.step,
        "samples": samples,
        "seconds": seconds,
        "images_per_second": samples / seconds,
        "exchanged_bytes": sent,
        "loss": float(result.terms.sum()) if result is not None and result.finite else None,
        "metrics": evaluation.metrics,
        "balance": balance.facts(),
        "truncated": evaluation.truncated,
        "notes": [*data.notes, *evaluation.notes],
    }


def _build(
    home: torch.device,
    config: RunConfig,
    classes: tuple[str, ...],
    resume: bool,
    kept: Kept,
) -> tuple[VisionModel, str]:
    """Return the model on a device, and what was loaded: with its first weights, those of a state's tensors, or as its memory is found."""
    if resume:
        model = kept.network or build_without_values(config, classes)
        give_states(model, names_of(kept.tensors, "model"))
    else:
        seed_everything(config.seed)
        model = build_model(config.model, len(classes))
    report = "weights: of the newest state" if resume else "weights: random"
    if config.model.weights != "none" and not resume:
        loaded = load_first_weights(model, config.model.weights)
        note = class_note(model, config.model.weights, loaded, classes)
        report = loaded.summary() + (f"\nnote: {note}" if note else "")
    if frozen := freeze(model, config.train.freeze):
        report += f"; {frozen} of them are frozen ({config.train.freeze})"
    return place_model(model, home, config.train.channels_last).train(), report


def _make_step(
    parallel: Parallel[VisionModel], task: Task[Any, Any], config: RunConfig, num_steps: int
) -> Step[Microbatch, VisionModel] | LocalStep[Microbatch, VisionModel]:
    """Return what takes the steps of a run."""
    state, clip = parallel.state, config.train.clip_norm
    feed = SampleFeed(state.model, parallel.mesh, config, lambda: state.step)
    if state.replicas is not None:
        return LocalStep(parallel, task, feed, clip, num_steps)
    return Step(parallel, task, feed, clip)


def _evaluate(
    executor: Executor[VisionModel], task: Task[Any, Any], data: TrainingData, config: RunConfig, log: RunLog
) -> Evaluation:
    """Measure the model on the validation split; nothing where there is none."""
    phase("evaluation")
    if data.validation is None:
        return Evaluation({}, None)
    watch = log.watch("evaluation", "tiles")

    def progress(done: int, total: int) -> None:
        phase("evaluation")
        watch(done, total)

    frequency = () if data.counts is None else data.counts.images_K.tolist()
    evaluation = evaluate_model(executor, task, data.validation, config, progress, frequency)
    data.validation = evaluation.dataset
    return evaluation


def _is_due(done: int, every: int, num_steps: int) -> bool:
    """Whether something that happens every so many steps happens after `done` steps (the last is apart)."""
    return every > 0 and done % every == 0 and 0 < done < num_steps
