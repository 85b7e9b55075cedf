"""The memory that the whole of a spread tensor would have on one worker: its order, and who shares it.

Each spread tensor has an account of it. In there is a tensor on PyTorch's meta device, with the shape, the strides and the storage of the whole:
where an operation returns a view, PyTorch itself says so, by what it returns for these. A worker's own part may be otherwise:

    x       rows 0 to 19         x[:, :, 3:17]   of the whole: a view of x
            |                                    of a worker: its share of rows 3 to 16, of which some were fetched: a copy
            +--- one storage of the whole: `Memory` ---+

So a view remembers what it is a view of, and how it was made. What changes a copy in place is written back to where the copy came from;
what was copied before a change is copied again when it is used next. Where there is no way back, the use is refused.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ziggurat.parallel.spatial import strides as orders
from ziggurat.parallel.spatial.layout import is_cut
from ziggurat.torch_internals.tensors import memory_key

if TYPE_CHECKING:
    from ziggurat.parallel.spatial.tensor import SpatialTensor


LOST = -1  # the changes of a tensor of whose memory a part was changed elsewhere, without a way back
WayBack = Literal["index", "shape", "none"]
MAYBE_VIEWS = frozenset([
    "avg_pool1d", "bilinear", "cdist", "einsum", "fft_ihfft", "gru", "inner", "instance_norm",
    "linalg_multi_dot", "linear", "lstm", "matmul", "max_pool1d", "max_pool1d_with_indices", "max_unpool1d",
    "multi_head_attention_forward", "ravel", "repeat_interleave", "rnn_relu", "rnn_tanh",
    "scaled_dot_product_attention", "tensordot",
])  # fmt: skip
"""Operations whose new results PyTorch returns as views of what it has computed, in some cases."""


@dataclass(eq=False)
class Memory:
    """A storage of the whole.

    Attributes:
        changes: How often it was changed in place.
        is_written_back: Whether that was ever done in a copy: gradients of what the copy is used for go past what it is a copy of.
    """

    changes: int = 0
    is_written_back: bool = False
    _tensors: list[weakref.ref[Any]] = field(default_factory=list)

    def add(self, x: SpatialTensor) -> None:
        """Take note of a tensor that lies in it."""
        self._tensors.append(weakref.ref(x))

    def __iter__(self) -> Iterator[SpatialTensor]:
        """Yield the tensors that lie in it and are still there."""
        for reference in list(self._tensors):
            x = reference()
            if x is not None:
                yield x


@dataclass(frozen=True, eq=False)
class View:
    """How a tensor was made that lies in the memory of another.

    Attributes:
        base: The other one.
        again: Makes it again from `base` as that is by then.
        is_copy: Whether this worker's part lies in memory of its own.
        way_back: How a copy is written back: as the `index` of `base`, in the shape of `base`, or not at all.
        index: Of a slice.
        with_gradient: Whether autograd was at work.
    """

    base: SpatialTensor
    again: Callable[[], SpatialTensor]
    is_copy: bool
    way_back: WayBack = "none"
    index: Any = None
    with_gradient: bool = True


@dataclass(eq=False)
class Account:
    """Where a spread tensor lies.

    Attributes:
        meta: The whole without its values; None until somebody asks, of what came from outside.
        memory: The storage.
        view: How it was made, if it lies in the memory of another.
        changes: Of the memory, up to which the tensor's values are those of the whole.
    """

    meta: Tensor | None = None
    memory: Memory = field(default_factory=Memory)
    view: View | None = None
    changes: int = 0


def make_meta(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor without values that lies in memory as the whole would."""
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


def default_meta(shape: tuple[int, ...], local: Tensor) -> Tensor:
    """Return the meta tensor of what came from outside: its channels lie together if this worker's do."""
    last = orders.suggests_channels_last(local.shape, local.stride()) and not local.is_contiguous()
    strides = orders.channels_last(shape) if last else orders.contiguous(shape)
    return make_meta(shape, strides, local.dtype)


def empty_whole(x: SpatialTensor, dtype: torch.dtype | None = None, like: bool = False) -> Tensor:
    """Return memory for the values of the whole, in the whole's own order.

    Args:
        x: A part of it.
        dtype: By default that of `x`.
        like: Whether it is dense, as PyTorch makes what is ``like`` another; otherwise it has the gaps of the whole.

    Raises:
        UnsupportedOperation: In a hook on a gradient, whose order on one worker is not known.
    """
    if x.mesh.in_hook:
        raise x.mesh.unsupported(
            "drawing numbers in a hook",
            "they are drawn in the order in which the gradient lies in memory, and that is not known of one worker",
            "draw by its shape alone (torch.rand(gradient.shape, device=gradient.device)) or in the forward pass; or run the model without sp",
        )
    meta, shape = x.meta, tuple(x.meta.shape)
    found = orders.elementwise(shape, [(shape, meta.stride())]) if like else meta.stride()
    return torch.empty_strided(shape, found, dtype=dtype or x.local.dtype, device=x.local.device)


