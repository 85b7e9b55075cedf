"""A convolution that begins before its halo has come: zeros around the band first, the border's rows completed afterwards.

A convolution is linear in its rows, so the rows of neighbours may be added to its output later:

    rows        -1   0   1   2   3   4         of a band of 4 rows, with one row of halo on both sides
    first        0 [ a   b   c   d ] 0     ->  4 rows of output, of which the first and the last lack the halo
    top strip    x   0   0                 ->  what the first one lacks
    bottom strip             0   0   y     ->  what the last one lacks

The halo travels while the band is computed, and no copy of the band is made to join both. Backward likewise: the strips
come first, and their gradients travel to the rows' owners while that of the band is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ziggurat.parallel.spatial.axis import Axis
from ziggurat.parallel.spatial.exchange import Fetch, Halos, Returns, memory_format_of
from ziggurat.parallel.spatial.geometry import ranges

WORTH_BYTES = 1 << 20  # of a band: below, the strips cost more than a copy


class Strip(NamedTuple):
    """Rows of the output that lack a halo, and the rows that they read.

    Attributes:
        start: First row that is read, counted from the first row of the band.
        rows: How many are read.
        out: First row of the output.
        num_out: How many there are.
        above: Whether the rows that are lacking lie above the band, or below.
    """

    start: int
    rows: int
    out: int
    num_out: int
    above: bool


def strips_of(height: int, num_out: int, kernel: int, stride: int, dilation: int, before: int) -> list[Strip]:
    """Return which rows of the output read above the band, and which below.

    Args:
        height: Rows of the band.
        num_out: Rows of the output.
        kernel: Taps, as stride and dilation along the dim.
        stride: Rows from one window to the next.
        dilation: Rows from one tap to the next.
        before: Rows above the band that the first window begins with.

    Example:
        >>> strips_of(height=4, num_out=4, kernel=3, stride=1, dilation=1, before=1)
        [Strip(start=-1, rows=3, out=0, num_out=1, above=True), Strip(start=2, rows=3, out=3, num_out=1, above=False)]
        >>> strips_of(height=4, num_out=2, kernel=3, stride=2, dilation=1, before=1)
        [Strip(start=-1, rows=3, out=0, num_out=1, above=True)]
    """
    span = dilation * (kernel - 1) + 1
    last_above = min(num_out, -(-before // stride))
    first_below = min(num_out, max(0, (height + before - span) // stride + 1))
    return [
        Strip(first * stride - before, (last - 1 - first) * stride + span, first, last - first, above)
        for first, last, above in ((0, last_above, True), (first_below, num_out, False))
        if first < last
    ]


@dataclass(frozen=True)
class Border:
    """The parameters of a convolution of one band, and what it fetches.

    Attributes:
        stride: Of each spatial dim, as the following.
        padding: That of the band: along the dim that is cut, as many zeros as the halo above has rows.
        dilation: Steps between taps.
        groups: Of channels.
        plan: Which rows move.
        axis: Between whom.
        strips: Of this worker.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    plan: Fetch
    axis: Axis
    strips: tuple[Strip, ...]

    @property
    def of_strips(self) -> Border:
        """The parameters of the strips: their zeros are among their rows."""
        padding = tuple(0 if i == self.plan.dim - 2 else p for i, p in enumerate(self.padding))
        return replace(self, padding=padding)

    def run(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve."""
        return torch.convolution(
            rows, weight, bias, self.stride, self.padding, self.dilation, False, (0,) * len(self.stride), self.groups
        )  # fmt: skip

    def gradients(
        self, gradient: Tensor, rows: Tensor, weight: Tensor, mask: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of rows, weight and bias that the mask asks for."""
        result: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
            gradient, rows, weight, [weight.shape[0]] if mask[2] else None, self.stride, self.padding, self.dilation,
            False, (0,) * len(self.stride), self.groups, mask,
        )  # fmt: skip
        return result

    def pieces(self, strip: Strip, owners: Sequence[int]) -> list[tuple[int, int, int]]:
        """Return of which owners a strip reads rows, each with the first row in the strip and their number."""
        start, stop = ranges(self.plan.have)[self.axis.rank]
        found = []
        for owner in owners:
            first, last = self.plan.piece(owner, self.axis.rank)
            if last <= start if strip.above else first >= stop:
                found.append((owner, first - start - strip.start, last - first))
        return found

    def fill(self, strip: Strip, band: Tensor, received: dict[int, Tensor]) -> Tensor:
        """Return the rows that a strip reads: those of other workers, and zeros."""
        shape = list(band.shape)
        shape[self.plan.dim] = strip.rows
        rows = torch.empty(shape, dtype=band.dtype, device=band.device, memory_format=memory_format_of(band))
        rows.zero_()
        for owner, place, count in self.pieces(strip, list(received)):
            rows.narrow(self.plan.dim, place, count).copy_(received[owner])
        return rows


