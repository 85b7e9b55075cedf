"""What an operator would return, found out without computing it.

Why: PyTorch computes forms without numbers by its fake tensors alone, which are in no public module; and which of an operator's
results are its arguments, or whether it is made of others, only its schema says.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import fake_impls
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ziggurat.torch_internals.containers import tree_map


@dataclass(frozen=True)
class Blank:
    """A tensor to be: its form alone."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """Elements."""
        return torch.Size(self.shape).numel()


@functools.cache
def _start_autograd() -> None:
    """Let autograd look for devices now.

    Why: where there is no GPU, a fake tensor's mode pretends that there are eight; autograd, which looks as its first backward pass
    begins, would start a thread for each, and refuse every backward pass in processes that are forked later.
    """
    with torch.enable_grad(), torch.inference_mode(False):
        torch.ones(1, requires_grad=True).sum().backward()


class Forms:
    """Answers what operators return on the CPU for tensors of some forms."""

    def __init__(self) -> None:
        _start_autograd()
        self._fake = FakeTensorMode()

    def of_call(self, operator: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Return the results of a call with a `Blank` in the place of each tensor.

        Raises:
            RuntimeError: If they depend on numbers, or nobody knows.
        """
        if _depends_on_device(operator):
            with self._fake:
                found = operator(*tree_map(_on_cpu, tuple(args)), **tree_map(_on_cpu, dict(named)))
        else:  # the same answer, in a hundredth of the time
            found = operator(*tree_map(_on_meta, tuple(args)), **tree_map(_on_meta, dict(named)))
        found = tree_map(blank_of, found)
        correct = CORRECTED.get(operator._schema.name)
        return found if correct is None else correct(found, args)


def _first_as(place: int) -> Callable[[Any, Sequence[Any]], Any]:
    """Return what gives the first result the memory format of an argument: channels-last where it is so, else that of new tensors."""

    def correct(found: Any, args: Sequence[Any]) -> Any:
        given: Tensor = args[place]
        format = torch.channels_last if given.dim() == 4 else torch.channels_last_3d
        is_last = given.dim() in (4, 5) and given.is_contiguous(memory_format=format)
        first, *others = found if isinstance(found, tuple) else (found,)
        meta = torch.empty(first.shape, device="meta")
        if is_last and not given.is_contiguous():
            meta = meta.to(memory_format=format)
        blank = Blank(first.shape, meta.stride(), first.dtype)
        return (blank, *others) if isinstance(found, tuple) else blank

    return correct


def _like_first(found: Any, args: Sequence[Any]) -> Any:
    """Give the result the strides of a tensor that is made like the first argument."""
    return Blank(found.shape, torch.empty_like(_on_meta(args[0])).stride(), found.dtype)


def _contiguous(found: Any, args: Sequence[Any]) -> Any:
    """Give all results the strides of new tensors."""
    return tree_map(_as_new, found)


def _as_new(one: Any) -> Any:
    return Blank(one.shape, torch.empty(one.shape, device="meta").stride(), one.dtype)


CORRECTED: dict[str, Callable[[Any, Sequence[Any]], Any]] = {
    "aten::native_group_norm": _first_as(0),
    "aten::max_unpool2d": _first_as(0),
    "aten::pixel_shuffle": _first_as(0),
    "aten::channel_shuffle": _first_as(0),
    "aten::roll": _like_first,
    **{f"aten::{kind}_pad{n}d": _first_as(0) for kind in ("replication", "reflection") for n in (2, 3)},
    **{f"aten::{kind}_pad{n}d_backward": _first_as(1) for kind in ("replication", "reflection") for n in (2, 3)},
    **{
        f"aten::{name}": _contiguous
        for name in (
            "log_sigmoid_forward", "glu_backward", "rrelu_with_noise", "mse_loss_backward", "smooth_l1_loss_backward",
            "huber_loss_backward",
        )
    },
}  # fmt: skip
"""Operators of whose results on the CPU PyTorch's own answer is wrong, as a comparison with real steps, and with real calls, has shown."""


@functools.cache
def _depends_on_device(operator: Any) -> bool:
    """Whether fake tensors know more of an operator than tensors without memory do."""
    return operator in fake_impls.op_implementations_dict or any(
        check(operator) for check, _ in fake_impls.op_implementations_checks
    )


def are_fake(types: Sequence[type]) -> bool:
    """Whether one of the types of an operator's arguments is that of PyTorch's fake tensors, with which it finds out results."""
    return FakeTensor in types


def _on_cpu(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)


def _on_meta(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("meta")
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def blank_of(value: Any) -> Any:
    """Return the `Blank` of a tensor; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    return Blank(tuple(value.shape), value.stride(), value.dtype)


@functools.cache
def changed_results(operator: Any) -> tuple[str, ...] | None:
    """Return the names of the arguments that an operator changes and returns, in order; None if it returns anything else."""
    schema = operator._schema
    changed = [one for one in schema.arguments if one.alias_info is not None and one.alias_info.is_write]
    found = []
    for result in schema.returns:
        if result.alias_info is None or not result.alias_info.is_write:
            return None
        found += [one.name for one in changed if one.alias_info.before_set == result.alias_info.before_set]
    return tuple(found) if changed else None


@functools.cache
def is_made_of_others(operator: Any) -> bool:
    """Whether an operator calls others and computes nothing itself: in inference mode PyTorch shows it before these."""
    composite = torch.DispatchKey.CompositeImplicitAutograd
    return bool(operator.has_kernel_for_dispatch_key(composite)) and not operator.has_kernel_for_dispatch_key(
        torch.DispatchKey.CPU
    )


def decomposed(operator: Any) -> Callable[..., Any]:
    """Return what calls the others that an operator is made of, as PyTorch does when it computes.

    Why: ``decompose`` prefers decompositions for tracing, by which enlarging a map is indexing and copying it.
    """
    composite = torch.DispatchKey.CompositeImplicitAutograd
    if torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), composite):
        return functools.partial(operator._op_dk, composite)
    call: Callable[..., Any] = operator.decompose
    return call


@functools.cache
def changes_form(operator: Any) -> bool:
    """Whether an operator changes the form of its argument in place, or gives it other memory, and no numbers."""
    name: str = operator._schema.name
    return torch.Tag.inplace_view in operator.tags or name in ("aten::set_", "aten::resize_")


@functools.cache
def draws(operator: Any) -> bool:
    """Whether an operator takes numbers from a generator."""
    return torch.Tag.nondeterministic_seeded in operator.tags


def group_of(operator: Any, args: Sequence[Any]) -> tuple[int, ...]:
    """Return the workers, by their number among all, of the process group that an operator of ``c10d`` is called with."""
    boxed = next(one for one in args if isinstance(one, torch.ScriptObject) and _is_group(one))
    return tuple(torch.distributed.get_process_group_ranks(torch.distributed.ProcessGroup.unbox(boxed)))


def _is_group(boxed: Any) -> bool:
    return str(boxed._type()).endswith("ProcessGroup")
