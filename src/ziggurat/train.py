"""Training: the loop that turns a config and a data set into weights, the same on any number of workers.

Read `train` from top to bottom; `docs/step.md` explains what one step means.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ziggurat.checkpoint import Checkpoints, Progress, load_training_state, training_state
from ziggurat.config import RunConfig, definition_sha256, run_task
from ziggurat.data.batch import Microbatch, SampleId
from ziggurat.data.dataset import Dataset
from ziggurat.data.formats import open_dataset
from ziggurat.data.loader import LoaderSettings, load_steps
from ziggurat.data.sampler import Sampler, microbatch_ids
from ziggurat.data.samples import TrainingSamples
from ziggurat.errors import Preempted, UserError
from ziggurat.evaluate import MAIN_METRIC, Evaluation, evaluate_model
from ziggurat.logging import RunLog
from ziggurat.models.build import build_model
from ziggurat.models.images import normalize_images
from ziggurat.models.vision import VisionModel, place_model
from ziggurat.models.weights import load_weights
from ziggurat.nonfinite import bad_gradient, bad_weights, nonfinite_faults
from ziggurat.optimization import WeightAverage, learning_rate, make_optimizer, set_learning_rate
from ziggurat.parallel.preemption import Preemption
from ziggurat.parallel.workers import Workers
from ziggurat.plans.data_parallel import DataParallel
from ziggurat.plans.mesh import Mesh, background_workers, make_mesh
from ziggurat.report import write_report
from ziggurat.run import WEIGHTS, save_weights, start_run_folder, weights_sha256
from ziggurat.tasks.make import make_task
from ziggurat.tasks.task import Task

REMEDY = "lower train.lr, lengthen train.warmup, or use --dtype fp32"


def train(workers: Workers, config: RunConfig, folder: Path, resume: bool = False) -> dict[str, Any]:
    """Train a model, evaluate it, and leave weights and metrics in the run's folder.

    Args:
        workers: All workers.
        config: The resolved configuration.
        folder: The run's folder.
        resume: Go on from the newest checkpoint of the folder.

    Returns:
        The fields of the command's JSON object.

    Raises:
        UserError: If the data, the weights or the numbers that come out are not usable.
        Preempted: By SIGTERM or SIGUSR1 to any worker, after the step and its checkpoint.
    """
    mesh = make_mesh(workers, config.plan)
    data = _TrainingData(config, mesh)
    model, weights_report = _build(workers, config, len(data.classes), resume)
    task = make_task(model, config)
    optimizer = make_optimizer(model, config.train)
    average = WeightAverage(model, config.train.ema)
    parallel = DataParallel(model, mesh.dp, mesh.sp)
    checkpoints = Checkpoints(
        folder / "checkpoints", background_workers(workers), config.checkpoint, definition_sha256(config)
    )
    outcome = _Outcome(workers, config, folder, model, optimizer, average, checkpoints)
    outcome.start_folder(data, resume)
    mesh.name_layers(model)
    mesh.name_layers(average.model)
    first_step = outcome.resume() if resume else 0

    with (
        RunLog(folder, data.num_steps, first_step, workers.is_first) as log,
        closing(data.steps(parallel, first_step)) as steps,
        Preemption() as preemption,
        checkpoints,
    ):
        log.say(f"training on {data}, plan {config.plan}, {config.dtype}, into {folder}")
        log.say(weights_report)
        outcome.report(log)
        start = time.perf_counter()
        for step, microbatches, waited in steps:
            begin = time.perf_counter()
            set_learning_rate(optimizer, learning_rate(step, data.num_steps, config.train))
            parallel.start(num_leaves=len(data.pieces(step)))

            # What the loss is divided by, over all workers, is known before anything is computed.
            assignments = [task.assign(microbatch) for microbatch in microbatches]
            counts = [task.normalizers(assignment) for assignment in assignments]
            totals = parallel.sum(counts, len(task.normalizer_names), parts=task.normalizers_are_parts)
            # What depends on the outputs of all microbatches takes a pass of its own.
            if task.output_sum_names:
                sums = _output_sums(model, task, microbatches, assignments, config, mesh)
                totals = torch.cat([totals, parallel.sum(sums, len(task.output_sum_names))])

            # Each microbatch gives one leaf: of the gradient, of the running statistics, of the loss.
            losses = []
            for microbatch, assignment in zip(microbatches, assignments, strict=True):
                with parallel.leaf(microbatch.index):
                    outputs = _forward(model, microbatch, config, mesh)
                    shares = torch.stack(list(task.loss_shares(outputs, assignment, totals).values()))
                    shares.sum().backward()
                losses.append(shares.detach().double())

            # Sums over all workers, in an order that does not depend on their number.
            parallel.finish_gradients()
            terms = parallel.gather(losses, len(task.term_names))
            norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            finite = bool(terms.isfinite().all() and norm.isfinite())
            if finite:
                parallel.finish_statistics()
                if config.train.clip_norm:
                    nn.utils.clip_grads_with_norm_(model.parameters(), config.train.clip_norm, norm)
                optimizer.step()
                average.update(step)
            else:  # the step changes nothing
                bad = _bad_gradients(model, task, microbatches, assignments, totals, config, mesh)
                described = [data.describe(piece) for piece in data.pieces(step)]
                faults = nonfinite_faults(step, terms, task.term_names, described, parallel, model, bad)
                parallel.abandon()
                outcome.not_finite(step, faults, log)

            log.step(_record(step, data, terms, task, norm, optimizer, time.perf_counter() - begin, waited))
            metric = None
            if _is_due(step, config.train.evaluate_every, data.num_steps):
                evaluation = _evaluate(average.model, task, data, config, mesh)
                log.evaluation(step + 1, evaluation.metrics)
                metric = evaluation.metrics.get(MAIN_METRIC[run_task(config)])
            stopping = outcome.agree(preemption.requested, data.take_notices(microbatches, mesh), log)
            if stopping or _is_due(step, config.train.checkpoint_every, data.num_steps):
                outcome.save_checkpoint(step + 1, log, metric)
            if stopping:
                outcome.stop(step + 1, log)

        seconds = time.perf_counter() - start
        parallel.close()
        outcome.save_checkpoint(data.num_steps, log)
        outcome.save_weights()
        evaluation = _evaluate(average.model, task, data, config, mesh)
        log.evaluation(data.num_steps, evaluation.metrics)
        for line in mesh.gathers():
            log.say(line)
        if workers.is_first:
            model, board, console = average.model, log.board, log.console
            write_report(folder, evaluation, model, task, data.validation, config, workers, board, console)
        checkpoints.wait()
        outcome.report(log)
        workers.barrier()
    samples = sum(len(data.sampler.batch(step)) for step in range(first_step, data.num_steps))
    return outcome.result() | {
        "steps": data.num_steps,
        "samples": samples,
        "seconds": seconds,
        "images_per_second": samples / seconds,
        "loss": float(terms.sum()) if samples and finite else None,
        "metrics": evaluation.metrics,
    }


def open_validation(config: RunConfig, classes: tuple[str, ...] | None) -> Dataset | None:
    """Open what a run is evaluated on, with the labels of `classes` (its own where these are not known).

    An annotation file that is trained on is not evaluated on, unless ``data.val`` names it too.

    Raises:
        UserError: If it cannot be opened, or has classes that the run does not know.
    """
    path, task = config.data.val or config.data.path, run_task(config)
    if Path(path).is_file() and not config.data.val:
        return None
    found = open_dataset(path, "val", task, config.data, config.digits, classes)
    if config.data.val and found is None:  # a folder of its own may have one split only, by whatever name
        return open_dataset(path, "train", task, config.data, config.digits, classes)
    return found


def seed_everything(*key: int | tuple[int, ...]) -> None:
    """Key every random choice of the model (dropout, drop path) and of libraries by `key`.

    Example:
        >>> seed_everything(7, (0, 3))
        >>> first = torch.rand(1)
        >>> seed_everything(7, (0, 3))
        >>> bool(first == torch.rand(1))
        True
    """
    words = [word for part in key for word in (part if isinstance(part, tuple) else (part,))]
    state = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    torch.manual_seed(state)
    random.seed(state)
    np.random.seed(state % (1 << 32))


class _TrainingData:
    """The data of a run: which samples a step sees, and this worker's part of them."""

    def __init__(self, config: RunConfig, mesh: Mesh) -> None:
        self.config = config
        opened = open_dataset(config.data.path, "train", run_task(config), config.data, config.digits)
        assert opened is not None  # only the validation split may be missing
        self.dataset: Dataset = opened
        self.classes = self.dataset.classes
        self.validation = open_validation(config, self.classes)
        part = mesh.part(config.data.crop, config.data.crop)
        self.samples = TrainingSamples(self.dataset, config.data, config.seed, part)
        self.sampler = Sampler(len(self.samples), config.train.batch_size, config.seed)
        self.num_steps = config.train.steps or config.train.epochs * self.sampler.steps_per_epoch
        self.notices: list[str] = []  # of what happened while samples were loaded

    def __str__(self) -> str:
        train = self.config.train
        return (
            f"{self.config.data.path}: {len(self.dataset)} images, {len(self.samples)} samples an epoch, "
            f"{self.num_steps} steps of {train.batch_size} samples in {train.microbatches} microbatches"
        )

    def describe(self, ids: Sequence[SampleId]) -> str:
        """Name samples in a message."""
        return ", ".join(self.samples.describe(id) for id in ids)

    def pieces(self, step: int) -> list[tuple[SampleId, ...]]:
        """Return the samples of each microbatch of a step."""
        train = self.config.train
        return microbatch_ids(self.sampler.batch(step), train.batch_size, train.microbatches)

    def take_notices(self, microbatches: list[Microbatch], mesh: Mesh) -> tuple[int, list[str]]:
        """Return how many samples of this worker's microbatches were replaced, and what there is to say.

        Workers that share images read the same ones; the first of them speaks.
        """
        faults = [fault for microbatch in microbatches for fault in microbatch.faults if mesh.sp.is_first]
        notices, self.notices[:] = faults + self.notices, []
        return len(faults), notices

    def steps(
        self, parallel: DataParallel, first: int
    ) -> Generator[tuple[int, list[Microbatch], float], None, None]:
        """Yield each step's number, this worker's microbatches, and the seconds that were waited for them."""

        def mine(step: int) -> list[tuple[int, tuple[SampleId, ...]]]:
            pieces = self.pieces(step)
            return [(index, pieces[index]) for index in parallel.leaves_of_worker(len(pieces))]

        device = parallel.workers.device
        config = self.config.data
        settings = LoaderSettings(config.workers, device.type == "cuda", config.on_error)
        loader = load_steps(
            self.samples, self.sampler, mine, first, self.num_steps, settings, self.notices.append
        )
        begin = time.perf_counter()
        for step, microbatches in enumerate(loader, start=first):
            yield step, [m.to(device) for m in microbatches], time.perf_counter() - begin
            begin = time.perf_counter()


