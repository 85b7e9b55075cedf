"""What a worker computes of a convolution when it has the rows that it needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.parallel.spatial.exchange import crop
from ziggurat.parallel.spatial.geometry import Range, transposed_extent
from ziggurat.parallel.spatial.operations.windows import Step
from ziggurat.torch_internals.convolutions import goes_wrong
from ziggurat.torch_internals.kernels import convolution_gradients


@dataclass(frozen=True)
class ConvolutionKind:
    """The parameters of the local convolution.

    Attributes:
        stride: Of each spatial dim, as the following.
        padding: Zero along dims that are computed in bands: their padding is among the rows.
        dilation: Steps between taps.
        transposed: Whether it is a transposed convolution.
        output_padding: Of a transposed convolution, zero along dims in bands.
        groups: Of channels.
        crop: For each step, where a transposed convolution's own rows begin, and their number.
        shape: Of the local output.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int
    crop: tuple[Range, ...]
    shape: tuple[int, ...]

    def run(self, rows: Tensor, weight: Tensor, bias: Tensor | None, steps: tuple[Step, ...]) -> Tensor:
        """Return the worker's rows of the output."""
        if 0 in self.shape:
            return rows.new_empty(self.shape)
        dtype = rows.dtype
        if self._goes_wrong(rows, weight):
            rows, weight, bias = rows.float(), weight.float(), None if bias is None else bias.float()
        out = torch.convolution(
            rows, weight, bias, self.stride, self.padding, self.dilation, self.transposed,
            self.output_padding, self.groups,
        ).to(dtype)  # fmt: skip
        for step, (start, count) in zip(steps, self.crop, strict=False):
            out = crop(out, step.dim, start, count)
        return out

    def gradients(
        self, gradient: Tensor, rows: Tensor, weight: Tensor, has_bias: bool, mask: list[bool]
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of rows, weight and bias that the mask asks for."""
        sizes = [weight.shape[1] * self.groups if self.transposed else weight.shape[0]] if has_bias else None
        dtype = rows.dtype
        if self._goes_wrong(rows, weight):
            gradient, rows, weight = (one.float() for one in (gradient, rows, weight))
        found: tuple[Tensor | None, ...] = convolution_gradients(
            gradient, rows, weight, sizes, self.stride, self.padding, self.dilation, self.transposed,
            self.output_padding, self.groups, mask,
        )  # fmt: skip
        return found if rows.dtype == dtype else tuple(one if one is None else one.to(dtype) for one in found)

    def _goes_wrong(self, rows: Tensor, weight: Tensor) -> bool:
        """Whether PyTorch would return what nobody has written."""
        if rows.dtype != torch.bfloat16 or rows.device.type != "cpu":
            return False
        return goes_wrong(rows, weight, self.stride, self.padding, self.dilation, self.transposed)

    def uncrop(
        self, gradient: Tensor, steps: tuple[Step, ...], rows: Tensor, kernel: tuple[int, ...]
    ) -> Tensor:
        """Return the gradient of all rows that a transposed convolution has computed."""
        for step, (start, count) in zip(steps, self.crop, strict=False):
            i = step.dim - 2
            full = transposed_extent(
                rows.shape[step.dim], kernel[i], self.stride[i], self.padding[i], self.dilation[i], 0
            )
            widths = [0, 0] * (gradient.dim() - step.dim - 1) + [start, full - start - count]
            gradient = functional.pad(gradient, widths)
        return gradient
