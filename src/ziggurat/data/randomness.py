"""Keyed randomness: every random choice is a pure function of the run's seed and of what it is for.

No part of the data draws from a global generator, so that a sample looks the same whichever process makes it, in
whichever order, however often. Each purpose has a stream of its own: two purposes never share random numbers.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are for; the numbers are part of every run's definition and never change."""

    ORDER = 1
    AUGMENTATION = 2
    SCENE = 3
    SIDE = 4
    BLOCKS = 5
    REPEATS = 6
    MEMBERS = 7
    RARE_CROPS = 8
    GROUPS = 9


def keyed_generator(seed: int, purpose: Purpose, *key: int) -> np.random.Generator:
    """Return the generator that belongs to `seed`, `purpose` and `key` alone.

    Args:
        seed: Seed of the run or of the data set, not negative.
        purpose: Separates the streams of random numbers.
        key: Numbers that name the thing, such as the epoch and the sample; not negative.

    References:
        Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011 (Philox, a counter-based generator).
        Its 128-bit key is hashed from all the numbers by NumPy's ``SeedSequence``.

    Example:
        >>> first = keyed_generator(0, Purpose.ORDER, 3).permutation(5)
        >>> bool((first == keyed_generator(0, Purpose.ORDER, 3).permutation(5)).all())
        True
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(int(purpose), *key))
    return np.random.Generator(np.random.Philox(sequence))
