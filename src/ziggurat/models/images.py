"""From pixels to what a model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ziggurat.config import DataConfig, read_numbers
from ziggurat.errors import UserError
from ziggurat.models.vision import VisionModel

# mean and deviation of each channel of ImageNet, in [0, 1], as torchvision has them
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Normalization:
    """How samples become what a model sees.

    Attributes:
        mean: Of each channel.
        std: The deviation of each channel.
        white: What samples are divided by before.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: float = 255.0

    @classmethod
    def of(cls, config: DataConfig, model: VisionModel) -> Normalization:
        """Return that of a run: measured over its data, or that of the model's weights.

        Raises:
            UserError: If bands are seen in their own type, of which the weights say nothing, and nothing was measured.
        """
        if not config.mean and config.has_own_bands:
            raise UserError(
                f"data.bands={config.bands} needs data.mean and data.std, which training measures: give them, or data.bands=rgb"
            )
        if not config.mean:
            return cls(tuple(model.mean), tuple(model.std))
        return cls(read_numbers(config.mean), read_numbers(config.std), 1.0)

    def __call__(self, images_BCHW: Tensor, sizes: Sequence[tuple[int, ...]]) -> Tensor:
        """Return ``(sample / white - mean) / std``, and zero in the padding and where there is nothing.

        Args:
            images_BCHW: Samples, padded behind the pixels, NaN where there is nothing; the memory format is kept. Of any number of dims.
            sizes: Extent of each image before padding: of rows and columns.

        Returns:
            float32, of the same shape.

        Example:
            >>> half = Normalization((0.5,) * 3, (0.5,) * 3)
            >>> half(torch.full((1, 3, 1, 2), 255, dtype=torch.uint8), [(1, 1)])[0, 0]
            tensor([[1., 0.]])
            >>> Normalization((100.0,), (10.0,), 1.0)(torch.tensor([[[[130.0, torch.nan]]]]), [(1, 2)])
            tensor([[[[3., 0.]]]])
        """
        dims = images_BCHW.dim() - 2
        mean_C11, std_C11 = (
            torch.tensor(v, device=images_BCHW.device, dtype=torch.float32).view(-1, *[1] * dims)
            for v in (self.mean, self.std)
        )
        normalized = images_BCHW.to(torch.float32, copy=True)
        if self.white != 1:
            normalized.div_(self.white)
        # the order of operations is torchvision's: the same bits
        normalized.sub_(mean_C11).div_(std_C11)
        if images_BCHW.is_floating_point():
            normalized.nan_to_num_(nan=0.0)
        for image_CHW, size in zip(normalized, sizes, strict=True):
            for dim, pixels in enumerate(size, start=1):
                if pixels < image_CHW.shape[dim]:
                    image_CHW.narrow(dim, pixels, image_CHW.shape[dim] - pixels).zero_()
        return normalized


class Samples(NamedTuple):
    """Images for a model that normalizes them itself.

    Attributes:
        images_BCHW: Samples as they are read, float32, padded behind each image.
        sizes_B2: Rows and columns of each image before padding, int64.
    """

    images_BCHW: Tensor
    sizes_B2: Tensor


class AsSamples(Normalization):
    """Leaves normalization to the model."""

    def __call__(self, images_BCHW: Tensor, sizes: Sequence[tuple[int, ...]]) -> Samples:  # type: ignore[override]  # what its model takes
        """Return the samples, with the sizes of the images."""
        return Samples(images_BCHW.float(), torch.tensor(sizes, dtype=torch.int64))
