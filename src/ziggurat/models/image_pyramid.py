"""Pyramids of images: the same image at several sizes, each half of the one before.

Only window and resampling operations on whole images: what cuts images into bands cuts these too. Position ``i`` of
a level lies on position ``2 * i`` of the finer one, as in the paper. Computed in the type of the images, also under
autocast: two blurs of float32 images cost little, and bf16 would lose what a Laplacian level holds.

Shapes: ``B`` images, ``C`` channels, ``H`` and ``W`` rows and columns of the finer level, ``h`` and ``w`` of the
coarser one.

References:
    Burt and Adelson, The Laplacian Pyramid as a Compact Image Code, 1983, sections 2 and 3.
    https://doi.org/10.1109/TCOM.1983.1095851
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

REDUCE_TAPS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
# Zeros between the positions, blurred by twice the taps above, are the positions repeated, blurred by these:
# (1, 4, 6, 4, 1) = (1, 1) * (1, 3, 3, 1)
EXPAND_TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


def gaussian_pyramid(images_BCHW: Tensor, num_levels: int) -> list[Tensor]:
    """Return the images, and `num_levels` - 1 times the level before smoothed and halved.

    Args:
        images_BCHW: Of any size and type of floating point.
        num_levels: One at least.

    Returns:
        From the finest to the coarsest; level ``k`` has ``ceil(H / 2**k)`` rows and ``ceil(W / 2**k)`` columns.

    Example:
        >>> [tuple(level.shape[2:]) for level in gaussian_pyramid(torch.rand(1, 3, 10, 7), 3)]
        [(10, 7), (5, 4), (3, 2)]
    """
    if num_levels < 1:
        raise ValueError(f"an image pyramid must have a level at least: got num_levels {num_levels}")
    levels = [images_BCHW]
    with _in_own_type(images_BCHW):
        for _ in range(num_levels - 1):
            levels.append(reduce_image(levels[-1]))
    return levels


def laplacian_pyramid(images_BCHW: Tensor, num_levels: int) -> list[Tensor]:
    """Return what each halving of the Gaussian pyramid loses, and its coarsest level.

    Args:
        images_BCHW: Of any size and type of floating point.
        num_levels: One at least.

    Returns:
        From the finest to the coarsest, in the sizes of `gaussian_pyramid`; `collapse` restores the images.
    """
    levels = gaussian_pyramid(images_BCHW, num_levels)
    with _in_own_type(images_BCHW):
        details = [
            fine - expand_image(coarse, fine.shape[-2], fine.shape[-1]) for fine, coarse in pairwise(levels)
        ]
    return [*details, levels[-1]]


def collapse(levels: list[Tensor]) -> Tensor:
    """Return the images whose `laplacian_pyramid` the levels are, shape ``(B, C, H, W)``."""
    images = levels[-1]
    with _in_own_type(images):
        for detail in reversed(levels[:-1]):
            images = detail + expand_image(images, detail.shape[-2], detail.shape[-1])
    return images


def reduce_image(fine_BCHW: Tensor) -> Tensor:
    """Return a smoothed image of half the size: the paper's REDUCE, equation 1.

    Beyond the border stand the border's values.

    Returns:
        Shape ``(B, C, ceil(H / 2), ceil(W / 2))``.
    """
    # Images take no gradient, so that the backward pass of this padding, which adds atomically on GPUs, never runs.
    padded = functional.pad(fine_BCHW, (2, 2, 2, 2), mode="replicate")
    return _blur(padded, REDUCE_TAPS, stride=2)


def expand_image(coarse_BChw: Tensor, height: int, width: int) -> Tensor:
    """Return an interpolated image of twice the size: the paper's EXPAND, equation 2.

    Args:
        coarse_BChw: What `reduce_image` returned for an image of that height and width.
        height: Rows of the result, ``2 * h`` or ``2 * h - 1``.
        width: Columns of the result, ``2 * w`` or ``2 * w - 1``.
    """
    repeated = functional.interpolate(coarse_BChw, scale_factor=2.0, mode="nearest")[..., :height, :width]
    return _blur(functional.pad(repeated, (1, 2, 1, 2), mode="replicate"), EXPAND_TAPS, stride=1)


def _in_own_type(images: Tensor) -> AbstractContextManager[None]:
    """Return a context without autocast, which the meta device has not."""
    device = images.device.type
    is_available = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if is_available else nullcontext()


def _blur(padded_BCHW: Tensor, taps: tuple[float, ...], stride: int) -> Tensor:
    """Apply the taps along rows, then along columns, to every channel by itself."""
    channels = padded_BCHW.shape[1]
    taps_T = torch.tensor(taps, dtype=padded_BCHW.dtype, device=padded_BCHW.device)
    across = taps_T.view(1, 1, 1, -1).expand(channels, 1, 1, len(taps))
    along = taps_T.view(1, 1, -1, 1).expand(channels, 1, len(taps), 1)
    narrow = functional.conv2d(padded_BCHW, across, stride=(1, stride), groups=channels)
    return functional.conv2d(narrow, along, stride=(stride, 1), groups=channels)
