"""How many bytes of tensors are alive at once: counted, so that it is the same in every run.

PyTorch keeps no statistics of its CPU allocator, and the resident size of a process also depends on what the
allocator has kept from before. What is counted is every tensor that PyTorch's dispatcher returns, by its storage, from
the moment it is made until the last reference is gone: activations, what autograd has saved, gradients, halos, and
the weights. What a kernel allocates and frees inside of one operation is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ziggurat.torch_internals.containers import tree_leaves
from ziggurat.torch_internals.functions import DispatchMode
from ziggurat.torch_internals.tensors import memory_key


class Ledger:
    """The bytes of tensors that are alive.

    Args:
        present: Tensors that are there already: weights, buffers, the input.

    Attributes:
        now: Bytes that are alive.
        peak: Most bytes that were alive at once.
    """

    def __init__(self, present: Iterable[Tensor] = ()) -> None:
        self.now = self.peak = 0
        self._alive: dict[int, tuple[weakref.ref[Any], int]] = {}
        for tensor in present:
            self.count(tensor)

    def count(self, tensor: Tensor) -> None:
        """Count a tensor's memory until it is gone; where it is counted already, with the size that it has now."""
        if tensor.layout != torch.strided or tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        key, size = memory_key(tensor), storage.nbytes()
        known = self._alive.get(key)
        if known is not None:
            if known[1] != size:  # fsdp frees the memory of weights, and gets it again
                self._alive[key] = known[0], size
                self._add(size - known[1])
            return

        def forget(_: Any) -> None:
            self.now -= self._alive.pop(key)[1]

        self._alive[key] = weakref.ref(storage, forget), size
        self._add(size)

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


class PeakBytes(DispatchMode):
    """Counts the bytes of tensors while it is active.

    Args:
        present: Tensors that are there already: weights, buffers, the input.

    Example:
        >>> with PeakBytes([]) as memory:
        ...     total = (torch.zeros(1000, dtype=torch.float64) + 1).sum()
        >>> memory.peak, memory.now
        (16000, 8)
    """

    def __init__(self, present: Iterable[Tensor]) -> None:
        super().__init__()
        self.ledger = Ledger(present)

    @property
    def now(self) -> int:
        """Bytes that are alive."""
        return self.ledger.now

    @property
    def peak(self) -> int:
        """Most bytes that were alive at once."""
        return self.ledger.peak

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.ledger.count(leaf)
        return result