def put(x: SpatialTensor, meta: Tensor, view: View | None = None) -> None:
    """Say where a tensor lies: in memory of its own, or in that of another."""
    memory = Memory() if view is None else view.base.account.memory
    if view is not None and not memory.changes and not any(one is view.base for one in memory):
        memory.add(view.base)  # it came from outside
    x.account = Account(meta, memory, view, memory.changes)
    memory.add(x)


def share_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two plain tensors lie in one storage."""
    return memory_key(a) == memory_key(b)


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have an element in common, of a storage in which they lie otherwise.

    What reads one while it writes the other depends on the order of reading and writing.

    Args:
        a: On the meta device.
        b: Likewise.
    """
    places = [(tuple(one.shape), one.stride(), one.storage_offset()) for one in (a, b)]
    if not share_memory(a, b) or places[0] == places[1]:
        return False
    size = max(offset + orders.span(shape, strides) for shape, strides, offset in places)
    marks = torch.zeros(size, dtype=torch.bool)
    marks.as_strided(*places[0]).fill_(True)
    return bool(marks.as_strided(*places[1]).any())


def renew(x: SpatialTensor) -> None:
    """Bring a tensor up to date whose memory was changed by way of others.

    Raises:
        UnsupportedOperation: If there is no way to.
    """
    account = x.account
    if x.watched_since is not None and account.memory.changes != x.watched_since and _forgets_hooks(x):
        raise x.mesh.unsupported(
            "an operation in place",
            "it changed the memory of a view that has a hook, or keeps its gradient: PyTorch calls the hook no more",
            "register the hook, or call retain_grad(), after the change",
        )
    if account.changes == account.memory.changes:
        return
    view = account.view
    if view is None or account.changes == LOST:
        raise x.mesh.unsupported(
            "an operation in place",
            "it changed a view of a tensor that is used afterwards, and the view's rows have moved between workers",
            "change the tensor itself, or take a clone() of the view",
        )
    renew(view.base)
    with torch.set_grad_enabled(view.with_gradient):
        fresh = view.again()
    x.raw, x.dims, account.changes = fresh.local, fresh.dims, account.memory.changes


def _forgets_hooks(x: SpatialTensor) -> bool:
    """Whether a hook on a tensor is forgotten, on one worker, when its memory is changed: it is a view, if only of what nobody else has.

    A worker's part may be otherwise: a copy, or one of which nothing is changed.
    """
    return x.account.view is not None or x.made_by in MAYBE_VIEWS


def refuse_elements_of_several(x: SpatialTensor) -> None:
    """Raise if an element of a tensor that is to be changed, or of what it is a view of, is one of several workers: the others would not see it.

    Such is what was expanded along the rows: one row in memory, of which each worker has a copy.
    """
    one: SpatialTensor | None = x
    while one is not None:
        kept = [d for d in range(one.dim()) if one.meta.stride(d) or is_cut(one.dims[d])]
        if any(is_cut(one.dims[d]) for d in kept):
            shape, strides = ([f(d) for d in kept] for f in (one.meta.size, one.meta.stride))
            if orders.may_overlap(shape, strides):
                raise x.mesh.unsupported(
                    "an operation in place",
                    "it changes memory that rows of several workers share, as expand and unfold leave it",
                    "change a clone(), or what was expanded",
                )
        one = one.account.view.base if one.account.view is not None else None


def note_change(x: SpatialTensor) -> None:
    """Let all that lies in a tensor's memory know that the tensor was changed in place."""
    memory = x.account.memory
    current, above = _that_hold_the_same(x), []
    copy, one = None, x
    while (view := one.account.view) is not None:
        if view.is_copy:
            copy = one if copy is None else copy
            above += _that_hold_the_same(view.base)  # up to date, but for what is written back now
        one = view.base
    memory.changes += 1
    for one in (*current, *above):
        one.account.changes = memory.changes
    if copy is not None:
        memory.is_written_back = True
        _write_back(copy)
    for one in current:
        one.account.changes = memory.changes


def _that_hold_the_same(x: SpatialTensor) -> list[SpatialTensor]:
    """Return the tensors that lie in a worker's own memory of a tensor, itself among them, as far as they are up to date."""
    memory = x.account.memory
    others = [one for one in memory if one is not x and one.account.changes == memory.changes]
    return [x, *(one for one in others if share_memory(one.raw, x.raw))]


def _write_back(copy: SpatialTensor) -> None:
    """Bring what a copy has now to what it is a copy of."""
    view = copy.account.view
    assert view is not None
    base = view.base
    if view.way_back == "index":
        base[view.index] = copy
    elif view.way_back == "shape":
        base.copy_(copy.reshape(base.shape))
    else:
        for one in _that_hold_the_same(base):
            one.account.changes = LOST
        above = base.account.view
        while above is not None:  # what the base is a copy of has been changed, too
            for one in _that_hold_the_same(above.base):
                one.account.changes = LOST
            above = above.base.account.view