@dataclass(frozen=True)
class _Outcome:
    """What a run leaves in its folder."""

    workers: Workers
    config: RunConfig
    folder: Path
    model: VisionModel
    optimizer: torch.optim.Optimizer
    average: WeightAverage[VisionModel]
    checkpoints: Checkpoints
    counters: Counter[str] = field(default_factory=Counter)

    def start_folder(self, data: _TrainingData, resume: bool) -> None:
        if self.workers.is_first:
            start_run_folder(self.folder, self.config, data.dataset, resume)
        self.workers.barrier()

    def resume(self) -> int:
        """Load the newest good checkpoint and return the number of steps done."""
        progress = self.checkpoints.find()
        self.counters.update(progress.counters)
        place = self.checkpoints.path(progress)
        load_training_state(place, self.model, self.average.model, self.optimizer)
        return progress.step

    def save_checkpoint(self, done: int, log: RunLog, metric: float | None = None) -> None:
        """Begin to write the state after `done` steps; what the log says of them is on the disk before."""
        log.sync()
        state = training_state(self.model, self.average.model, self.optimizer)
        self.checkpoints.save(Progress(done, metric, dict(self.counters)), state)
        self.report(log)

    def agree(self, requested: bool, happened: tuple[int, list[str]], log: RunLog) -> bool:
        """Let all workers know what happened on each: samples that were replaced, and what there is to say.

        Returns:
            Whether a signal has asked any worker to stop.
        """
        replaced, notices = happened
        stopping, replaced, to_say = self.workers.sum([requested, replaced, len(notices)])
        self.counters["replaced_samples"] += replaced
        if to_say:
            for rank, said in enumerate(self.workers.gather(notices)):
                for notice in said:
                    log.say(f"worker {rank}: {notice}")
        if replaced:
            log.say(f"samples that were replaced so far: {self.counters['replaced_samples']}")
        return stopping > 0

    def report(self, log: RunLog) -> None:
        """Say what has become of the checkpoints."""
        for message in self.checkpoints.messages():
            log.say(message)

    def stop(self, done: int, log: RunLog) -> None:
        """End before the run is done, as schedulers ask.

        Raises:
            Preempted: Always.
        """
        self.checkpoints.wait()
        self.report(log)
        newest = self.checkpoints.newest
        raise Preempted(
            f"stopped by a signal after step {done}; "
            + (
                "no checkpoint could be written"
                if newest is None
                else f"--resume goes on after step {newest}"
            )
        )

    def not_finite(self, step: int, faults: list[str], log: RunLog) -> None:
        """Count a step whose numbers are not finite.

        Raises:
            UserError: If the policy is to stop, or the weights themselves are not finite.
        """
        broken = bad_weights(self.model)
        if broken:
            newest = self.checkpoints.newest
            kept = "none" if newest is None else f"that of step {newest}"
            names = ", ".join(broken[:3])
            fault = (
                f"the weights are not finite since an earlier step ({names}); the newest checkpoint is {kept}"
            )
            raise UserError([*faults, f"{fault}: {REMEDY}"])
        if self.config.train.on_nonfinite == "stop":
            self.save_checkpoint(step, log)
            self.save_weights()
            self.checkpoints.wait()
            self.report(log)
            weights = self.folder / WEIGHTS
            raise UserError([*faults, f"the weights of before this step are in {weights}: {REMEDY}"])
        self.counters["skipped_steps"] += 1
        for fault in faults:
            log.say(fault)
        log.say(f"step {step + 1} is skipped: {self.counters['skipped_steps']} so far")

    def save_weights(self) -> None:
        """Export the averaged weights."""
        if self.workers.is_first:
            save_weights(self.average.model, self.folder / WEIGHTS, {"model": self.config.model.name})
        self.workers.barrier()

    def result(self) -> dict[str, Any]:
        return {
            "run": str(self.folder),
            "task": self.config.task,
            "model": self.config.model.name,
            "plan": self.config.plan,
            "world_size": self.workers.size,
            "microbatches": self.config.train.microbatches,
            "weights_sha256": weights_sha256(self.average.model),
            "skipped_steps": self.counters["skipped_steps"],
            "replaced_samples": self.counters["replaced_samples"],
        }


