"""Training: the loop that turns a config and a data set into weights, the same on any number of workers.

Read `train` from top to bottom; `docs/step.md` explains what one step means.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ziggurat.checkpoint import load_checkpoint, newest_step, save_checkpoint
from ziggurat.config import RunConfig, run_task
from ziggurat.data.batch import Microbatch, SampleId
from ziggurat.data.dataset import Dataset
from ziggurat.data.formats import open_dataset
from ziggurat.data.loader import load_steps
from ziggurat.data.sampler import Sampler, microbatch_ids
from ziggurat.data.samples import TrainingSamples
from ziggurat.errors import UserError
from ziggurat.evaluate import Evaluation, evaluate_model
from ziggurat.logging import RunLog
from ziggurat.models.build import build_model
from ziggurat.models.images import normalize_images
from ziggurat.models.vision import VisionModel, place_model
from ziggurat.models.weights import load_weights
from ziggurat.optimization import WeightAverage, learning_rate, make_optimizer, set_learning_rate
from ziggurat.parallel.workers import Workers
from ziggurat.plans.data_parallel import DataParallel
from ziggurat.plans.mesh import Mesh, make_mesh
from ziggurat.plans.pipeline_training import PipelineTraining, image_spec
from ziggurat.plans.whole_state import Whole
from ziggurat.report import write_report
from ziggurat.run import WEIGHTS, save_weights, start_run_folder, weights_sha256
from ziggurat.tasks.make import make_task
from ziggurat.tasks.task import Task


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
    """
    mesh = make_mesh(workers, config.plan)
    data = _TrainingData(config, mesh)
    model, weights_report = _build(workers, config, len(data.classes), resume)
    task = make_task(model, config)
    optimizer = make_optimizer(model, config.train)
    average = WeightAverage(model, config.train.ema)
    outcome = _Outcome(workers, config, folder, model, optimizer, average)
    outcome.start_folder(data, resume)
    mesh.name_layers(model)
    mesh.name_layers(average.model)
    first_step = outcome.resume() if resume else 0
    parallel = outcome.parallel = _join(outcome, mesh)

    with (
        RunLog(folder, data.num_steps, first_step, workers.is_first) as log,
        closing(data.steps(parallel, first_step)) as steps,
    ):
        log.say(f"training on {data}, plan {config.plan}, {config.dtype}, into {folder}")
        log.say(weights_report)
        for line in parallel.describe():
            log.say(line)
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
                sums = _output_sums(parallel, model, task, microbatches, assignments, config, mesh)
                totals = torch.cat([totals, parallel.sum(sums, len(task.output_sum_names))])

            # Each microbatch gives one leaf: of the gradient, of the running statistics, of the loss.
            losses = []
            if isinstance(parallel, PipelineTraining):
                losses = _losses_by_stages(
                    parallel, model, task, microbatches, assignments, totals, config, mesh
                )
            else:
                for microbatch, assignment in zip(microbatches, assignments, strict=True):
                    with parallel.leaf(microbatch.index):
                        outputs = _forward(model, microbatch, config, mesh)
                        shares = _shares(task, outputs, assignment, totals)
                        shares.sum().backward()
                    losses.append(shares.detach().double())

            # Sums over all workers, in an order that does not depend on their number.
            parallel.finish_gradients()
            terms = parallel.gather(losses, len(task.term_names))
            norm = parallel.gradient_norm()
            if not (terms.isfinite().all() and norm.isfinite()):
                parallel.abandon()
                outcome.save_checkpoint(step)
                outcome.save_weights()
                raise UserError(_not_finite(step, terms, task, data, parallel) + outcome.remedies())
            parallel.finish_statistics()

            if config.train.clip_norm:
                torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.train.clip_norm, norm)
            optimizer.step()
            average.update(step)

            log.step(_record(step, data, terms, task, norm, optimizer, time.perf_counter() - begin, waited))
            if _is_due(step, config.train.checkpoint_every, data.num_steps):
                outcome.save_checkpoint(step + 1)
            if _is_due(step, config.train.evaluate_every, data.num_steps):
                log.evaluation(step + 1, _evaluate(average.model, task, data, config, mesh).metrics)

        seconds = time.perf_counter() - start
        parallel.close()
        outcome.save_checkpoint(data.num_steps)
        outcome.save_weights()
        evaluation = _evaluate(average.model, task, data, config, mesh)
        log.evaluation(data.num_steps, evaluation.metrics)
        for line in mesh.gathers():
            log.say(line)
        whole = outcome.whole()
        digest = workers.share_of_first(weights_sha256(whole.average) if whole and workers.is_first else "")
        if workers.is_first and whole:
            model, board, console = whole.average, log.board, log.console
            write_report(folder, evaluation, model, task, data.validation, config, workers, board, console)
        workers.barrier()
    samples = sum(len(data.sampler.batch(step)) for step in range(first_step, data.num_steps))
    return outcome.result() | {
        "weights_sha256": digest,
        "steps": data.num_steps,
        "samples": samples,
        "seconds": seconds,
        "images_per_second": samples / seconds,
        "loss": float(terms.sum()) if samples else None,
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

    def __str__(self) -> str:
        train = self.config.train
        return (
            f"{self.config.data.path}: {len(self.dataset)} images, {len(self.samples)} samples an epoch, "
            f"{self.num_steps} steps of {train.batch_size} samples in {train.microbatches} microbatches"
        )

    def pieces(self, step: int) -> list[tuple[SampleId, ...]]:
        """Return the samples of each microbatch of a step."""
        train = self.config.train
        return microbatch_ids(self.sampler.batch(step), train.batch_size, train.microbatches)

    def steps(
        self, parallel: DataParallel | PipelineTraining, first: int
    ) -> Generator[tuple[int, list[Microbatch], float], None, None]:
        """Yield each step's number, this worker's microbatches, and the seconds that were waited for them."""

        def mine(step: int) -> list[tuple[int, tuple[SampleId, ...]]]:
            pieces = self.pieces(step)
            return [(index, pieces[index]) for index in parallel.leaves_of_worker(len(pieces))]

        device = parallel.workers.device
        num_loaders, pin = self.config.data.workers, device.type == "cuda"
        loader = load_steps(self.samples, self.sampler, mine, first, self.num_steps, num_loaders, pin)
        begin = time.perf_counter()
        for step, microbatches in enumerate(loader, start=first):
            yield step, [m.to(device) for m in microbatches], time.perf_counter() - begin
            begin = time.perf_counter()


@dataclass
class _Outcome:
    """What a run leaves in its folder."""

    workers: Workers
    config: RunConfig
    folder: Path
    model: VisionModel
    optimizer: torch.optim.Optimizer
    average: WeightAverage[VisionModel]
    parallel: DataParallel | PipelineTraining | None = None

    def whole(self) -> Whole | None:
        """Return the whole state; on all workers but the first perhaps None. All workers call this."""
        if isinstance(self.parallel, PipelineTraining):
            return self.parallel.whole()
        return Whole(self.model, self.average.model, self.optimizer)

    def start_folder(self, data: _TrainingData, resume: bool) -> None:
        if self.workers.is_first:
            start_run_folder(self.folder, self.config, data.dataset, resume)
        self.workers.barrier()

    def resume(self) -> int:
        """Load the newest checkpoint, which the first worker chooses, and return the number of steps done."""
        checkpoints = self.folder / "checkpoints"
        step = self.workers.share_of_first(newest_step(checkpoints))
        if step is None:
            raise UserError(f"nothing to resume: {checkpoints} holds no checkpoint; run without --resume")
        load_checkpoint(checkpoints, step, self.model, self.average.model, self.optimizer)
        return step

    def save_checkpoint(self, done: int) -> None:
        """Write the state after `done` steps."""
        whole = self.whole()
        if self.workers.is_first and whole is not None:
            save_checkpoint(self.folder / "checkpoints", done, whole.model, whole.average, whole.optimizer)
        self.workers.barrier()

    def save_weights(self) -> None:
        """Export the averaged weights."""
        whole = self.whole()
        if self.workers.is_first and whole is not None:
            save_weights(whole.average, self.folder / WEIGHTS, {"model": self.config.model.name})
        self.workers.barrier()

    def remedies(self) -> list[str]:
        weights = self.folder / WEIGHTS
        return [
            f"the weights of before this step are in {weights}: lower train.lr, lengthen train.warmup, "
            "or use --dtype fp32"
        ]

    def result(self) -> dict[str, Any]:
        return {
            "run": str(self.folder),
            "task": self.config.task,
            "model": self.config.model.name,
            "plan": self.config.plan,
            "world_size": self.workers.size,
            "microbatches": self.config.train.microbatches,
        }


def _build(workers: Workers, config: RunConfig, num_classes: int, resume: bool) -> tuple[VisionModel, str]:
    """Return the model with its first weights, on the worker's device, and what was loaded."""
    seed_everything(config.seed)
    model = build_model(config.model, num_classes)
    report = "weights: of the newest checkpoint" if resume else "weights: random"
    if config.model.weights != "none" and not resume:
        report = load_weights(model, config.model.weights).summary()
    return place_model(model, workers.device, config.train.channels_last).train(), report


def _join(outcome: _Outcome, mesh: Mesh) -> DataParallel | PipelineTraining:
    """Join the training state to the workers: copied for each, or each with its own stages."""
    model, average, config = outcome.model, outcome.average.model, outcome.config
    if mesh.pp.size == 1:
        return DataParallel(model, mesh.dp, mesh.sp)
    train, side = config.train, config.data.crop
    spec = image_spec((train.batch_size // train.microbatches, 3, side, side), train.channels_last, mesh)
    return PipelineTraining(
        model,
        average,
        outcome.optimizer,
        partial(make_optimizer, config=train),
        spec,
        mesh,
        config.pipeline,
        num_microbatches=-(-train.microbatches // mesh.dp.size),
        compute=partial(_autocast, mesh.workers.device, config),
    )


def _losses_by_stages(
    parallel: PipelineTraining,
    model: VisionModel,
    task: Task,
    microbatches: list[Microbatch],
    assignments: list[Any],
    totals: Tensor,
    config: RunConfig,
    mesh: Mesh,
) -> list[Tensor]:
    """Run forward and backward of all microbatches through the stages."""

    def shares(outputs: Any, index: int) -> Tensor:
        return _shares(task, outputs, assignments[index], totals)

    return parallel.loss_leaves(*_given(model, microbatches, config, mesh), shares)


def _given(
    model: VisionModel, microbatches: list[Microbatch], config: RunConfig, mesh: Mesh
) -> tuple[int, Callable[[int], Tensor], Callable[[int], None]]:
    """Return what stages ask for: how many microbatches, the images of each, and what keys its random numbers."""
    return (
        len(microbatches),
        lambda index: _images(model, microbatches[index], config, mesh),
        lambda index: _seed(microbatches[index], config),
    )


def _output_sums(
    parallel: DataParallel | PipelineTraining,
    model: VisionModel,
    task: Task,
    microbatches: list[Microbatch],
    assignments: list[Any],
    config: RunConfig,
    mesh: Mesh,
) -> list[Tensor]:
    """Run the model without gradients; running statistics are taken from the second pass, in `parallel.leaf`."""
    if isinstance(parallel, PipelineTraining):
        return parallel.output_leaves(
            *_given(model, microbatches, config, mesh),
            lambda outputs, index: task.output_sums(outputs, assignments[index]),
        )
    with torch.no_grad():
        return [
            task.output_sums(_forward(model, microbatch, config, mesh), assignment)
            for microbatch, assignment in zip(microbatches, assignments, strict=True)
        ]


def _shares(task: Task, outputs: Any, assignment: Any, totals: Tensor) -> Tensor:
    """Return a microbatch's share of each term of the loss, in the order of ``task.term_names``."""
    return torch.stack(list(task.loss_shares(outputs, assignment, totals).values()))


def _forward(model: VisionModel, microbatch: Microbatch, config: RunConfig, mesh: Mesh) -> Any:
    """Return the model's outputs; what is random in it depends on the samples only."""
    _seed(microbatch, config)
    images = _images(model, microbatch, config, mesh)
    with _autocast(images.device, config):
        return model(images)


def _seed(microbatch: Microbatch, config: RunConfig) -> None:
    seed_everything(config.seed, *((id.epoch, id.sample) for id in microbatch.ids))


def _images(model: VisionModel, microbatch: Microbatch, config: RunConfig, mesh: Mesh) -> Tensor:
    """Return a microbatch's images as the model sees them."""
    images = normalize_images(microbatch.images_BCHW, microbatch.own_sizes, model.mean, model.std)
    if config.train.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return mesh.spread(images, microbatch.part)


def _autocast(device: torch.device, config: RunConfig) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bf16")


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
    by_term = {f"loss_{n}": v for n, v in zip(task.term_names, terms.sum(dim=0).tolist(), strict=True)}
    return {
        "step": step + 1,
        "epoch": step // data.sampler.steps_per_epoch,
        "loss": float(terms.sum()),
        **by_term,
        "lr": optimizer.param_groups[0]["lr"],
        "gradient_norm": float(norm),
        "images": num_images,
        "images_per_second": num_images / (seconds + waited),
        "seconds": seconds,
        "data_seconds": waited,
    }


def _not_finite(
    step: int,
    terms: Tensor,
    task: Task,
    data: _TrainingData,
    parallel: DataParallel | PipelineTraining,
) -> list[str]:
    """Name the microbatches whose loss is not finite, or else the first parameter whose gradient is not."""
    faults = []
    for index in (~terms.isfinite()).any(dim=1).nonzero().flatten().tolist():
        ranks = range(parallel.workers.size)
        found = parallel.workers_of_loss(
            next(r for r in ranks if index in parallel.leaves_of_worker(len(terms), r))
        )
        worker = f"worker {found[0]}" if len(found) == 1 else f"workers {found[0]} to {found[-1]}"
        values = zip(task.term_names, terms[index].tolist(), strict=True)
        samples = ", ".join(data.samples.describe(id) for id in data.pieces(step)[index])
        faults.append(
            f"the loss is not finite in step {step + 1}, microbatch {index}, on {worker} "
            f"({', '.join(f'{name} {value}' for name, value in values)}); samples: {samples}"
        )
    if not faults:
        bad = parallel.bad_gradient() or "none"
        samples = ", ".join(data.samples.describe(id) for piece in data.pieces(step) for id in piece)
        faults.append(
            f"the gradient is not finite in step {step + 1}; first bad parameter: {bad}; samples: {samples}"
        )
    return faults
