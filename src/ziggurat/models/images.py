"""From pixels to what a model sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# mean and deviation of each channel of ImageNet, in [0, 1], as torchvision has them
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalize_images(
    images_BCHW: Tensor, sizes: Sequence[tuple[int, ...]], mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Return ``(pixel / 255 - mean) / std``, and zero in the padding.

    Args:
        images_BCHW: From 0 to 255, padded behind the pixels; the memory format is kept. Of any number of dims.
        sizes: Extent of each image before padding: of rows and columns.
        mean: Mean of each channel, in [0, 1].
        std: Deviation of each channel, in [0, 1].

    Returns:
        float32, of the same shape.

    Example:
        >>> normalize_images(torch.full((1, 3, 1, 2), 255, dtype=torch.uint8), [(1, 1)], [0.5] * 3, [0.5] * 3)[0, 0]
        tensor([[1., 0.]])
    """
    dims = images_BCHW.dim() - 2
    mean_C11, std_C11 = (
        torch.tensor(v, device=images_BCHW.device, dtype=torch.float32).view(-1, *[1] * dims)
        for v in (mean, std)
    )
    # the order of operations is torchvision's: the same bits
    normalized = images_BCHW.to(torch.float32, copy=True).div_(255).sub_(mean_C11).div_(std_C11)
    for image_CHW, size in zip(normalized, sizes, strict=True):
        for dim, pixels in enumerate(size, start=1):
            if pixels < image_CHW.shape[dim]:
                image_CHW.narrow(dim, pixels, image_CHW.shape[dim] - pixels).zero_()
    return normalized
