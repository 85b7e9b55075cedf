"""What the first worker has, on every worker: its tensors travel one by one, so that no worker holds any of them twice."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ziggurat.parallel.collectives.workers import Workers

T = TypeVar("T")


def hand_out(workers: Workers, value: T | None) -> T:
    """Return on every worker what the first one gives.

    Args:
        workers: All of them call this.
        value: On the first worker any object that can be pickled, with tensors in it; None on the others.

    Communication:
        The object without its tensors, then one broadcast for each tensor. Of a view its own elements travel, not all that it is a
        view of.
    """
    if workers.size == 1:
        return cast(T, value)
    buffer = io.BytesIO()
    apart = _Apart(buffer)
    apart.dump(value)
    rest, forms = workers.broadcast_object((buffer.getvalue(), [(t.shape, t.dtype) for t in apart.tensors]))
    tensors = apart.tensors if workers.is_first else [torch.empty(size, dtype=dtype) for size, dtype in forms]
    for tensor in tensors:
        workers.broadcast([tensor.contiguous()])
    return cast(T, value if workers.is_first else _Together(rest, tensors).load())


class _Apart(pickle.Pickler):
    """A pickler that leaves tensors out: their numbers stand for them.

    Attributes:
        tensors: What was left out.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []

    def persistent_id(self, obj: Any) -> int | None:
        """Return the number of a tensor; of everything else None."""
        if not isinstance(obj, Tensor):
            return None
        self.tensors.append(obj)
        return len(self.tensors) - 1


class _Together(pickle.Unpickler):
    """An unpickler that puts tensors where they were."""

    def __init__(self, data: bytes, tensors: Sequence[Tensor]) -> None:
        super().__init__(io.BytesIO(data))
        self.tensors = tuple(tensors)

    def persistent_load(self, pid: Any) -> Tensor:
        """Return the tensor of a number."""
        tensor: Tensor = self.tensors[pid]
        return tensor
