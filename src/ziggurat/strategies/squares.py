"""Sums of squares whose bits depend on the numbers alone: not on which rows are there, nor on how memory holds them.

A norm that clips must have the same bits whether a gradient lies whole on each worker or in rows on several, in one memory format or in
another. What libraries offer adds in an order of its own for each shape, stride and device. So here each row (an index of dim 0) is
folded by halves, dim by dim, by additions of whole slices, each of which is one rounding of two numbers wherever they lie:

    5 numbers of a row:  a b c d e  ->  a+d b+e c  ->  a+d+c b+e  ->  one
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

BLOCK = 1 << 18  # numbers whose squares are folded at a time: they stay in a core's cache


def row_squares(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the sum of squares of each row of each tensor, float64, shape ``(rows,)``; a number without dims is a row.

    Squares and their sums are of the tensor's own type, at least float32; by halves, an error grows with the logarithm of a row's length.

    Example:
        >>> row_squares([torch.tensor([[1.0, 2.0, 2.0], [0.0, 3.0, 4.0]])])
        [tensor([ 9., 25.], dtype=torch.float64)]
    """
    rooms: dict[
        torch.dtype, Tensor
    ] = {}  # memory that is fresh for each block would cost as much as the sums
    return [_of_rows(tensor.detach(), rooms) for tensor in tensors]


def _of_rows(tensor: Tensor, rooms: dict[torch.dtype, Tensor]) -> Tensor:
    rows = tensor if tensor.dim() else tensor.reshape(1)
    if not rows.numel():
        return torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    if rows.dtype.itemsize < torch.float32.itemsize:
        rows = rows.float()
    step = max(1, BLOCK * len(rows) // rows.numel()) if rows.device.type == "cpu" else len(rows)
    strides = torch.empty_like(rows, device="meta").stride()  # without gaps
    sums = []
    for block in rows.split(step):
        room = rooms.get(rows.dtype)
        if room is None or len(room) < block.numel():
            room = rooms[rows.dtype] = block.new_empty(max(block.numel(), BLOCK))
        squares = torch.mul(block, block, out=room[: block.numel()].as_strided(block.shape, strides))
        for dim in range(1, squares.dim()):
            squares = fold(squares, dim)
        sums.append(squares.reshape(-1).to(torch.float64, copy=True))
    return sums[0] if len(sums) == 1 else torch.cat(sums)


def fold(tensor: Tensor, dim: int = 0) -> Tensor:
    """Add up a tensor along a dim by halves; it is overwritten.

    Args:
        tensor: With one index along the dim or more.
        dim: It has one index afterwards.

    Example:
        >>> fold(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
        tensor([15.])
    """
    while (size := tensor.shape[dim]) > 1:
        half = (size + 1) // 2
        tensor.narrow(dim, 0, size - half).add_(tensor.narrow(dim, half, size - half))
        tensor = tensor.narrow(dim, 0, half)
    return tensor
