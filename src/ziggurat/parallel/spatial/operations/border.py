"""A convolution that begins before its halo has come: zeros around the band first, the border's rows completed afterwards.

A convolution is linear in its rows, and a sum over the rows of its kernel (taps), so what neighbours' rows add may be added later:

    rows        -1   0   1   2   3   4         of a band of 4 rows, with one row of halo on both sides
    first        0 [ a   b   c   d ] 0     ->  4 rows of output, of which the first and the last lack the halo
    tap 0        x                         ->  what the first one lacks
    tap 2                            y     ->  what the last one lacks

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
from ziggurat.parallel.spatial.geometry import intersect, ranges
from ziggurat.parallel.spatial.operations.kernel import ConvolutionKind

WORTH_BYTES = 1 << 20  # of a band: below, the strips cost more than a copy


class Strip(NamedTuple):
    """Rows beyond the band that one tap reads, and the rows of the output that lack them.

    Attributes:
        tap: Which row of the kernel.
        start: First row that is read, counted from the first row of the band.
        rows: How many lie between the first and the last that are read, both included.
        out: First row of the output.
        num_out: How many there are.
        above: Whether the rows that are read lie above the band, or below.
    """

    tap: int
    start: int
    rows: int
    out: int
    num_out: int
    above: bool


def strips_of(height: int, num_out: int, kernel: int, stride: int, dilation: int, before: int) -> list[Strip]:
    """Return what each tap reads above the band, and below.

    Args:
        height: Rows of the band.
        num_out: Rows of the output.
        kernel: Taps, as stride and dilation along the dim.
        stride: Rows from one window to the next.
        dilation: Rows from one tap to the next.
        before: Rows above the band that the first window begins with.

    Example:
        >>> for strip in strips_of(height=4, num_out=4, kernel=3, stride=1, dilation=1, before=1): print(strip)
        Strip(tap=0, start=-1, rows=1, out=0, num_out=1, above=True)
        Strip(tap=2, start=4, rows=1, out=3, num_out=1, above=False)
        >>> strips_of(height=4, num_out=2, kernel=3, stride=2, dilation=1, before=1)
        [Strip(tap=0, start=-1, rows=1, out=0, num_out=1, above=True)]
    """
    found = []
    for tap in range(kernel):
        first = dilation * tap - before  # row that the first window reads
        num_above = min(num_out, max(0, -(first // stride)))
        below = min(num_out, max(0, -((first - height) // stride)))
        for out, end, above in ((0, num_above, True), (below, num_out, False)):
            if out < end:
                found.append(
                    Strip(tap, first + out * stride, (end - 1 - out) * stride + 1, out, end - out, above)
                )
    return found


class Overlap(NamedTuple):
    """Rows of one owner among those that a strip reads.

    Attributes:
        owner: The worker that has them.
        in_strip: Where they begin among the rows of the strip.
        in_piece: Where they begin among the rows that were fetched from the owner.
        num_rows: How many there are.
    """

    owner: int
    in_strip: int
    in_piece: int
    num_rows: int


@dataclass(frozen=True)
class Border:
    """How one band is convolved before its halo has come.

    Attributes:
        of_band: Has along the dim that is cut as many zeros as the halo above has rows.
        of_strip: Has none along this dim.
        plan: Which rows move.
        axis: Between whom.
        strips: Of this worker.
    """

    of_band: ConvolutionKind
    of_strip: ConvolutionKind
    plan: Fetch
    axis: Axis
    strips: tuple[Strip, ...]

    def overlaps(self, strip: Strip, owners: Sequence[int]) -> list[Overlap]:
        """Return which of the rows that a strip reads come from which owner."""
        have, mine = ranges(self.plan.have), self.axis.rank
        start = have[mine][0] + strip.start
        found = []
        for owner in owners:
            piece = self.plan.piece(owner, mine)
            first, last = intersect(piece, (start, start + strip.rows))
            if first < last and (first < have[mine][0]) == strip.above:
                found.append(Overlap(owner, first - start, first - piece[0], last - first))
        return found

    def fill(self, strip: Strip, band: Tensor, received: dict[int, Tensor]) -> Tensor:
        """Return the rows that a strip reads: those of other workers, and zeros."""
        dim = self.plan.dim
        rows = self._zeros(band, strip.rows)
        for owner, in_strip, in_piece, count in self.overlaps(strip, list(received)):
            rows.narrow(dim, in_strip, count).copy_(received[owner].narrow(dim, in_piece, count))
        return rows

    def no_gradients(self, band: Tensor, owners: Sequence[int]) -> dict[int, Tensor]:
        """Return zeros for the rows of each owner that this worker has fetched."""
        pieces = {owner: self.plan.piece(owner, self.axis.rank) for owner in owners}
        return {owner: self._zeros(band, last - first) for owner, (first, last) in pieces.items()}

    def _zeros(self, band: Tensor, count: int) -> Tensor:
        shape = list(band.shape)
        shape[self.plan.dim] = count
        rows = torch.empty(shape, dtype=band.dtype, device=band.device, memory_format=memory_format_of(band))
        return rows.zero_()


def plan_border(
    band: Tensor, weight: Tensor, plan: Fetch, axis: Axis, kind: ConvolutionKind
) -> Border | None:
    """Return how this worker convolves its band first; None where it has to join band and halo.

    Each worker decides for itself: the rows that travel are the same.

    Args:
        band: This worker's rows.
        weight: Of the convolution.
        plan: Which rows move.
        axis: Between whom.
        kind: Of the convolution of band and halo, joined.
    """
    start, stop = ranges(plan.have)[axis.rank]
    height, i = stop - start, plan.dim - 2
    before = start - plan.need[axis.rank][0]
    if before < 0 or height == 0 or band.numel() * band.element_size() < WORTH_BYTES:
        return None
    kernel, stride, dilation, num_out = (
        weight.shape[plan.dim],
        kind.stride[i],
        kind.dilation[i],
        kind.shape[plan.dim],
    )
    span = dilation * (kernel - 1) + 1
    if (height + 2 * before - span) // stride + 1 != num_out:  # zeros below are not as many as needed
        return None
    padding = tuple(before if j == i else p for j, p in enumerate(kind.padding))
    border = Border(replace(kind, padding=padding), kind, plan, axis, ())
    owners = [other for other in range(axis.size) if other != axis.rank and _moves(plan, other, axis.rank)]
    strips = strips_of(height, num_out, kernel, stride, dilation, before)
    return replace(border, strips=tuple(strip for strip in strips if border.overlaps(strip, owners)))


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
        out = border.of_band.run(band, weight, bias, ())
        with border.axis.traffic.move():
            received = halos.wait()
            ctx.owners = halos.owners
            of_owner = dict(zip(ctx.owners, received, strict=True))
            for strip in border.strips:
                tap = weight.narrow(dim, strip.tap, 1)
                lacking = border.of_strip.run(border.fill(strip, band, of_owner), tap, None, ())
                out.narrow(dim, strip.out, strip.num_out).add_(lacking)
        ctx.save_for_backward(band, weight, *received)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Send the gradients of the halo, and compute those of the band."""
        band, weight, *received = ctx.saved_tensors
        border, gradient, of_owner = ctx.border, gradients[0], dict(zip(ctx.owners, received, strict=True))
        wants_band, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        dim = border.plan.dim
        sends = border.no_gradients(band, ctx.owners) if wants_band else {}
        of_taps, returns = [], None
        with border.axis.traffic.move():
            for strip in border.strips:
                of_rows, of_tap, _ = border.of_strip.gradients(
                    gradient.narrow(dim, strip.out, strip.num_out),
                    border.fill(strip, band, of_owner),
                    weight.narrow(dim, strip.tap, 1),
                    False,
                    [wants_band, wants_weight, False],
                )
                of_taps.append((strip.tap, of_tap))
                for owner, in_strip, in_piece, count in border.overlaps(strip, list(sends)):
                    total = sends[owner].narrow(dim, in_piece, count)
                    total.add_(of_rows.narrow(dim, in_strip, count))
            if wants_band:
                returns = Returns(sends, band, border.plan, border.axis)
        of_band, of_weight, of_bias = border.of_band.gradients(
            gradient, band, weight, wants_bias, [wants_band, wants_weight, wants_bias]
        )
        for tap, of_tap in of_taps:
            if of_weight is not None and of_tap is not None:
                of_weight.narrow(dim, tap, 1).add_(of_tap)
        if returns is not None:
            assert of_band is not None
            with border.axis.traffic.move():
                of_band = returns.add_to(of_band)
        return of_band, of_weight, of_bias, None
