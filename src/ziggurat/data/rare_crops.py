"""Crops that are placed so that rare classes are seen: a pure function of (seed, epoch, sample).

With a probability that the user sets, a crop is not placed anywhere, but around something of its image::

    1. one of the classes that the image has, with a probability in proportion to 1 / f of the class
    2. one of its objects (one of its pixels, in a mask), each as likely as any other
    3. a place at which the crop holds all of the object, or, where that is larger, nothing else along this dim; each as likely

``f`` is how frequent a class is, as ``data.balance=repeat-instances`` has it. Size, mirroring, turns and colours are drawn as without.

References:
    Isensee et al., nnU-Net, 2021, supplement ("oversampling of foreground"), where classes are equally likely.
    https://doi.org/10.1038/s41592-020-01008-z

Shapes: ``K`` classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ziggurat.data.batch import SampleId
from ziggurat.data.extents import Region
from ziggurat.data.randomness import Purpose, keyed_generator
from ziggurat.data.transforms import Focus


@runtime_checkable
class LocatesClasses(Protocol):
    """A kind of targets whose classes lie somewhere in the image."""

    def labels(self, target: Any) -> list[int]:
        """Return the labels that a target has, of an image or of a crop, rising."""
        ...

    def locate(self, target: Any, label: int, drawn: float) -> Region:
        """Return where one of the objects of a label lies, which the target has.

        Args:
            target: Of the whole image.
            label: One of its `labels`.
            drawn: In ``[0, 1)``; every object (or pixel) is as likely.

        Returns:
            In pixels of the image, of a pixel at least.
        """
        ...


@dataclass(frozen=True)
class RareCrops:
    """How crops are placed around rare classes.

    Attributes:
        probability: That a crop is.
        weight_K: Of each class, not negative: it is drawn in proportion to it, among those of an image.
        seed: The run's seed.
    """

    probability: float
    weight_K: np.ndarray
    seed: int

    def focus(self, id: SampleId, kind: LocatesClasses, target: Any, dims: int) -> Focus | None:
        """Return what a sample's crop is placed around; None if it may lie anywhere.

        Args:
            id: Names the sample.
            kind: Of the target.
            target: Of the whole image.
            dims: Of the image.
        """
        generator = keyed_generator(self.seed, Purpose.RARE_CROPS, *id.key)
        whether, which, where, *places = generator.random(3 + dims).tolist()
        if whether >= self.probability:
            return None
        labels = kind.labels(target)
        if not labels:
            return None
        label = choose(labels, self.weight_K[labels], which)
        return Focus(kind.locate(target, label, where), tuple(places))


def choose(labels: Sequence[int], weights: np.ndarray, drawn: float) -> int:
    """Return one of some labels, each with a probability in proportion to its weight.

    Example:
        >>> [choose([2, 5], np.array([1.0, 3.0]), drawn) for drawn in (0.0, 0.24, 0.25, 0.99)]
        [2, 2, 5, 5]
    """
    ends = np.cumsum(weights)
    return labels[min(int(np.searchsorted(ends, drawn * ends[-1], side="right")), len(labels) - 1)]


class HasTargets(Protocol):
    """Samples whose targets can be made without their images."""

    def target(self, id: SampleId) -> Any:
        """Return the target of a crop."""
        ...


def count_crops(samples: HasTargets, kind: LocatesClasses, ids: Sequence[SampleId]) -> Counter[int]:
    """Return in how many of some crops each class is seen, by label."""
    return Counter(label for id in ids for label in kind.labels(samples.target(id)))
