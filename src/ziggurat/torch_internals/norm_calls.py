"""Calls of PyTorch's batch norm and instance norm, whoever makes them: a layer, a function, a recorded program.

What is done around them here: running statistics are given to whoever keeps them, and results to whoever looks at them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.torch_internals.switches import Switch

NAMES = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum")
"""The arguments that come first, of all three functions; the sixth has another name in `torch.instance_norm`."""

BY_FUNCTION = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum")
"""Those of the functions in `torch.nn.functional`, likewise."""

After = Callable[[str, Any, Tensor], None]


class Keeper(Protocol):
    """Takes running statistics in the place of the buffers that they are given for."""

    def knows(self, running_mean: Tensor | None, running_var: Tensor | None) -> bool:
        """Whether these buffers are among its own."""

    def refuse(self, running_mean: Tensor | None, running_var: Tensor | None) -> None:
        """Raise if a call would change buffers that are its own, and that it cannot keep."""

    def read(self, running_mean: Tensor) -> None:
        """Note that a call normalizes by the running statistics."""

    def take(
        self, running_mean: Tensor, momentum: float, mean: Tensor, variance: Tensor, again: bool
    ) -> None:
        """Take the statistics of a call.

        Args:
            running_mean: The buffer that they belong to, which stays as it is.
            momentum: That the call was given: the weight of its statistics.
            mean: Of each channel.
            variance: Of each channel, unbiased.
            again: Whether the call is one of backward's, which repeats one of forward's (activation checkpointing).
        """


_keepers: list[Keeper] = []  # of all threads
_after: list[After] = []
# Through these go all layers and functions of Python.
_originals: dict[str, Callable[..., Any]] = {
    name: getattr(torch, name) for name in ("batch_norm", "native_batch_norm", "instance_norm")
}


@contextmanager
def keeping_statistics(keeper: Keeper) -> Iterator[None]:
    """While a block runs, running statistics that a keeper knows are its to take, and their buffers stay as they are.

    Calls of scripted and compiled code are not seen.

    Why so: a mode that sees every function would cost some percent of a small network's step; hooks on layers do not see
    who calls ``torch.nn.functional.batch_norm`` with a layer's buffers; PyTorch has no hook for one function.
    """
    with _joined(_keepers, keeper):
        yield


@contextmanager
def after_norms(look: After) -> Iterator[None]:
    """While a block runs, call a function with the name, the result and the input of each norm. Why so: as `keeping_statistics`."""
    with _joined(_after, look):
        yield


@contextmanager
def _joined(places: list[Any], one: Any) -> Iterator[None]:
    with _switch.held():
        places.append(one)
        try:
            yield
        finally:
            places.remove(one)


def _stand_in() -> None:
    for name in _originals:
        setattr(torch, name, _Call(name))


def _stand_back() -> None:
    for name, original in _originals.items():
        setattr(torch, name, original)


_switch = Switch(_stand_in, _stand_back)


class _Call:
    """Is ``torch.batch_norm``, or another of its names."""

    def __init__(self, name: str) -> None:
        self.name = self.__name__ = name

    def __call__(self, *args: Any, **named: Any) -> Any:
        original = _originals[self.name]
        if torch.compiler.is_compiling():
            return original(*args, **named)
        result = _call_keeping(original, args, named)
        for look in dict.fromkeys(_after):  # of several blocks each function once
            look(self.name, result, args[0] if args else named["input"])
        return result


def _call_keeping(original: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Call a norm; its statistics go to the keeper that knows its buffers."""
    given = dict(zip(NAMES, args, strict=False)) | named
    training = given.get("training", given.get("use_input_stats"))
    mean, variance = given.get("running_mean"), given.get("running_var")
    keeper = keeper_of(mean, variance, bool(training))
    if keeper is None or mean is None or variance is None:
        return original(*args, **named)
    if not training:
        keeper.read(mean)
        return original(*args, **named)
    found = torch.zeros_like(mean), torch.zeros_like(variance)
    replaced = dict(zip(("running_mean", "running_var", "momentum"), (*found, 1.0), strict=True))
    positional = [replaced.get(name, value) for name, value in zip(NAMES, args, strict=False)]
    result = original(
        *positional, *args[len(NAMES) :], **{name: replaced.get(name, value) for name, value in named.items()}
    )
    keeper.take(mean, given["momentum"], *found, is_in_backward())
    return result


def as_seen(func: Any) -> Any:
    """Return a function that does what a norm of PyTorch's own does, in sight of who keeps statistics; any other as it is."""
    name = next((name for name, original in _originals.items() if func is original), None)
    return func if name is None else _Call(name)


def statistics_changed_by(func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> list[Tensor]:
    """Return the running statistics that a call changes, of which PyTorch keeps no account (`Tensor._version`)."""
    if func in (functional.batch_norm, functional.instance_norm):
        names = BY_FUNCTION
    elif isinstance(func, _Call) or any(func is original for original in _originals.values()):
        names = NAMES
    else:
        return []
    given = dict(zip(names, args, strict=False)) | named
    if not given.get("training", given.get("use_input_stats", func is functional.instance_norm)):
        return []
    return [given[name] for name in ("running_mean", "running_var") if given.get(name) is not None]


def is_in_backward() -> bool:
    """Whether autograd's backward pass runs, of which this is a part. Why: nothing documented tells; `Node.name` and hooks do not."""
    task: int = torch._C._current_graph_task_id()
    return task != -1


def keeper_of(running_mean: Tensor | None, running_var: Tensor | None, changes: bool) -> Keeper | None:
    """Return who keeps the running statistics of these buffers at present; whoever cannot keep what a call changes refuses it."""
    for keeper in list(_keepers):
        if keeper.knows(running_mean, running_var):
            return keeper
        if changes:
            keeper.refuse(running_mean, running_var)
    return None


@torch.no_grad()
def add_statistics(
    running_mean: Tensor, running_var: Tensor, momentum: float, mean: Tensor, variance: Tensor
) -> None:
    """Add a batch's statistics to running ones, or give them to who keeps these, as PyTorch's own norms do.

    Args:
        running_mean: Of each channel; changed in place, unless somebody keeps it.
        running_var: Likewise.
        momentum: The weight of the batch's statistics.
        mean: Of the batch.
        variance: Of the batch, unbiased.
    """
    mean, variance = mean.to(running_mean.dtype), variance.to(running_var.dtype)
    if (keeper := keeper_of(running_mean, running_var, True)) is not None:
        keeper.take(running_mean, momentum, mean, variance, is_in_backward())
        return
    for running, found in ((running_mean, mean), (running_var, variance)):
        running.mul_(1 - momentum).add_(found, alpha=momentum)
