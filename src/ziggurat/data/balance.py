"""How unequal the classes of a data set are, and how often an epoch has the images of rare ones.

Shapes: ``K`` classes, ``N`` images, ``E`` pairs of an image and a class that it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

Balance = Literal["none", "repeat", "repeat-instances"]


@runtime_checkable
class CountsClasses(Protocol):
    """A kind of targets whose classes can be counted.

    Attributes:
        counted: What there may be several of in an image: ``objects``, ``images`` or ``pixels``.
    """

    counted: str

    def count_classes(self, dataset: Any, index: int) -> dict[int, int]:
        """Return how much an image has of each class that it has, by label."""
        ...


@dataclass(frozen=True)
class ClassCounts:
    """Which classes each image has, and how much of each.

    Attributes:
        num_images: All images.
        num_classes: All classes.
        unit: What is counted: ``objects``, ``images`` or ``pixels``.
        image_E: The image of each pair, rising, int64.
        label_E: Its class, int64.
        count_E: How much the image has of it, int64.
    """

    num_images: int
    num_classes: int
    unit: str
    image_E: np.ndarray
    label_E: np.ndarray
    count_E: np.ndarray

    @classmethod
    def of(cls, images: Sequence[Mapping[int, int]], num_classes: int, unit: str = "objects") -> ClassCounts:
        """Return the counts of images, each given by what it has of each class.

        Example:
            >>> counts = ClassCounts.of([{0: 3}, {0: 1, 1: 1}, {}], num_classes=3)
            >>> counts.images_K.tolist(), counts.instances_K.tolist()
            ([2, 1, 0], [4, 1, 0])
        """
        triples = [
            (i, label, count)
            for i, image in enumerate(images)
            for label, count in sorted(image.items())
            if count
        ]
        columns = np.array(triples, np.int64).reshape(-1, 3).T
        return cls(len(images), num_classes, unit, *columns)

    @property
    def images_K(self) -> np.ndarray:
        """How many images have each class, int64."""
        return np.bincount(self.label_E, minlength=self.num_classes)

    @property
    def instances_K(self) -> np.ndarray:
        """How much there is of each class, int64."""
        total_K = np.zeros(self.num_classes, np.int64)
        np.add.at(total_K, self.label_E, self.count_E)
        return total_K

    @property
    def ratio(self) -> float:
        """How many times as many images the most frequent class has as the rarest that occurs; 1 where none does."""
        known = self.images_K[self.images_K > 0]
        return float(known.max() / known.min()) if len(known) else 1.0

    def shares(self, balance: Balance) -> np.ndarray:
        """Return how frequent each class is: the share of images, by instances its geometric mean with that of all instances; shape ``(K,)``."""
        share_K: np.ndarray = self.images_K / max(1, self.num_images)
        if balance == "repeat-instances":
            instances_K = self.instances_K
            share_K = np.sqrt(share_K * (instances_K / max(1, instances_K.sum())))
        return share_K

    def repeat_factors(self, balance: Balance, threshold: float) -> np.ndarray:
        """Return how often an epoch has each image on average, float64, 1 or more, shape ``(N,)``.

        With ``f`` of a class the share of images that have it, or, by instances, the geometric mean of this and of its share of all
        instances::

            r(class) = max(1, sqrt(threshold / f))        r(image) = the largest of its classes, 1 without any

        Args:
            balance: ``none`` has each once.
            threshold: Classes with a smaller share are repeated.

        References:
            Gupta et al., LVIS: A Dataset for Large Vocabulary Instance Segmentation, 2019, appendix B.2.
            https://arxiv.org/abs/1908.03195
            Yaman et al., Instance-Aware Repeat Factor Sampling for Long-Tailed Object Detection, 2023, equation 3.
            https://arxiv.org/abs/2305.08069

        Example:
            >>> counts = ClassCounts.of([{0: 1}, {0: 1}, {0: 1}, {0: 1, 1: 1}], num_classes=2)
            >>> counts.repeat_factors("repeat", threshold=1.0).tolist()  # class 1 is in a quarter of the images
            [1.0, 1.0, 1.0, 2.0]
        """
        factors_N = np.ones(self.num_images)
        if balance == "none":
            return factors_N
        share_K = self.shares(balance)
        # a class without images repeats none: its factor is not used
        factor_K = np.maximum(1.0, np.sqrt(threshold / np.where(share_K > 0, share_K, 1.0)))
        np.maximum.at(factors_N, self.image_E, factor_K[self.label_E])
        return factors_N
