"""The gradient of a norm whose moments are of more than one worker's band.

It has two parts: one as if the moments were constants, and one that goes through the moments, for which two sums travel.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.spatial.exchange import memory_format_of
from ziggurat.torch_internals.kernels import batch_norm_gradients

PIECE_BYTES = 1 << 19


class DirectGradient:
    """The part of the band's gradient that does not go through the moments, and those of weight and bias.

    It is what PyTorch computes in evaluation mode; the latter two are also the sums that the other part needs. Its
    kernel is wrong (2.14.1, CPU) where gradient and input are laid out in different ways and a dim has one row only.
    """

    def __init__(
        self,
        gradient: Tensor,
        band: Tensor,
        weight: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        eps: float,
    ) -> None:
        if gradient.stride() != band.stride():
            band = band.contiguous(memory_format=memory_format_of(band))
            gradient = torch.empty_like(band, dtype=gradient.dtype).copy_(gradient)
        self.given = gradient, band, weight, mean, variance, eps

    def of_parameters(self) -> tuple[Tensor, Tensor]:
        """Return the gradients of weight and bias, of this worker's band."""
        _, of_weight, of_bias = batch_norm_gradients(*self.given, [False, True, True])
        return of_weight, of_bias

    def of_band(self) -> Tensor:
        """Return the gradient of the band."""
        return batch_norm_gradients(*self.given, [True, False, False])[0]


def add_gradient_of_moments(
    direct: Tensor, band: Tensor, sums: Tensor, count: float, mean: Tensor, variance: Tensor, eps: float,
    weight: Tensor | None,
) -> None:  # fmt: skip
    """Add the part of the band's gradient that goes through the moments.

    Args:
        direct: The other part; the sum after.
        band: The input, shape ``(B, C, *spatial)``.
        sums: Of gradient times normalized value, and of the gradient, over all that the moments are of, shape ``(2, C)``.
        count: How many values that is.
        mean: Of each channel.
        variance: Of each channel.
        eps: As the norm has it.
        weight: Of each channel; None where it is among the sums.
    """
    scale = (variance + eps).rsqrt()
    outer = scale if weight is None else scale * weight
    slope = -outer * scale * sums[0] / count
    offset = -outer * sums[1] / count - slope * mean
    zero, one = torch.zeros_like(mean), torch.ones_like(mean)
    for total, part in _pieces(direct, band):  # band * slope + offset, in one pass
        total.add_(functional.batch_norm(part, zero, one, slope, offset, False, 0.0, 0.0))


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield pieces of tensors of one shape that stay in a core's cache while they are used again, each in one block.

    Measured: a temporary of 50 MB costs six times as long in page faults as the pass over it.
    """
    first = tensors[0]
    if first.device.type != "cpu" or first.numel() * first.element_size() <= PIECE_BYTES:
        yield tensors
        return
    for images in zip(*(tensor.split(1) for tensor in tensors), strict=True):
        if memory_format_of(first) is torch.contiguous_format:
            yield images
            continue
        row = images[0][:, :, 0]  # a band of rows is one block where channels come last
        rows = max(1, PIECE_BYTES // (row.numel() * row.element_size()))
        yield from zip(*(image.split(rows, 2) for image in images), strict=True)
