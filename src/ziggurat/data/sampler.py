"""Which samples a step sees, as a pure function of (seed, step).

An epoch is a permutation of the samples keyed by (seed, epoch), cut into global batches::

    epoch 0 (7 samples, batch 3):  [4 1 6] [0 3 5] [2]      steps 0 1 2
    epoch 1:                       [2 6 0] [5 4 1] [3]      steps 3 4 5

The last batch of an epoch is smaller where the batch size does not divide the samples: none is repeated to fill it, none is
dropped. The number of workers plays no part.

Where classes are rare, an epoch may have samples several times (`data.balance`). Each sample has a factor, of which the whole part
is how often an epoch has it at least, and the fraction how probable it is that it comes once more, drawn anew for each
(seed, epoch, sample)::

    factors 1.0 2.5 1.0:  epoch 0 [1 1' 0] [2]      1' is the same image, cut and changed in another way
                          epoch 1 [1' 2 1''] [0 1]
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from ziggurat.data.batch import SampleId
from ziggurat.data.randomness import Purpose, keyed_generator


class Sampler:
    """The order in which samples are trained on.

    Args:
        num_samples: Samples, at least 1.
        batch_size: Samples of a step (the global batch), at least 1.
        seed: The run's seed.
        factors: How often an epoch has each sample on average, 1 or more each; None has each once.
        groups: Of each sample: those of one group are trained on together (`grouped_order`); None has all in any order.

    Example:
        >>> sampler = Sampler(num_samples=5, batch_size=2, seed=0)
        >>> [len(sampler.batch(step)) for step in range(4)]
        [2, 2, 1, 2]
        >>> sorted(id.sample for step in range(3) for id in sampler.batch(step))
        [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        factors: Sequence[float] | np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> None:
        if num_samples < 1 or batch_size < 1:
            raise ValueError(
                f"num_samples and batch_size must be positive: got {num_samples} and {batch_size}"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.factors = None if factors is None else np.asarray(factors, np.float64)
        if self.factors is not None and (len(self.factors) != num_samples or not (self.factors >= 1).all()):
            raise ValueError(f"{num_samples} samples need as many factors of 1 or more: got {self.factors}")
        self.groups = groups
        self._starts = [0]  # the first step of each epoch, as far as they were asked for
        self._order: tuple[int, np.ndarray] | None = None

    def num_steps(self, epochs: int) -> int:
        """Return the steps of so many epochs."""
        if self.factors is None:
            return epochs * -(-self.num_samples // self.batch_size)
        while len(self._starts) <= epochs:
            size = int(self.repeats(len(self._starts) - 1).sum())
            self._starts.append(self._starts[-1] - (-size // self.batch_size))
        return self._starts[epochs]

    def epoch(self, step: int) -> int:
        """Return the epoch that a step belongs to."""
        if self.factors is None:
            return step // self.num_steps(1)
        while self._starts[-1] <= step:
            self.num_steps(len(self._starts))
        return bisect_right(self._starts, step) - 1

    def batch(self, step: int) -> tuple[SampleId, ...]:
        """Return the global batch of `step` in canonical order; steps may be asked for in any order."""
        epoch = self.epoch(step)
        start = (step - self.num_steps(epoch)) * self.batch_size
        chosen = self._epoch_order(epoch)[:, start : start + self.batch_size]
        return tuple(SampleId(epoch, sample, repeat) for sample, repeat in chosen.T.tolist())

    def repeats(self, epoch: int) -> np.ndarray:
        """Return how often an epoch has each sample, int64, shape ``(num_samples,)``.

        References:
            Gupta et al., LVIS, 2019, appendix B.2; rounded as Detectron2's ``RepeatFactorTrainingSampler`` rounds: a fraction of 0.4
            is 1 with a probability of 0.4. https://arxiv.org/abs/1908.03195
        """
        if self.factors is None:
            return np.ones(self.num_samples, np.int64)
        whole = np.floor(self.factors)
        drawn = keyed_generator(self.seed, Purpose.REPEATS, epoch).random(self.num_samples)
        return (whole + (drawn < self.factors - whole)).astype(np.int64)

    def smallest_microbatch(self, num_microbatches: int, num_steps: int) -> int:
        """Return the samples of the smallest microbatch of so many steps, 1 at least."""
        last = self.epoch(num_steps - 1)
        sizes = [int(self.repeats(epoch).sum()) for epoch in range(last + 1)]
        left = num_steps - self.num_steps(last)  # steps of the last epoch
        return min(
            smallest_microbatch(size, self.batch_size, num_microbatches, left if epoch == last else 0)
            for epoch, size in enumerate(sizes)
        )

    def _epoch_order(self, epoch: int) -> np.ndarray:
        """Return the samples of an epoch in order, and of each which repeat it is, shape ``(2, samples)``.

        The last one is kept, as it takes time for millions of samples.
        """
        if self._order is None or self._order[0] != epoch:
            repeats = self.repeats(epoch)
            samples = np.repeat(np.arange(self.num_samples), repeats)
            places = np.arange(len(samples)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
            order = keyed_generator(self.seed, Purpose.ORDER, epoch).permutation(len(samples))
            if self.groups is not None:
                generator = keyed_generator(self.seed, Purpose.GROUPS, epoch)
                order = order[grouped_order(self.groups[samples[order]], self.batch_size, generator)]
            self._order = epoch, np.stack([samples, places])[:, order]
        return self._order[1]


def grouped_order(groups: np.ndarray, batch_size: int, generator: np.random.Generator) -> np.ndarray:
    """Return places of samples in an order in which a batch has samples of one group, or of two where one ends.

    As without groups, one batch may be smaller, the last one. Which samples it has is drawn, as is the order of all others.

    Args:
        groups: Of each sample, in the order in which those of one group follow each other, shape ``(N,)``.
        batch_size: Samples of a batch.
        generator: Draws.

    Example:
        >>> groups = np.array([0, 1, 0, 1, 0])
        >>> order = grouped_order(groups, 2, np.random.default_rng(0))
        >>> order.tolist(), groups[order].tolist()
        ([0, 2, 4, 1, 3], [0, 0, 0, 1, 1])
    """
    by_group = np.argsort(groups, kind="stable")
    full, rest = divmod(len(groups), batch_size)
    first = int(generator.integers(0, full + 1)) * batch_size  # of the small batch
    batches = np.delete(by_group, np.s_[first : first + rest]).reshape(full, batch_size)
    last = by_group[first : first + rest]
    return np.concatenate([batches[generator.permutation(full)].reshape(-1), last])


def microbatch_ids(
    batch: tuple[SampleId, ...], batch_size: int, num_microbatches: int
) -> list[tuple[SampleId, ...]]:
    """Cut a global batch into microbatches of fixed size.

    Args:
        batch: The samples of a step; fewer than `batch_size` where an epoch ends.
        batch_size: Samples of a full global batch.
        num_microbatches: Pieces of a full global batch.

    Returns:
        Pieces of ``batch_size / num_microbatches`` samples, in order; the last may be smaller, none is empty.

    Raises:
        ValueError: If `num_microbatches` does not divide `batch_size`.

    Example:
        >>> batch = tuple(SampleId(0, sample) for sample in range(5))
        >>> [len(piece) for piece in microbatch_ids(batch, batch_size=8, num_microbatches=4)]
        [2, 2, 1]
    """
    size, rest = divmod(batch_size, num_microbatches)
    if rest or not size:
        raise ValueError(
            f"the number of microbatches must divide the batch size: got {num_microbatches} and {batch_size}"
        )
    return [batch[start : start + size] for start in range(0, len(batch), size)]


def smallest_microbatch(num_samples: int, batch_size: int, num_microbatches: int, num_steps: int = 0) -> int:
    """Return the samples of the smallest microbatch of a run: of the last one of an epoch, if it comes to it.

    Args:
        num_samples: Samples of an epoch, at least 1.
        batch_size: Samples of a full global batch.
        num_microbatches: Pieces of a full global batch; a divisor of `batch_size`.
        num_steps: Steps of the run; 0 stands for whole epochs.

    Example:
        >>> smallest_microbatch(17, batch_size=8, num_microbatches=4)
        1
        >>> smallest_microbatch(17, batch_size=8, num_microbatches=4, num_steps=2)
        2
    """
    size = batch_size // num_microbatches
    if 0 < num_steps * batch_size < num_samples:
        return size
    return num_samples % batch_size % size or size
