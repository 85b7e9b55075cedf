"""Tensors on memory that nobody has touched: it costs nothing until somebody does, and reads as zeros."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)


def untouched(shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a tensor with a mapping of its own, as long as `torch.empty_strided` would make its memory.

    Its storage cannot be resized.

    Why: what `torch.empty` returns may be memory that was freed before, with numbers of others in it; and no function returns zeros
    without writing them.

    Example:
        >>> untouched((2, 1 << 30), (1, 2), torch.float64)[1, -1]
        tensor(0., dtype=torch.float64)
    """
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    num_bytes = 0 if 0 in shape else (last + 1) * dtype.itemsize
    if not num_bytes:
        return torch.empty_strided(tuple(shape), tuple(strides), dtype=dtype)
    storage = torch.frombuffer(mmap.mmap(-1, num_bytes, flags=_FLAGS), dtype=torch.uint8).untyped_storage()
    return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape), tuple(strides))
