"""Which modules of a network run when, and which weights are used within which: what decides what may be gathered together.

A module's weights may be used by others (``F.conv2d(x, self.conv.weight)``), by several (tied ones), and a module may run
several times in a pass (the head of a detector, on every level). The graph of calls does not tell all of it: a layer that is
one call there may have layers inside, each with its weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.parallel.graph.generators import key_others
from ziggurat.parallel.graph.untouched import as_before
from ziggurat.torch_internals.functions import FunctionMode


@dataclass
class Uses:
    """What ran, and what was used, in one forward pass.

    Attributes:
        runs: How often each module's forward ran, by its name; the network itself has the empty one.
        within: By the name of a parameter or buffer that was used, the modules that ran during every use of it.
    """

    runs: Counter[str] = field(default_factory=Counter)
    within: dict[str, frozenset[str]] = field(default_factory=dict)


class UseWatch:
    """Takes note of uses while a network runs.

    Args:
        name_of: From a tensor to its name as a parameter or buffer; empty for any other.

    Attributes:
        uses: What was noted.
    """

    def __init__(self, name_of: Callable[[Tensor], str]) -> None:
        self.name_of, self.uses = name_of, Uses()
        self.running: list[str] = []

    def enter(self, name: str) -> None:
        """Note that a module's forward begins."""
        self.running.append(name)
        self.uses.runs[name] += 1

    def leave(self) -> None:
        """Note that the innermost module's forward ends."""
        self.running.pop()

    def call(self, func: Callable[..., Any], args: Iterable[Any], result: Any) -> None:
        """Note a call of one of PyTorch's functions."""
        is_question = getattr(func, "__name__", "") == "__get__" and not isinstance(result, Tensor)
        if not is_question:  # a shape needs no weights
            self.use(args)

    def use(self, values: Iterable[Any]) -> None:
        """Note that tensors among values, and in lists among them, are used."""
        for tensor in _tensors(values):
            if name := self.name_of(tensor):
                now = frozenset(self.running)
                self.uses.within[name] = self.uses.within.get(name, now) & now


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def observe_uses(model: nn.Module, images: Tensor) -> Uses:
    """Return what a network uses of itself, by running it: for one that cannot be traced, as it looks at values.

    Args:
        model: With its weights. Buffers and random numbers are as before afterwards.
        images: What it takes.
    """
    names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    watch = UseWatch(lambda tensor: names.get(id(tensor), ""))
    with as_before(model), torch.no_grad(), _watching(model, watch), _Functions(watch):
        torch.manual_seed(0)  # which of its layers run may depend on it: the same on every worker
        key_others()
        model(images)
    return watch.uses


class _Functions(FunctionMode):
    def __init__(self, watch: UseWatch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.watch.call(func, (*args, *(kwargs or {}).values()), result)
        return result


@contextmanager
def _watching(model: nn.Module, watch: UseWatch) -> Iterator[None]:
    hooks: list[Any] = []

    def enter(name: str, module: nn.Module, args: Any) -> None:
        watch.enter(name)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        watch.leave()

    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(partial(enter, name), prepend=True))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
