"""One network of several: the mean of the weights of runs that have the same network, its batch norms measured anew.

References:
    Wortsman et al., Model soups, 2022, section 2. https://arxiv.org/abs/2203.05482
    Izmailov et al., Averaging weights leads to wider optima and better generalization, 2018, section 3.2 (batch norm).
    https://arxiv.org/abs/1803.05407
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ziggurat.config import RunConfig, run_task
from ziggurat.data.dataset import Dataset
from ziggurat.data.sampler import Sampler
from ziggurat.data.samples import TrainingSamples
from ziggurat.models.images import Normalization
from ziggurat.models.vision import VisionModel
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.tasks.registry import find_task
from ziggurat.training.feed import autocast
from ziggurat.training.shapes import StepShapes, groups_of

Weights = Mapping[str, Tensor]


def mean_of(weights: Sequence[Weights]) -> dict[str, Tensor]:
    """Return the mean of weights and buffers by the same names, added up in float64; whole numbers are the first one's.

    Example:
        >>> mean_of([{"a": torch.tensor([1.0]), "n": torch.tensor(3)}, {"a": torch.tensor([2.0]), "n": torch.tensor(5)}])
        {'a': tensor([1.5000]), 'n': tensor(3)}
    """
    found = {}
    for name, first in weights[0].items():
        if first.is_floating_point():
            total = torch.stack([one[name].double() for one in weights]).sum(dim=0)
            found[name] = (total / len(weights)).to(first.dtype)
        else:
            found[name] = first.clone()
    return found


def unlike(first: Weights, other: Weights) -> list[str]:
    """Return the names of what only one of two networks has, or has in another shape or type."""
    names = sorted(first.keys() | other.keys())
    return [
        name
        for name in names
        if name not in first
        or name not in other
        or (first[name].shape, first[name].dtype) != (other[name].shape, other[name].dtype)
    ]


def greedy_choice(
    scores: Sequence[float], score_of: Callable[[Sequence[int]], float]
) -> tuple[list[int], float]:
    """Return which of several runs a greedy soup is made of, and its score.

    From the best to the worst each is added if the soup does not get worse by it.

    Args:
        scores: Of each run alone, higher is better; of equals the earlier is the better.
        score_of: Returns the score of a soup of several runs.

    Example:
        >>> greedy_choice([0.5, 0.9, 0.1], lambda runs: 0.8)
        ([1], 0.9)
    """
    order = sorted(range(len(scores)), key=lambda number: -scores[number])
    chosen, best = order[:1], scores[order[0]]
    for number in order[1:]:
        score = score_of([*chosen, number])
        if score >= best:
            chosen, best = [*chosen, number], score
    return chosen, best


def measure_batch_norms(model: VisionModel, dataset: Dataset, config: RunConfig, most_batches: int) -> int:
    """Measure the statistics of batch norms anew, over training samples; all else stays, and the model's mode does.

    The mean over batches is that of each batch's mean and variance, as many samples as a microbatch of training had.

    Args:
        model: On its device.
        dataset: The training data.
        config: Of the run: how samples are cut, and how many are a microbatch.
        most_batches: At most so many batches, of the first epoch's order.

    Returns:
        The number of batches; 0 of a network without running statistics of batches.
    """
    norms = [one for one in model.modules() if isinstance(one, _BatchNorm) and one.track_running_stats]
    if not norms:
        return 0
    samples = TrainingSamples(dataset, find_task(run_task(config)).targets, config.data, config.seed)
    size = max(1, config.train.batch_size // max(1, config.train.microbatches))
    sampler = Sampler(len(samples), size, config.seed, groups=groups_of(samples, config, Workers()))
    shapes = StepShapes(config, samples, sampler)
    normalize, device = Normalization.of(config.data, model), next(model.parameters()).device
    before, momenta = [(one, one.training) for one in model.modules()], [one.momentum for one in norms]
    model.eval()
    for one in norms:
        one.reset_running_stats()
        one.momentum = None  # a plain mean over batches
        one.train()
    # a last batch of a few samples would count as much as the others
    count = min(most_batches, max(1, len(samples) // size))
    for step in range(count):
        shaped = samples.at(shapes(step))
        images = torch.stack([shaped.sample(id).image_CHW for id in sampler.batch(step)]).to(device)
        normalized = normalize(images, [tuple(images.shape[2:])] * len(images))
        if config.train.channels_last:
            normalized = normalized.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), autocast(device, config):
            model(normalized)
    for one, momentum in zip(norms, momenta, strict=True):
        one.momentum = momentum
    for module, was_training in before:
        module.training = was_training
    return count


def has_batch_norms(model: nn.Module) -> bool:
    """Whether a network has running statistics of batches."""
    return any(isinstance(one, _BatchNorm) and one.track_running_stats for one in model.modules())