def _build(workers: Workers, config: RunConfig, num_classes: int, resume: bool) -> tuple[VisionModel, str]:
    """Return the model with its first weights, on the worker's device, and what was loaded."""
    seed_everything(config.seed)
    model = build_model(config.model, num_classes)
    report = "weights: of the newest checkpoint" if resume else "weights: random"
    if config.model.weights != "none" and not resume:
        report = load_weights(model, config.model.weights).summary()
    return place_model(model, workers.device, config.train.channels_last).train(), report


def _output_sums(
    model: VisionModel,
    task: Task,
    microbatches: list[Microbatch],
    assignments: list[Any],
    config: RunConfig,
    mesh: Mesh,
) -> list[Tensor]:
    """Run the model without gradients; running statistics are taken from the second pass, in `parallel.leaf`."""
    with torch.no_grad():
        return [
            task.output_sums(_forward(model, microbatch, config, mesh), assignment)
            for microbatch, assignment in zip(microbatches, assignments, strict=True)
        ]


def _forward(model: VisionModel, microbatch: Microbatch, config: RunConfig, mesh: Mesh) -> Any:
    """Return the model's outputs; what is random in it depends on the samples only."""
    seed_everything(config.seed, *((id.epoch, id.sample) for id in microbatch.ids))
    images = normalize_images(microbatch.images_BCHW, microbatch.own_sizes, model.mean, model.std)
    if config.train.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.dtype == "bf16"):
        return model(mesh.spread(images, microbatch.part))