def plan_border(
    band: Tensor, weight: Tensor, plan: Fetch, axis: Axis, num_out: int, stride: tuple[int, ...],
    padding: tuple[int, ...], dilation: tuple[int, ...], groups: int,
) -> Border | None:  # fmt: skip
    """Return how this worker convolves its band first; None where it has to join band and halo.

    Each worker decides for itself: the rows that travel are the same.
    """
    start, stop = ranges(plan.have)[axis.rank]
    height, i = stop - start, plan.dim - 2
    before = start - plan.need[axis.rank][0]
    if before < 0 or height == 0 or band.numel() * band.element_size() < WORTH_BYTES:
        return None
    kernel, span = weight.shape[plan.dim], dilation[i] * (weight.shape[plan.dim] - 1) + 1
    if (height + 2 * before - span) // stride[i] + 1 != num_out:  # zeros below are not as many as needed
        return None
    strips = strips_of(height, num_out, kernel, stride[i], dilation[i], before)
    padding = tuple(before if j == i else p for j, p in enumerate(padding))
    border = Border(stride, padding, dilation, groups, plan, axis, ())
    owners = [other for other in range(axis.size) if other != axis.rank and _moves(plan, other, axis.rank)]
    return replace(border, strips=tuple(strip for strip in strips if border.pieces(strip, owners)))


def _moves(plan: Fetch, source: int, target: int) -> bool:
    first, last = plan.piece(source, target)
    return first < last


class BorderConvolution(torch.autograd.Function):
    """A convolution of one band, whose halo comes later."""

    @staticmethod
    def forward(ctx: Any, band: Tensor, weight: Tensor, bias: Tensor | None, border: Border) -> Tensor:
        """Convolve the band, and complete its border."""
        ctx.border, dim = border, border.plan.dim
        with border.axis.traffic.move():
            halos = Halos(band, border.plan, border.axis)
        out = border.run(band, weight, bias)
        with border.axis.traffic.move():
            received = halos.wait()
            ctx.owners = halos.owners
            of_owner = dict(zip(ctx.owners, received, strict=True))
            for strip in border.strips:
                lacking = border.of_strips.run(border.fill(strip, band, of_owner), weight, None)
                out.narrow(dim, strip.out, strip.num_out).add_(lacking)
        ctx.save_for_backward(band, weight, *received)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Send the gradients of the halo, and compute those of the band."""
        band, weight, *received = ctx.saved_tensors
        border, gradient, of_owner = ctx.border, gradients[0], dict(zip(ctx.owners, received, strict=True))
        wants_band, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        sends: dict[int, Tensor] = {}
        of_weights, returns = [], None
        with border.axis.traffic.move():
            for strip in border.strips:
                lacking = gradient.narrow(border.plan.dim, strip.out, strip.num_out)
                rows = border.fill(strip, band, of_owner)
                of_rows, of_weight, _ = border.of_strips.gradients(
                    lacking, rows, weight, [wants_band, wants_weight, False]
                )
                if of_weight is not None:
                    of_weights.append(of_weight)
                if of_rows is not None:
                    for owner, place, count in border.pieces(strip, ctx.owners):
                        sends[owner] = of_rows.narrow(border.plan.dim, place, count)
            if wants_band:
                returns = Returns(sends, band, border.plan, border.axis)
        of_band, of_weight, of_bias = border.gradients(
            gradient, band, weight, [wants_band, wants_weight, wants_bias]
        )
        for part in of_weights:
            assert of_weight is not None
            of_weight = of_weight.add_(part)
        if returns is not None:
            assert of_band is not None
            with border.axis.traffic.move():
                of_band = returns.add_to(of_band)
        return of_band, of_weight, of_bias, None
