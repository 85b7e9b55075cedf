"""Memory that one operation reads and writes at once, otherwise than in the same places: PyTorch itself says nothing of the result."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def elements(tensor: Tensor) -> set[int]:
    """Return the places in its storage that a tensor takes."""
    places = [tensor.storage_offset()]
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        places = [place + stride * i for place in places for i in range(size)]
    return set(places)


def overlap(written: Tensor, read: Tensor) -> bool:
    """Whether an element of one is another element of the other."""
    if written.untyped_storage()._cdata != read.untyped_storage()._cdata:
        return False
    lies = [(one.shape, one.stride(), one.storage_offset()) for one in (written, read)]
    return lies[0] != lies[1] and not elements(written).isdisjoint(elements(read))


class NothingReadAndWritten(TorchDispatchMode):
    """Raises a RuntimeError where an operation reads what it writes elsewhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(zip((one.name for one in func._schema.arguments), args, strict=False)) | (kwargs or {})
        is_written = {
            one.name
            for one in func._schema.arguments
            if one.alias_info is not None and one.alias_info.is_write
        }
        written = [
            one for name in is_written for one in tree_leaves(given.get(name)) if isinstance(one, Tensor)
        ]
        others = [value for name, value in given.items() if name not in is_written] if written else []
        read = [one for one in tree_leaves(others) if isinstance(one, Tensor)]
        if any(overlap(one, other) for one in written for other in read):
            raise RuntimeError(f"{func} reads what it writes elsewhere")
        return func(*args, **(kwargs or {}))
