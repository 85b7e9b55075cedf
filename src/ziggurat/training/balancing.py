"""How often each class occurs in the training data: counted once, by all workers together, where a setting needs it."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ziggurat.config import RunConfig, bands_of, run_task
from ziggurat.data.balance import ClassCounts, CountsClasses
from ziggurat.data.batch import SampleId
from ziggurat.data.dataset import Dataset
from ziggurat.data.rare_crops import LocatesClasses, RareCrops, count_crops
from ziggurat.data.sampler import Sampler
from ziggurat.data.samples import TrainingSamples
from ziggurat.errors import UserError
from ziggurat.models.probe import takes_one_image
from ziggurat.models.vision import VisionModel
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.heartbeat import phase
from ziggurat.runs.progress import Meter
from ziggurat.tasks.registry import find_task

MOST_CROPS = 512  # whose targets are made to tell what is seen in them
SHOWN_CLASSES = 10


def needs_counts(config: RunConfig) -> str:
    """Return the setting for which classes are counted; empty if none needs it."""
    data, loss = config.data, config.loss
    if data.balance != "none":
        return f"data.balance={data.balance}"
    if data.rare_crops:
        return f"data.rare_crops={data.rare_crops:g}"
    if loss.class_weights in ("inverse", "effective"):
        return f"loss.class_weights={loss.class_weights}"
    return "data.count_classes=always" if data.count_classes == "always" else ""


def count_classes(config: RunConfig, dataset: Dataset, workers: Workers) -> ClassCounts | None:
    """Return what each training image has of each class; None where no setting needs it.

    Raises:
        UserError: On every worker, if an annotation cannot be read, or the targets of the task have no classes to count.

    Communication: one gather of the counts.
    """
    setting = needs_counts(config)
    if not setting:
        return None
    kind = find_task(run_task(config)).targets
    if not isinstance(kind, CountsClasses):
        raise UserError(
            f"{setting} needs targets whose classes can be counted: the task {run_task(config)} has none (`count_classes` of its "
            "targets); leave it out"
        )
    mine = range(workers.rank, len(dataset), workers.size)
    found, faults = dict[int, dict[int, int]](), list[str]()
    with Meter("counting classes", "images", workers.is_first) as meter:
        for done, index in enumerate(mine, start=1):
            phase("data")
            try:
                found[index] = kind.count_classes(dataset, index)
            except UserError as error:
                faults += error.faults
            meter(done, len(mine))
    gathered = workers.gather((found, faults))
    if faults := [fault for _, some in gathered for fault in some]:
        raise UserError(faults)
    joined = {index: counts for part, _ in gathered for index, counts in part.items()}
    images = [joined[index] for index in range(len(dataset))]
    return ClassCounts.of(images, len(dataset.classes), kind.counted)


def balanced_sampler(
    config: RunConfig, samples: TrainingSamples, counts: ClassCounts | None, groups: np.ndarray | None = None
) -> tuple[Sampler, list[str]]:
    """Return which samples each step sees, and what there is to say of it.

    Args:
        config: Of the run.
        samples: Each has the factor of its image.
        counts: Of the images; needed where epochs are balanced.
        groups: Of each sample, where those of a step are of one; None has no groups.
    """
    data, batch_size, seed = config.data, config.train.batch_size, config.seed
    if counts is None or data.balance == "none":
        return Sampler(len(samples), batch_size, seed, groups=groups), []
    factors = samples.of_images(counts.repeat_factors(data.balance, data.repeat_threshold))
    said = (
        f"data.balance={data.balance}: {int((factors > 1).sum())} of {len(factors)} samples come more than once in an epoch, the rarest "
        f"{factors.max():.1f} times; an epoch has {factors.sum():.0f} samples on average"
    )
    if factors.max() == 1:
        said = (
            f"data.balance={data.balance} repeats nothing: no class is rarer than data.repeat_threshold={data.repeat_threshold:g}; "
            "raise it"
        )
    return Sampler(len(samples), batch_size, seed, factors, groups), [said]


def rare_crops(config: RunConfig, counts: ClassCounts | None) -> RareCrops | None:
    """Return how crops are placed around rare classes; None where they are not.

    Args:
        config: Of the run.
        counts: Of the images; needed where they are.

    Raises:
        UserError: If the targets of the task do not say where classes lie.
    """
    if counts is None or not config.data.rare_crops:
        return None
    if not isinstance(find_task(run_task(config)).targets, LocatesClasses):
        raise UserError(
            f"data.rare_crops={config.data.rare_crops:g} needs targets that say where classes lie: the task {run_task(config)} has none "
            "(`labels` and `locate` of its targets); leave it out"
        )
    share_K = counts.shares("repeat-instances")
    # of a class without images none is drawn
    return RareCrops(config.data.rare_crops, 1 / np.where(share_K > 0, share_K, 1.0), config.seed)


def crops_seen(samples: TrainingSamples, workers: Workers) -> list[str]:
    """Return in how many crops of the first epoch each class is seen, and in how many it would be without `rare_crops`; in a sentence.

    Args:
        samples: Of the run; each worker makes some of their targets.
        workers: All of them call this.

    Communication: one gather of the counts.
    """
    if samples.rare is None:
        return []
    kind, whole = samples.kind, samples.whole()
    assert isinstance(kind, LocatesClasses)  # else refused
    num = min(MOST_CROPS, len(samples))
    ids = [SampleId(0, number * len(samples) // num) for number in range(workers.rank, num, workers.size)]
    found, faults = (Counter[int](), Counter[int]()), list[str]()
    for id in ids:
        phase("data")
        try:
            found[0].update(count_crops(whole, kind, [id]))
            found[1].update(count_crops(whole.anywhere(), kind, [id]))
        except UserError as error:
            faults += error.faults
    gathered = workers.gather((found, faults))
    if faults := [fault for _, some in gathered for fault in some]:
        raise UserError(faults)
    with_, without = (sum((one[which] for one, _ in gathered), Counter[int]()) for which in (0, 1))
    return [_said_of_crops(samples, num, with_, without)]


def _said_of_crops(samples: TrainingSamples, num: int, with_: Counter[int], without: Counter[int]) -> str:
    classes = samples.dataset.classes
    rarest = sorted(range(len(classes)), key=lambda label: (without[label], label))[:SHOWN_CLASSES]
    said = ", ".join(
        f"{classes[label]} in {with_[label]}, without it in {without[label]}" for label in rarest
    )
    if with_ == without:
        said += "; it changes nothing where crops show all of what is on their images"
    return f"data.rare_crops={samples.config.rare_crops:g}: of {num} crops of the first epoch the rarest classes are seen: {said}"


def refuse_single_images(
    model: VisionModel, config: RunConfig, side: int, sampler: Sampler, num_steps: int
) -> None:
    """Refuse a balanced run that would come upon a microbatch of one image which a batch norm cannot take, and stop there.

    The epochs of other runs have one length, and are judged before a process starts.

    Args:
        model: The network.
        config: Of the run.
        side: Smallest side of its crops.
        sampler: Of the run.
        num_steps: Of the run.

    Raises:
        UserError: With what would leave no single image.
    """
    train = config.train
    if sampler.factors is None or sampler.smallest_microbatch(train.microbatches, num_steps) > 1:
        return
    if takes_one_image(model, side, bands_of(config.model)):
        return
    raise UserError(
        f"a batch norm of {config.model.name} needs microbatches of two images at least (of {side} x {side} pixels): with "
        f"data.balance={config.data.balance} an epoch of this run ends in a microbatch of one; use another --batch-size, fewer "
        "--microbatches, another --seed, or --set model.norm=group"
    )
