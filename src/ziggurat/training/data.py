"""The data of a run: which samples each step sees, this worker's part of them, and what is evaluated on."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ziggurat.config import RunConfig, TrainConfig, run_task
from ziggurat.data.balance import ClassCounts
from ziggurat.data.batch import Microbatch, Part, SampleId
from ziggurat.data.dataset import CanLeaveOut, Dataset, left_out_of, notes_of
from ziggurat.data.decoding import spoiled_images
from ziggurat.data.extents import Extent
from ziggurat.data.faults import Fault
from ziggurat.data.loader import LoaderSettings, load_steps
from ziggurat.data.regions import RegionDataset
from ziggurat.data.sampler import microbatch_ids
from ziggurat.data.samples import TrainingSamples
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.heartbeat import phase
from ziggurat.runs.progress import Meter
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.tasks.opening import open_dataset
from ziggurat.tasks.registry import find_task
from ziggurat.training.balancing import balanced_sampler, count_classes, crops_seen, needs_counts, rare_crops
from ziggurat.training.members import fold_of_member, has_fold, of_member
from ziggurat.training.normalizing import is_measured, measured
from ziggurat.training.shapes import StepShapes, groups_of


@dataclass(frozen=True)
class OpenedData:
    """What a run is trained and evaluated on, opened: the same on every worker, and under every plan.

    Attributes:
        config: Of the run, with what was measured over the images.
        dataset: What is trained on.
        validation: What is evaluated on; None where there is nothing.
        counts: What each training image has of each class; None where no setting needs it.
        said: Notes that the user has read already.
        measured: What there is to say of what was measured now.
    """

    config: RunConfig
    dataset: Dataset
    validation: Dataset | None
    counts: ClassCounts | None
    said: frozenset[str]
    measured: tuple[str, ...] = ()


def opens_together(config: RunConfig) -> bool:
    """Whether the workers of a run look at its images together, each at a part of them, as they open the data."""
    return config.data.on_error == "skip" or is_measured(config.data) or bool(needs_counts(config))


def open_data(config: RunConfig, workers: Workers) -> OpenedData:
    """Open the data of a run.

    With ``data.on_error=skip`` all images are decoded first, each by one of the workers, and what cannot be is left out
    everywhere.

    Args:
        config: Of the run.
        workers: All of them call this; one by itself may where `opens_together` says so.

    Raises:
        UserError: On every worker, if the data cannot be used.
    """
    dataset = open_dataset(config.data.path, "train", run_task(config), config.data, config.digits)
    assert dataset is not None  # only the validation split may be missing
    dataset = of_member(dataset, config.members, find_task(run_task(config)).targets)
    said = frozenset(notes_of(dataset))  # by who has started the run
    if config.data.on_error == "skip":
        dataset = _without_spoiled(dataset, config, workers)
    config, notes = measured(config, dataset, workers)
    validation = open_validation(config, dataset.classes)
    said |= frozenset(notes_of(validation))
    return OpenedData(
        config, dataset, validation, count_classes(config, dataset, workers), said, tuple(notes)
    )


class TrainingData:
    """The data of a run: which samples a step sees, and this worker's part of them.

    Args:
        config: Of the run.
        mesh: All workers, which make this together.
        opened: The data of the run as they were opened for another plan; None opens them. All workers have them, or those that have
            not open them by themselves.

    Attributes:
        config: Of the run, with what was measured over the images.
        shape: From a step to the shape of its crops.
        counts: What each training image has of each class; None where no setting needs it.

    Raises:
        UserError: On every worker, if the data cannot be used.
    """

    def __init__(self, config: RunConfig, mesh: Mesh, opened: OpenedData | None = None) -> None:
        is_new = opened is None
        opened = opened or open_data(config, mesh.workers)
        self.config = config = opened.config if is_new else config
        self.dataset, self.validation, self.counts = opened.dataset, opened.validation, opened.counts
        self.classes, self.said, self._measured = self.dataset.classes, opened.said, list(opened.measured)

        def part_of(extent: Extent) -> Part | None:
            return mesh.part(*extent)

        part, kind = part_of((config.data.crop,) * 2), find_task(run_task(config)).targets
        rare = rare_crops(config, self.counts)
        self.samples = TrainingSamples(self.dataset, kind, config.data, config.seed, part, part_of, rare)
        groups = groups_of(self.samples, config, mesh.workers)
        self.sampler, balance = balanced_sampler(config, self.samples, self.counts, groups)
        self.shape = StepShapes(config, self.samples, self.sampler)
        self.num_steps = self.length(config.train)
        self._measured += balance
        if is_new:  # else it was said
            self._measured += crops_seen(self.samples, mesh.workers) + self.shape.said(self.num_steps)
        self.notices: list[str] = []  # of what happened while samples were loaded

    @property
    def opened(self) -> OpenedData:
        """What another plan of the run need not open again."""
        return OpenedData(self.config, self.dataset, self.validation, self.counts, self.said)

    @property
    def left_out(self) -> dict[str, tuple[Fault, ...]]:
        """The faults for which annotations and images were left out, by split."""
        return {"train": left_out_of(self.dataset), "val": left_out_of(self.validation)}

    @property
    def notes(self) -> list[str]:
        """What was guessed, mended or left out, in a sentence each."""
        return list(dict.fromkeys([*notes_of(self.dataset), *notes_of(self.validation), *self._measured]))

    def __str__(self) -> str:
        train = self.config.train
        unit = "regions" if isinstance(self.dataset, RegionDataset) else "images"
        factors = self.sampler.factors
        samples = f"{len(self.samples)}" if factors is None else f"about {factors.sum():.0f}"
        return (
            f"{self.config.data.path}: {len(self.dataset)} {unit}, {samples} samples an epoch, "
            f"{self.num_steps} steps of {train.batch_size} samples in {train.microbatches} microbatches"
        )

    def length(self, train: TrainConfig) -> int:
        """Return the steps of a whole run on these data."""
        return train.steps or self.sampler.num_steps(train.epochs)

    def describe(self, ids: Sequence[SampleId]) -> str:
        """Name samples in a message."""
        return ", ".join(self.samples.describe(id) for id in ids)

    def pieces(self, step: int) -> list[tuple[SampleId, ...]]:
        """Return the samples of each microbatch of a step."""
        train = self.config.train
        return microbatch_ids(self.sampler.batch(step), train.batch_size, train.microbatches)

    def take_notices(self, microbatches: list[Microbatch], mesh: Mesh) -> tuple[int, list[str]]:
        """Return how many samples of this worker's microbatches were replaced, and what there is to say.

        Workers that compute the same images, or parts of them, read the same ones; the first of them speaks.
        """
        speaks = mesh.turn[0] == 0
        faults = [fault for microbatch in microbatches for fault in microbatch.faults if speaks]
        notices, self.notices[:] = faults + self.notices, []
        return len(faults), notices

    def steps(
        self, parallel: Parallel[Any], first: int
    ) -> Generator[tuple[int, list[Microbatch], float], None, None]:
        """Yield each step's number, this worker's microbatches, and the seconds that were waited for them."""

        def mine(step: int) -> list[tuple[int, tuple[SampleId, ...]]]:
            pieces = self.pieces(step)
            return [(index, pieces[index]) for index in parallel.microbatches_of(len(pieces))]

        device = parallel.mesh.workers.device
        config = self.config.data
        settings = LoaderSettings(config.workers, device.type == "cuda", config.on_error)
        loader = load_steps(
            self.samples, self.sampler, mine, first, self.num_steps, settings, self.notices.append, self.shape
        )
        begin = time.perf_counter()
        phase("data", first)
        for step, microbatches in enumerate(loader, start=first):
            yield step, [m.to(device) for m in microbatches], time.perf_counter() - begin
            begin = time.perf_counter()
            phase("data", step + 1)


def _without_spoiled(dataset: Dataset, config: RunConfig, workers: Workers) -> Dataset:
    """Return a data set without the images that cannot be decoded.

    Communication: one gather of the faults.
    """
    if not isinstance(dataset, CanLeaveOut):
        return dataset  # it is made, not read from files
    mine = range(workers.rank, len(dataset), workers.size)
    read = find_task(run_task(config)).targets.read
    with Meter("reading images", "images", workers.is_first) as meter:

        def progress(done: int) -> None:
            phase("data")
            meter(done, len(mine))

        spoiled = spoiled_images(dataset, mine, read, config.data.workers, progress)
    joined = {index: why for part in workers.gather(spoiled) for index, why in part.items()}
    rest = dataset.without(joined) if joined else dataset
    if not len(rest):
        raise UserError([next(iter(joined.values())), f"no image of {config.data.path} can be trained on"])
    return rest


def open_validation(config: RunConfig, classes: tuple[str, ...] | None) -> Dataset | None:
    """Open what a run is evaluated on, with the labels of `classes` (its own where these are not known).

    An annotation file that is trained on is not evaluated on, unless ``data.val`` names it too, or ``data.split=blocks`` divides its
    images. A member of a cross-validation is evaluated on its fold.

    Raises:
        UserError: If it cannot be opened, or has classes that the run does not know.
    """
    path, task = config.data.val or config.data.path, run_task(config)
    if has_fold(config.members):
        whole = open_dataset(config.data.path, "train", task, config.data, config.digits, classes)
        return None if whole is None else fold_of_member(whole, config.members, find_task(task).targets)
    if Path(path).is_file() and not config.data.val and config.data.split == "given":
        return None
    found = open_dataset(path, "val", task, config.data, config.digits, classes)
    if config.data.val and found is None:  # a folder of its own may have one split only, by whatever name
        return open_dataset(path, "train", task, config.data, config.digits, classes)
    return found
