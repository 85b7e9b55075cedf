"""What training does with the target of a sample, whatever it is: the half of a task that the data needs to know.

A *target* is what is to be predicted for one sample (objects, a label, a mask); *targets* are those of a microbatch. The
sampler, the loader and the microbatch pass both on, and only a task looks into them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from ziggurat.config import DataConfig
from ziggurat.data.batch import Part
from ziggurat.data.dataset import Dataset
from ziggurat.data.extents import volume
from ziggurat.data.transforms import Augmentation, resize_factors


class TargetKind(Protocol):
    """Reads targets, cuts them as their images are cut, stacks them, and draws random ones.

    Attributes:
        is_cached: Whether reading one takes long, so that those read last are kept; they are then tensors.
    """

    is_cached: bool

    def num_samples(self, dataset: Any, index: int, config: DataConfig) -> int:
        """Return for how many samples of an epoch an image counts, 1 or more."""
        ...

    def read(self, dataset: Any, index: int) -> Any:
        """Return what is to be predicted for a whole image, in its pixels."""
        ...

    def cut(self, target: Any, augmentation: Augmentation, config: DataConfig, part: Part | None) -> Any:
        """Return what is to be predicted for a crop, moved as `augment_image` moves the image.

        Args:
            target: Of the whole image; not written to.
            augmentation: What happens to the image.
            config: Says how large the crop is.
            part: What this worker has of the crop; None for all of it.
        """
        ...

    def stack(self, targets: Sequence[Any], rows: int, columns: int) -> Any:
        """Return the targets of a microbatch.

        Args:
            targets: Of each sample, one at least.
            rows: Rows of the padded images, or of what this worker answers for of each.
            columns: The same of columns.

        Returns:
            A tensor, a dataclass of tensors, or a tuple, list or dictionary of such.
        """
        ...

    def draw(
        self,
        generator: torch.Generator,
        num_classes: int,
        count: int,
        extent: tuple[int, int],
        part: Part | None,
    ) -> Any:
        """Return random targets of a microbatch, for steps that are verified.

        Args:
            generator: Gives all numbers.
            num_classes: Classes of the model.
            count: Images.
            extent: Rows and columns of each.
            part: What this worker has of each; None for all of it.
        """
        ...


def num_crops(dataset: Dataset, index: int, config: DataConfig) -> int:
    """Return how many crops fit into an image's area, 1 at least.

    So an epoch sees about every pixel once, and objects are seen equally often in large and in small images.
    """
    record = dataset.record(index)
    factors = resize_factors(record.extent, config, record.spacing)
    share: float = volume(record.extent) * math.prod(factors) / config.crop ** len(factors)
    return max(1, round(share))
