"""Tensors: their memory, how often they were changed, subclasses, and arithmetic on many at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T", bound=Tensor)

NO_MEMORY = "this tensor has a shape and no memory of its own"
"""What the RuntimeError says that reading the memory of a hollow subclass raises."""
SETS_DATA = torch.ops.aten._has_compatible_shallow_copy_type.default
"""What a subclass is asked by ``tensor.data = it`` in inference mode.

Why: in inference mode the assignment asks the subclass before it reads its memory, by this operation alone; a refusal is to name what was written.
"""


def memory_key(tensor: Tensor) -> int:
    """Return a number for the memory that a tensor lies in: views share it, and so do tensors without memory.

    Why: the address of the data is 0 for everything on the meta device; the storage object's own address is not. It may
    come again when the storage is gone.
    """
    key: int = tensor.untyped_storage()._cdata
    return key


def is_alone(tensor: Tensor) -> bool:
    """Whether no other tensor that is there lies in the memory of one.

    Why: a tensor may be given other memory (``tensor.data = other``) only if nobody keeps a view of the old one, and views are not listed.
    """
    return _uses(tensor) <= _uses(torch.empty(1))


def _uses(tensor: Tensor) -> int:
    uses: int = torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)
    return uses


def version_of(tensor: Tensor) -> int:
    """Return a number that grows with each change of a tensor in place, through any of its views.

    Why: nothing documented tells whether a call has changed its arguments.
    """
    version: int = tensor._version
    return version


def is_computed_again() -> bool:
    """Whether what autograd would save now is handed to somebody's hooks, as within a checkpoint, which computes it again in backward.

    Why: `saved_tensors_hooks` does not say whether any are in place.
    """
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def is_view(tensor: Tensor) -> bool:
    """Whether autograd takes a tensor for a view of another.

    Why: `Tensor.is_inference`, strides and storage sizes do not tell; autograd's own note does.
    """
    return tensor._base is not None


def hollow_subclass(
    kind: type[T], shape: Sequence[int], dtype: torch.dtype, device: torch.device, requires_grad: bool
) -> T:
    """Return a tensor of a subclass that has a shape, and no memory of its own.

    Why: it is how PyTorch's own subclasses (DTensor) are made; there is no documented way.
    """
    tensor: T = torch.Tensor._make_wrapper_subclass(
        kind, list(shape), dtype=dtype, device=device, requires_grad=requires_grad
    )
    with as_plain_tensors():  # else whoever gets at its memory (``plain.data = tensor``) reads at address 0
        torch._C._set_storage_data_ptr_access_error_msg(tensor.untyped_storage()._cdata, NO_MEMORY)
    return tensor


def as_plain_tensors() -> AbstractContextManager[Any]:
    """Return a context in which ``__torch_function__`` of subclasses is not called.

    Why: a subclass that asks for its own shape must not be asked itself. PyTorch's documentation names it for this use.
    """
    context: AbstractContextManager[Any] = torch._C.DisableTorchFunctionSubclass()
    return context


def add_each_(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    """Add to each tensor, in place, the other of its place.

    Why: one call for hundreds of small tensors; the optimizers use it.
    """
    torch._foreach_add_(list(tensors), list(others))


def copy_each_(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    """Overwrite each tensor with the other of its place. Why: as `add_each_`."""
    if tensors:
        torch._foreach_copy_(list(tensors), list(others))


def count_each_(tensors: Sequence[Tensor]) -> None:
    """Add one to each tensor. Why: as `add_each_`."""
    if tensors:
        torch._foreach_add_(list(tensors), 1)


def scale_each_(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply each tensor, in place, by a number that is a tensor. Why: as `add_each_`."""
    torch._foreach_mul_(list(tensors), factor)


def lerp_each_(tensors: Sequence[Tensor], ends: Sequence[Tensor], weight: float) -> None:
    """Move each tensor, in place, towards the end of its place by a share of the way. Why: as `add_each_`."""
    torch._foreach_lerp_(list(tensors), list(ends), weight)


def num_users(tensor: Tensor) -> int:
    """Return how many tensors have the memory that a tensor lies in.

    Why: views that were made where autograd keeps no note of them share memory, too. The storage counts who holds it; the
    object that Python sees of it is one of them.
    """
    storage = tensor.untyped_storage()
    count: int = torch._C._storage_Use_Count(storage._cdata)
    return count - 1
