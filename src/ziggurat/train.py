"""Training: the loop that turns a config and a data set into weights, the same on any number of workers.

Read `train` from top to bottom; `docs/step.md` explains what one step means.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ziggurat.checkpoint import load_checkpoint, save_checkpoint
from ziggurat.config import RunConfig, run_task
from ziggurat.data.batch import Microbatch, SampleId
from ziggurat.data.dataset import Dataset
from ziggurat.data.formats import open_dataset
from ziggurat.data.loader import load_steps
from ziggurat.data.sampler import Sampler, microbatch_ids
from ziggurat.data.samples import TrainingSamples
from ziggurat.errors import UserError
from ziggurat.evaluate import Evaluation, evaluate_model
from ziggurat.handover import Handover, newest_state
from ziggurat.logging import RunLog
from ziggurat.models.build import build_model
from ziggurat.models.images import normalize_images
from ziggurat.models.vision import VisionModel, place_model
from ziggurat.models.weights import load_weights
from ziggurat.optimization import WeightAverage, learning_rate, make_optimizer, set_learning_rate
from ziggurat.parallel.workers import Workers
from ziggurat.phases import phase
from ziggurat.plans.data_parallel import DataParallel
from ziggurat.plans.mesh import Mesh, make_mesh
from ziggurat.report import write_report
from ziggurat.run import WEIGHTS, save_weights, start_run_folder, weights_sha256
from ziggurat.tasks.make import make_task
from ziggurat.tasks.task import Task


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
    """
    mesh = make_mesh(workers, config.plan)
    data = _TrainingData(config, mesh)
    model, weights_report = _build(workers, config, len(data.classes), resume)
    task = make_task(model, config)
    optimizer = make_optimizer(model, config.train)
    average = WeightAverage(model, config.train.ema)
    parallel = DataParallel(model, mesh.dp, mesh.sp)
    outcome = _Outcome(workers, config, folder, model, optimizer, average)
    outcome.start_folder(data, resume)
    mesh.name_layers(model)
    mesh.name_layers(average.model)
    first_step = outcome.resume(memory) if resume else 0
    handover = Handover(memory, model, average.model, optimizer)
    handover.complete(first_step)

    with (
        RunLog(folder, data.num_steps, first_step, workers.is_first) as log,
        closing(data.steps(parallel, first_step)) as steps,
        handover.on_loss(parallel.abandon),
    ):
        log.say(f"training on {data}, plan {config.plan}, {config.dtype}, into {folder}")
        log.say(weights_report)
        start = time.perf_counter()
        for step, microbatches, waited in steps:
            begin = time.perf_counter()
            set_learning_rate(optimizer, learning_rate(step, data.num_steps, config.train))
            parallel.start(num_leaves=len(data.pieces(step)))
            handover.begin()

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
                    ids = [(id.epoch, id.sample) for id in microbatch.ids]
                    phase("forward", step, microbatch.index, ids)
                    outputs = _forward(model, microbatch, config, mesh)
                    shares = torch.stack(list(task.loss_shares(outputs, assignment, totals).values()))
                    phase("backward", step, microbatch.index, ids)
                    shares.sum().backward()
                losses.append(shares.detach().double())

            # Sums over all workers, in an order that does not depend on their number.
            phase("exchange", step)
            parallel.finish_gradients()
            terms = parallel.gather(losses, len(task.term_names))
            norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            if not (terms.isfinite().all() and norm.isfinite()):
                parallel.abandon()
                outcome.save_checkpoint(step)
                outcome.save_weights()
                raise UserError(_not_finite(step, terms, task, data, parallel, model) + outcome.remedies())
            parallel.finish_statistics()

            phase("optimizer", step)
            handover.change()
            if config.train.clip_norm:
                nn.utils.clip_grads_with_norm_(model.parameters(), config.train.clip_norm, norm)
            optimizer.step()
            average.update(step)

            log.step(_record(step, data, terms, task, norm, optimizer, time.perf_counter() - begin, waited))
            if _is_due(step, config.train.evaluate_every, data.num_steps):
                log.evaluation(step + 1, _evaluate(average.model, task, data, config, mesh).metrics)
            handover.complete(step + 1)
            if _is_due(step, config.train.checkpoint_every, data.num_steps):
                outcome.save_checkpoint(step + 1)

        seconds = time.perf_counter() - start
        parallel.close()
        outcome.save_checkpoint(data.num_steps)
        outcome.save_weights()
        evaluation = _evaluate(average.model, task, data, config, mesh)
        log.evaluation(data.num_steps, evaluation.metrics)
        for line in mesh.gathers():
            log.say(line)
        phase("report")
        if workers.is_first:
            model, board, console = average.model, log.board, log.console
            write_report(folder, evaluation, model, task, data.validation, config, workers, board, console)
        workers.barrier()
    samples = sum(len(data.sampler.batch(step)) for step in range(first_step, data.num_steps))
    return outcome.result() | {
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
        self, parallel: DataParallel, first: int
    ) -> Generator[tuple[int, list[Microbatch], float], None, None]:
        """Yield each step's number, this worker's microbatches, and the seconds that were waited for them."""

        def mine(step: int) -> list[tuple[int, tuple[SampleId, ...]]]:
            pieces = self.pieces(step)
            return [(index, pieces[index]) for index in parallel.leaves_of_worker(len(pieces))]

        device = parallel.workers.device
        num_loaders, pin = self.config.data.workers, device.type == "cuda"
        loader = load_steps(self.samples, self.sampler, mine, first, self.num_steps, num_loaders, pin)
        begin = time.perf_counter()
        phase("data", first)
        for step, microbatches in enumerate(loader, start=first):
            yield step, [m.to(device) for m in microbatches], time.perf_counter() - begin
            begin = time.perf_counter()
            phase("data", step + 1)


