"""Which modules are sharded as one piece: fsdp gathers the weights of a unit before its forward, and drops them after.

This is right only for weights that are used while the unit's forward runs. A network may reach into its parts
(``F.conv2d(x, self.conv.weight)``, attention that calls its projection's weight), tie weights, or call a part for every
level of a pyramid. So the uses of all weights are recorded in one forward pass, and a unit is a module

- whose forward runs once in the pass (a head that runs on every level is gathered with what calls it), and
- while which all uses of its parameters lie.

Of these the smallest that have enough bytes are taken. What remains is the root's, and stays gathered for the whole pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ziggurat.parallel.graph.meta import meta_copy

# What PyTorch and a network's own code raise on tensors without values, and what a copy may.
WITHOUT_VALUES = (RuntimeError, TypeError, ValueError, IndexError)


class _Uses(TorchFunctionMode):
    """While it is active: which modules' forwards run, how often, and during which each parameter is used.

    Args:
        model: Its modules are watched.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.known = {id(parameter) for parameter in model.parameters()}
        self.running: list[nn.Module] = []
        self.calls: Counter[nn.Module] = Counter()
        self.during: dict[int, set[nn.Module]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        is_question = getattr(func, "__name__", "") == "__get__" and not isinstance(result, Tensor)
        if not is_question:  # a shape needs no weights
            for value in _flat([*args, *(kwargs or {}).values()]):
                self._use(value)
        return result

    def _use(self, value: Any) -> None:
        if id(value) in self.known:
            now = set(self.running)
            self.during[id(value)] = self.during.get(id(value), now) & now

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch what runs inside."""

        def enter(module: nn.Module, args: Any) -> None:
            self.running.append(module)
            self.calls[module] += 1

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self.running.pop()

        hooks: list[Any] = []
        for module in self.model.modules():
            hooks.append(module.register_forward_pre_hook(enter, prepend=True))
            hooks.append(module.register_forward_hook(leave, always_call=True))
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()


def _flat(values: list[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(list(value))
        else:
            yield value


def find_units(model: nn.Module, shape: Sequence[int], unit_bytes: int) -> list[nn.Module]:
    """Return the modules that are sharded each as one piece, inner ones first; the model itself is not among them.

    What is observed is a copy without memory; the model itself, on black images, only where what it computes depends on
    values, or where it cannot be copied.

    Args:
        model: With whole weights. Buffers and random numbers are as before afterwards.
        shape: Of images that it takes, ``(B, C, H, W)``.
        unit_bytes: Parameters of the smallest unit.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)))
        >>> find_units(model, (1, 3, 4, 4), unit_bytes=200)
        [Sequential(
          (0): Conv2d(4, 8, kernel_size=(1, 1), stride=(1, 1))
          (1): Conv2d(8, 4, kernel_size=(1, 1), stride=(1, 1))
        )]
    """
    uses = _uses_of_meta(model, shape) or _uses_of(model, shape)
    twins = dict(zip(model.modules(), uses.model.modules(), strict=True))
    units: list[nn.Module] = []
    taken: set[int] = set()
    for module, twin in reversed(twins.items()):  # parts come before what they are parts of
        mine = [p for p in module.parameters() if id(p) not in taken]
        is_closed = all(twin in uses.during.get(id(p), {twin}) for p in twin.parameters())
        size = sum(p.numel() * p.element_size() for p in mine)
        if module is not model and uses.calls[twin] == 1 and is_closed and size >= unit_bytes:
            units.append(module)
            taken |= {id(p) for p in mine}
    return units


def _uses_of_meta(model: nn.Module, shape: Sequence[int]) -> _Uses | None:
    """Return what a copy without memory uses, or None if it cannot be had or run."""
    try:
        uses = _Uses(meta_copy(model).float())  # of one type, as it has no values that could overflow
        with torch.device("meta"), torch.no_grad(), torch.random.fork_rng(), uses.watch():
            uses.model(torch.empty(*shape))
    except WITHOUT_VALUES:
        return None
    return uses


def _uses_of(model: nn.Module, shape: Sequence[int]) -> _Uses:
    """Return what a model uses."""
    uses = _Uses(model)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    with torch.no_grad(), torch.random.fork_rng(), uses.watch():
        model(torch.zeros(*shape, dtype=like.dtype, device=like.device))
    for buffer, before in buffers:
        buffer.data.copy_(before)
    return uses
