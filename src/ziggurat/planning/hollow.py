"""Running a step's own code without computing: memory that nobody touches, and kernels that are noted instead of called.

A hollow step is the real one. Its processes, groups, messages, schedules, hooks and autograd are those of training; only

    large operators    are not executed. What they would return is allocated, in the form that they would give it. Memory that nobody
                       touches costs nothing, and reads as zeros.
    large messages     are sent with one number in each piece: who waits for whom is as ever.
    small operators    are executed: boxes, counts, losses, heads of messages. So all that a program decides by numbers it decides.

So the bytes of tensors that are alive, and which kernels and messages there are, come out as in a real step. What the numbers of large
tensors decide does not: all of them are 0, of ``all`` True, and where a mask of them chooses (scores above a threshold) it chooses as
many as the mode is told. What follows from targets alone is computed in truth (`Hollow.in_truth`), and their numbers count.

What a kernel allocates and frees inside (the workspace of a convolution) is not seen, here as in a real step that is counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ziggurat.planning.events import Events
from ziggurat.planning.kernels import kernel_of
from ziggurat.planning.program import Kernel
from ziggurat.torch_internals.containers import tree_leaves, tree_map
from ziggurat.torch_internals.functions import DispatchMode, unseen
from ziggurat.torch_internals.operators import computes_nothing, parameters_of, schema_name, written_by_name
from ziggurat.torch_internals.results import (
    Blank,
    Forms,
    are_fake,
    blank_of,
    changed_results,
    changes_form,
    decomposed,
    draws,
    group_of,
    is_made_of_others,
)
from ziggurat.torch_internals.sharding import gathered_places
from ziggurat.torch_internals.tensors import memory_key
from ziggurat.torch_internals.untouched_memory import untouched
from ziggurat.verification.memory import Ledger

LARGE = 1 << 14  # elements: operators on more are not executed
TOUCHED_BYTES = (
    1 << 21
)  # memory of PyTorch's own that is made zero: what is larger was hardly ever used before
PLAIN = (Tensor, nn.Parameter)
ALLOCATES = (
    "aten::empty",
    "aten::new_empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::new_empty_strided",
)
READS = ("aten::_local_scalar_dense", "aten::_has_compatible_shallow_copy_type", "aten::is_pinned")
MASKED = ("aten::index", "aten::_unsafe_index")


class Noting(DispatchMode):
    """Lets everything be computed, and notes kernels, messages and bytes: what a hollow step is held against.

    Args:
        events: Where kernels and messages are noted.
        ledger: Counts the bytes of tensors.
    """

    def __init__(self, events: Events, ledger: Ledger) -> None:
        super().__init__()
        self.events, self.ledger = events, ledger

    def in_truth(self) -> AbstractContextManager[None]:
        """Return a context in which everything is computed, whatever its size."""
        return nullcontext()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if any(kind not in PLAIN for kind in types):
            # a subclass calls what it is made of
            return func(*args, **named) if are_fake(types) else NotImplemented
        if is_made_of_others(func):
            with self:
                return decomposed(func)(*args, **named)
        with unseen():
            result = self.call(func, args, named)
            if computes_nothing(func) and schema_name(func) != "aten::lift_fresh":
                return result  # of what was counted; but for views of what gloo makes for itself in a reduce-scatter
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self.ledger.count(leaf)
        return result

    def call(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Return the result of an operator."""
        if func.namespace == "c10d":
            return self.talk(func, args, named)
        if not _is_on_meta(args, named):
            if _is_free(func):
                self.events.view()
            else:
                self.events.kernel(kernel_of(func, args, named))
        return func(*args, **named)

    def talk(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Return the result of a message; one that PyTorch's own code (fsdp) begins is noted, and waited for at once."""
        kind = OF_FSDP.get(schema_name(func))
        if kind is None or self.events.in_message:
            return self.send(func, args, named)
        for tensor in args[:2]:
            self.ledger.count(tensor)
        with self.events.message(kind, group_of(func, args), args[1].nbytes) as done:
            result = self.send(func, args, named)
        done()
        return result

    def send(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Begin a message."""
        return func(*args, **named)


OF_FSDP: dict[str, Any] = {
    "c10d::_allgather_base_": "all-gather",
    "c10d::_reduce_scatter_base_": "reduce-scatter",
}


class _Known(NamedTuple):
    """What is done where an operator is called with arguments of some form.

    Attributes:
        kernel: What is noted; None for nothing.
        is_called: Whether it is executed.
        changed: The names of the arguments that it returns; None if it returns others.
        results: With a `Blank` in the place of each tensor.
        draws: Whether it takes numbers from a generator.
        value: Of what is small.
    """

    kernel: Kernel | None
    is_called: bool
    changed: tuple[str, ...] | None = None
    results: Any = None
    draws: bool = False
    value: int = 0


class Hollow(Noting):
    """Leaves out the computing of large tensors while it is active.

    Args:
        events: Where kernels and messages are noted.
        ledger: Counts the bytes of tensors.
        chosen: Most elements that a mask chooses whose numbers nobody has computed.
        resizes: Whether storages are resized, as fsdp does: then memory is PyTorch's own.
        large: Elements of the tensors that are.
    """

    def __init__(
        self,
        events: Events,
        ledger: Ledger,
        chosen: int = 1000,
        resizes: bool = False,
        large: int = LARGE,
    ) -> None:
        super().__init__(events, ledger)
        self.chosen, self.resizes, self.large = chosen, resizes, large
        self._known: dict[Any, _Known] = {}
        self._forms = Forms()
        self._is_true = False
        self._true: dict[int, weakref.ref[Any]] = {}  # memory of large tensors that were computed in truth

    @contextmanager
    def in_truth(self) -> Iterator[None]:
        """Let everything be computed in a block."""
        before, self._is_true = self._is_true, True
        try:
            yield
        finally:
            self._is_true = before

    def call(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Return the result of an operator, or what takes its place."""
        if func.namespace == "c10d":
            return self.talk(func, args, named)
        if _is_on_meta(args, named):
            return func(*args, **named)
        is_memory = schema_name(func) in ALLOCATES
        if _is_free(func):
            self.events.view()
            if not is_memory:
                return func(*args, **named)
        if self._is_true:
            if is_memory:
                return func(*args, **named)
            self.events.kernel(kernel_of(func, args, named))
            return self._computed(func, args, named)
        if schema_name(func) == "fsdp::all_gather_copy_in":
            self.events.kernel(kernel_of(func, args, named))
            return gathered_places(args)
        if (found := self._of_masks(func, args, named)) is not None:
            return found[0]
        key = func, tuple([_key(one) for one in args]), tuple([(n, _key(one)) for n, one in named.items()])
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._find(func, args, named)
        if known.kernel is not None:
            self.events.kernel(known.kernel)
        if known.is_called:
            result = func(*args, **named)
            return result.zero_() if is_memory else result  # who should write to it may have been left out
        if known.draws:
            torch.empty(1).uniform_()
        if known.changed is not None:
            for one in tree_leaves([named.get(name) for name in written_by_name(func)]):
                if isinstance(one, Tensor) and one.numel() <= self.large:
                    one.zero_()
            return _arguments(func, known.changed, args, named)
        return tree_map(lambda one: self._made(one, known.value), known.results)

    def _computed(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        result = func(*args, **named)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.numel() > self.large:
                self._note_truth(leaf)
        return result

    def _note_truth(self, tensor: Tensor) -> None:
        """Note until it is gone that a large tensor's numbers are true."""
        key = memory_key(tensor)
        self._true[key] = weakref.ref(tensor.untyped_storage(), lambda _: self._true.pop(key, None))

    def _find(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> _Known:
        """Return what is done with a call whose form comes for the first time."""
        kernel = None if schema_name(func) in ALLOCATES else kernel_of(func, args, named)
        tensors = [one for one in tree_leaves((args, named)) if isinstance(one, Tensor)]
        sizes = [tensor.numel() for tensor in tensors]
        changed = changed_results(func)
        is_large = max(sizes, default=0) > self.large
        if changed is not None and all(map(_holds_bytes, tensors)):
            return _Known(kernel, True)
        if is_large and changed is not None:
            return _Known(kernel, False, changed, draws=draws(func))
        most = 1
        for size in sizes:
            most *= max(size, 1)
        name: str = schema_name(func)
        is_new = not sizes or name.startswith("aten::new_") or name in ALLOCATES
        if not is_large and (name in COUNTED or (most <= self.large and not is_new)):
            return _Known(kernel, True)
        try:
            results = self._forms.of_call(func, args, named)
        except RuntimeError:
            results = tree_map(blank_of, func(*args, **named))  # of zeros, once
        blanks = _blanks_in(results)
        if blanks and all(map(_holds_bytes, tensors)) and all(map(_holds_bytes, blanks)):
            return _Known(kernel, True)
        if not is_large and all(one.numel <= self.large for one in blanks):
            return _Known(kernel, True)
        value = 1 if name == "aten::all" else 0
        return _Known(kernel, False, None, results, draws(func), value)

    def _made(self, one: Any, value: int) -> Any:
        if type(one) is not Blank:
            return one
        if one.numel <= self.large:
            return torch.empty_strided(one.shape, one.strides, dtype=one.dtype).fill_(value)
        if not self.resizes:
            return untouched(one.shape, one.strides, one.dtype)
        tensor = torch.empty_strided(one.shape, one.strides, dtype=one.dtype)
        return tensor.zero_() if tensor.nbytes < TOUCHED_BYTES else tensor

    # -- what depends on numbers --------------------------------------------------------------------------------------

    def _of_masks(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any] | None:
        """Return the result, in a tuple, of an operator whose result's size depends on numbers that nobody has; else None."""
        name: str = schema_name(func)
        if name == "aten::equal" and args[0].numel() > self.large:
            self.events.kernel(kernel_of(func, args, named))
            return (args[0].shape == args[1].shape,)
        if name in MASKED:
            masks = [one for one in args[1] if one is not None and one.dtype in (torch.bool, torch.uint8)]
            if not masks or max(args[0].numel(), *(mask.numel() for mask in masks)) <= self.large:
                return None
            self.events.kernel(kernel_of(func, args, named))
            rows = sum(mask.dim() for mask in masks)
            count = min(self._count(mask) for mask in masks)
            rest = list(args[0].shape[rows:]) if len(masks) == len(args[1]) else None
            if rest is None:
                indices = [
                    torch.empty(count, dtype=torch.int64) if any(one is mask for mask in masks) else one
                    for one in args[1]
                ]
                blank = self._forms.of_call(func, (args[0], indices), {})
            else:
                blank = Blank((count, *rest), _dense((count, *rest)), args[0].dtype)
            return (self._made(blank, 0),)
        if name not in COUNTED or args[0].numel() <= self.large:
            return None
        self.events.kernel(kernel_of(func, args, named))
        return (COUNTED[name](self, func, args, named),)

    def _count(self, mask: Tensor) -> int:
        """Return how many elements a mask chooses."""
        if mask.numel() <= self.large or memory_key(mask) in self._true:
            return int(mask.sum())
        return min(mask.numel(), self.chosen)

    def _nonzero(self, func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Tensor:
        given = args[0]
        if memory_key(given) in self._true:
            result: Tensor = func(given)
            return result
        count = min(given.numel(), self.chosen)
        places = torch.arange(count) * (given.numel() // max(count, 1))
        rows = [
            places // max(step, 1) % size for step, size in zip(_dense(given.shape), given.shape, strict=True)
        ]
        return torch.stack(rows, dim=1) if rows else places.new_zeros(count, 0)

    def _selected(self, func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Tensor:
        return torch.zeros(self._count(args[1]), dtype=args[0].dtype)

    def _kept(self, func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Tensor:
        return torch.arange(min(len(args[0]), self.chosen))

    def _binned(self, func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Tensor:
        least = named.get("minlength", args[2] if len(args) > 2 else 0)
        return torch.zeros(max(1, least), dtype=torch.int64)

    # -- messages -------------------------------------------------------------------------------------------------------

    def send(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Begin a message with one number in the place of each large piece.

        Both ends do so, or neither: they know the size of each piece. Bytes are always sent in truth: in them travel objects.
        """
        send = SENT.get(schema_name(func))
        return func(*args, **named) if send is None else send(self, func, args, named)

    def _is_left_out(self, tensor: Tensor) -> bool:
        return tensor.dtype != torch.uint8 and tensor.numel() > self.large

    def _send_list(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Of a broadcast, an all-reduce, a message to one worker: a list of tensors that are given, and come back."""
        if not any(map(self._is_left_out, args[0])):
            return func(*args, **named)
        result = func([_first(tensor) for tensor in args[0]], *args[1:], **named)
        return (args[0], *result[1:]) if isinstance(result, tuple) else result

    def _send_between(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Of an all-gather or a reduce-scatter: what is received, what is given."""
        received, given = args[:2]
        fewer = min(received, given, key=Tensor.numel)
        if not self._is_left_out(fewer):
            return func(*args, **named)
        count = max(received.numel(), given.numel()) // fewer.numel()
        pieces = [_first(one, 1 if one is fewer else count) for one in (received, given)]
        result = func(*pieces, *args[2:], **named)
        return (received, *result[1:]) if isinstance(result, tuple) else result

    def _send_pieces(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Of an all-to-all: each piece has one number at most, as no worker knows how large those of others are."""
        received, given, group, sizes, given_sizes = args[:5]
        if received.numel() <= self.large:
            received.zero_()
        counts, given_counts = ([min(size, 1) for size in some] for some in (sizes, given_sizes))
        pieces = [_first(received, sum(counts)), _first(given, sum(given_counts))]
        return func(*pieces, group, counts, given_counts, *args[5:], **named)

    def _send_to_one(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Of a gather: lists of what one worker receives, what is given."""
        received, given = args[:2]
        if not any(map(self._is_left_out, given)):
            return func(*args, **named)
        return func(
            [[_first(one) for one in some] for some in received],
            list(map(_first, given)),
            *args[2:],
            **named,
        )


COUNTED: dict[str, Callable[..., Tensor]] = {
    "aten::nonzero": Hollow._nonzero,
    "aten::masked_select": Hollow._selected,
    "aten::bincount": Hollow._binned,
    "torchvision::nms": Hollow._kept,
}
SENT: dict[str, Callable[..., Any]] = {
    "c10d::allreduce_": Hollow._send_list,
    "c10d::broadcast_": Hollow._send_list,
    "c10d::send": Hollow._send_list,
    "c10d::recv_": Hollow._send_list,
    "c10d::_allgather_base_": Hollow._send_between,
    "c10d::_reduce_scatter_base_": Hollow._send_between,
    "c10d::alltoall_base_": Hollow._send_pieces,
    "c10d::gather_": Hollow._send_to_one,
}


def _first(tensor: Tensor, count: int = 1) -> Tensor:
    """Return the first elements in a tensor's memory: whoever holds them on their way holds all of it, as in a real step."""
    if tensor.numel() < count:
        return tensor.new_zeros(count)
    return tensor.detach().as_strided((count,), (1,))


def _is_free(func: Any) -> bool:
    """Whether an operator computes nothing: views, memory, a number that is read."""
    found = _FREE.get(func)
    if found is None:
        name = schema_name(func)
        found = _FREE[func] = (
            name in ALLOCATES or name in READS or computes_nothing(func) or changes_form(func)
        )
    return found


_FREE: dict[Any, bool] = {}


def _is_on_meta(args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Whether an operator is called for tensors without memory, to trace a network."""
    device = named.get("device")
    if device is not None and torch.device(device).type == "meta":
        return True
    return any(isinstance(one, Tensor) and one.is_meta for one in tree_leaves(args))


def _key(value: Any) -> Any:
    """Return what of an argument decides on a call's results."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if type(value) in (list, tuple):
        return tuple([_key(one) for one in value])
    if isinstance(value, torch.Generator):
        return None
    return type(value), value


def _arguments(func: Any, names: Sequence[str], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """Return the arguments that an operator returns."""
    places = [one.name for one in parameters_of(func)]
    found = [named[name] if name in named else args[places.index(name)] for name in names]
    return (found[0] if len(found) == 1 else tuple(found)) if found else None


def _dense(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a new tensor."""
    return torch.empty(tuple(shape), device="meta").stride()


def _holds_bytes(one: Tensor | Blank) -> bool:
    """Whether a tensor may hold an object on its way to another worker, which is one row of bytes."""
    return one.dtype == torch.uint8 and len(one.shape) == 1


def _blanks_in(results: Any) -> list[Blank]:
    """Return the blanks among an operator's results."""
    if isinstance(results, (list, tuple)):
        return [blank for one in results for blank in _blanks_in(one)]
    return [results] if isinstance(results, Blank) else []