@dataclass(frozen=True)
class _Outcome:
    """What a run leaves in its folder."""

    workers: Workers
    config: RunConfig
    folder: Path
    model: VisionModel
    optimizer: torch.optim.Optimizer
    average: WeightAverage[VisionModel]

    def start_folder(self, data: _TrainingData, resume: bool) -> None:
        if self.workers.is_first:
            start_run_folder(self.folder, self.config, data.dataset, resume)
        self.workers.barrier()

    def resume(self, memory: Path | None) -> int:
        """Load the newest state, which the first worker chooses, and return the number of steps done."""
        checkpoints = self.folder / "checkpoints"
        newest = self.workers.share_of_first(newest_state(checkpoints, memory))
        if newest is None:
            raise UserError(f"nothing to resume: {checkpoints} holds no checkpoint; run without --resume")
        place, step = newest
        load_checkpoint(place, step, self.model, self.average.model, self.optimizer)
        return step

    def save_checkpoint(self, done: int) -> None:
        """Write the state after `done` steps."""
        phase("checkpoint data")
        if self.workers.is_first:
            checkpoints = self.folder / "checkpoints"
            save_checkpoint(checkpoints, done, self.model, self.average.model, self.optimizer)
        self.workers.barrier()

    def save_weights(self) -> None:
        """Export the averaged weights."""
        if self.workers.is_first:
            save_weights(self.average.model, self.folder / WEIGHTS, {"model": self.config.model.name})
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
            "weights_sha256": weights_sha256(self.average.model),
        }


def _build(workers: Workers, config: RunConfig, num_classes: int, resume: bool) -> tuple[VisionModel, str]:
    """Return the model with its first weights, on the worker's device, and what was loaded."""
    seed_everything(config.seed)
    model = build_model(config.model, num_classes)
    report = "weights: of the newest state" if resume else "weights: random"
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
    phase("evaluation")
    if data.validation is None:
        return Evaluation({}, None)
    return evaluate_model(model, task, data.validation, config, mesh, lambda done, total: phase("evaluation"))


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
    parallel: DataParallel,
    model: VisionModel,
) -> list[str]:
    """Name the microbatches whose loss is not finite, or else the first parameter whose gradient is not."""
    faults = []
    for index in (~terms.isfinite()).any(dim=1).nonzero().flatten().tolist():
        ranks = range(parallel.workers.size)
        place = next(r for r in ranks if index in parallel.leaves_of_worker(len(terms), r))
        first, sharing = place * parallel.sharing.size, parallel.sharing.size
        worker = f"worker {first}" if sharing == 1 else f"workers {first} to {first + sharing - 1}"
        values = zip(task.term_names, terms[index].tolist(), strict=True)
        samples = ", ".join(data.samples.describe(id) for id in data.pieces(step)[index])
        faults.append(
            f"the loss is not finite in step {step + 1}, microbatch {index}, on {worker} "
            f"({', '.join(f'{name} {value}' for name, value in values)}); samples: {samples}"
        )
    if not faults:
        gradients = ((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
        bad = next((name for name, gradient in gradients if not gradient.isfinite().all()), "none")
        samples = ", ".join(data.samples.describe(id) for piece in data.pieces(step) for id in piece)
        faults.append(
            f"the gradient is not finite in step {step + 1}; first bad parameter: {bad}; samples: {samples}"
        )
    return faults
