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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


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


def find_units(model: nn.Module, forward: Callable[[], object], unit_bytes: int) -> list[nn.Module]:
    """Return the modules that are sharded each as one piece, inner ones first; the model itself is not among them.

    Args:
        model: With whole weights. Buffers and random numbers are as before afterwards.
        forward: Runs the model once, in its present mode.
        unit_bytes: Parameters of the smallest unit.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)))
        >>> find_units(model, lambda: model(torch.ones(1, 4)), unit_bytes=200)
        [Sequential(
          (0): Linear(in_features=4, out_features=8, bias=True)
          (1): Linear(in_features=8, out_features=4, bias=True)
        )]
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    uses = _Uses(model)
    with torch.no_grad(), torch.random.fork_rng(), uses.watch():
        forward()
    for buffer, before in buffers:
        buffer.data.copy_(before)
    units: list[nn.Module] = []
    taken: set[int] = set()
    for module in reversed(list(model.modules())):  # parts come before what they are parts of
        mine = [p for p in module.parameters() if id(p) not in taken]
        is_closed = all(module in uses.during.get(id(p), {module}) for p in module.parameters())
        size = sum(p.numel() * p.element_size() for p in mine)
        if module is not model and uses.calls[module] == 1 and is_closed and size >= unit_bytes:
            units.append(module)
            taken |= {id(p) for p in mine}
    return units
