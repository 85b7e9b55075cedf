"""Which samples a step sees, as a pure function of (seed, step).

An epoch is a permutation of the samples keyed by (seed, epoch), cut into global batches::

    epoch 0 (7 samples, batch 3):  [4 1 6] [0 3 5] [2]      steps 0 1 2
    epoch 1:                       [2 6 0] [5 4 1] [3]      steps 3 4 5

The last batch of an epoch is smaller where the batch size does not divide the samples: none is repeated, none is
dropped. The number of workers plays no part.
"""

from __future__ import annotations

import numpy as np

from ziggurat.data.batch import SampleId
from ziggurat.data.randomness import Purpose, keyed_generator


class Sampler:
    """The order in which samples are trained on.

    Args:
        num_samples: Samples of an epoch, at least 1.
        batch_size: Samples of a step (the global batch), at least 1.
        seed: The run's seed.

    Attributes:
        steps_per_epoch: Steps in which every sample is seen once.

    Example:
        >>> sampler = Sampler(num_samples=5, batch_size=2, seed=0)
        >>> [len(sampler.batch(step)) for step in range(4)]
        [2, 2, 1, 2]
        >>> sorted(id.sample for step in range(3) for id in sampler.batch(step))
        [0, 1, 2, 3, 4]
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int) -> None:
        if num_samples < 1 or batch_size < 1:
            raise ValueError(
                f"num_samples and batch_size must be positive: got {num_samples} and {batch_size}"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = -(-num_samples // batch_size)
        self._order: tuple[int, np.ndarray] | None = None

    def batch(self, step: int) -> tuple[SampleId, ...]:
        """Return the global batch of `step` in canonical order; steps may be asked for in any order."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.batch_size
        chosen = self._permutation(epoch)[start : start + self.batch_size]
        return tuple(SampleId(epoch, sample) for sample in chosen.tolist())

    def _permutation(self, epoch: int) -> np.ndarray:
        """Return the order of an epoch; the last one is kept, as it takes time for millions of samples."""
        if self._order is None or self._order[0] != epoch:
            generator = keyed_generator(self.seed, Purpose.ORDER, epoch)
            self._order = epoch, generator.permutation(self.num_samples)
        return self._order[1]


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