def _evaluate(
    model: VisionModel, task: Task, data: _TrainingData, config: RunConfig, mesh: Mesh
) -> Evaluation:
    """Measure the model on the validation split; nothing where there is none."""
    if data.validation is None:
        return Evaluation({}, None)
    return evaluate_model(model, task, data.validation, config, mesh)


def _is_due(step: int, every: int, num_steps: int) -> bool:
    """Whether something that happens every so many steps happens after this one (the last is apart)."""
    return every > 0 and (step + 1) % every == 0 and step + 1 < num_steps


def _record(
    step: int,
    data: _TrainingData,
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


def _bad_gradients(
    model: VisionModel,
    task: Task,
    microbatches: list[Microbatch],
    assignments: list[Any],
    totals: Tensor,
    config: RunConfig,
    mesh: Mesh,
) -> Callable[[], dict[int, str]]:
    """Return what finds the first bad parameter of each microbatch: it computes this worker's once more."""

    def find() -> dict[int, str]:
        found: dict[int, str] = {}
        for microbatch, assignment in zip(microbatches, assignments, strict=True):
            outputs = _forward(model, microbatch, config, mesh)
            loss = torch.stack(list(task.loss_shares(outputs, assignment, totals).values())).sum()
            name = bad_gradient(model, loss)
            if name is not None:
                found[microbatch.index] = name
        return {index: name for part in mesh.workers.gather(found) for index, name in part.items()}

    return find
