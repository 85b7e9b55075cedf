"""Building a network whose state comes from elsewhere: what its layers would draw at random for it is not drawn.

Drawing 32 million weights takes a quarter of a second, and a vision transformer's truncated normals a second and more; then a state
overwrites them. What is drawn in place is left as the memory is, and each tensor that is computed from what is drawn is *without values*:

    parameters and buffers of the state without values          are overwritten: well
    anything else without values that is there in the end       ┐ the network is built once more, with all that is drawn:
    a number, a shape or a list that depends on such values     ┘ as where no state is at hand
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ziggurat.torch_internals.functions import DispatchMode, FunctionMode, changes_arguments
from ziggurat.torch_internals.tensors import memory_key

Model = TypeVar("Model", bound=nn.Module)
READS = frozenset(
    {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__}
)  # values, out of sight of operators


def build_undrawn(build: Callable[[], Model], begin: Callable[[], None]) -> Model:
    """Return a network whose parameters and saved buffers need not have the values that they would be given.

    Args:
        build: Builds a network.
        begin: Seeds what is drawn; called before each time that it builds.

    Example:
        >>> net = build_undrawn(lambda: nn.Linear(3, 4), lambda: None)
        >>> net.weight.shape
        torch.Size([4, 3])
    """
    watch = _Watch()
    begin()
    try:
        with watch, _Reads(watch):
            built = build()
        if watch.is_enough(built):
            return built
    except Exception:  # noqa: BLE001 - it may miss values; if it is wrong otherwise, it says so below in its own words
        built = None
    begin()
    return build()


class _MissedError(Exception):
    """Something depends on a value that was not drawn."""


class _Watch(DispatchMode):
    """Leaves out what is drawn in place, and follows what is computed from anything drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.misses = False
        self._without: set[int] = set()  # memory without values
        self._seen: list[weakref.ref[Tensor]] = []  # tensors in such memory

    def lacks(self, tensor: Tensor) -> bool:
        """Whether a tensor is without values."""
        return memory_key(tensor) in self._without

    def miss(self) -> None:
        """Note that values are missed.

        Raises:
            _MissedError: Always; the network's own code may catch it.
        """
        self.misses = True
        raise _MissedError

    def is_enough(self, built: nn.Module) -> bool:
        """Whether nothing but the state of a network is without values."""
        state = {memory_key(tensor) for tensor in built.state_dict(keep_vars=True).values()}
        alive = (one for ref in self._seen if (one := ref()) is not None)
        return not self.misses and all(memory_key(one) in state or not self.lacks(one) for one in alive)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator, or not."""
        kwargs = kwargs or {}
        is_drawn = torch.Tag.nondeterministic_seeded in func.tags
        changed = [*_tensors(args[:1]), *_tensors(kwargs.get("out"))] if changes_arguments(func) else []
        if changed and torch.Tag.inplace in func.tags and (is_drawn or self.lacks(changed[0])):
            self._forgo(changed[0])
            return changed[0]
        lacks = is_drawn or any(map(self.lacks, _tensors((args, kwargs))))
        if lacks and {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags):
            self.miss()
        result = func(*args, **kwargs)
        made = [*_tensors(result), *changed]
        if lacks and not made:
            self.miss()
        for tensor in made:
            if lacks:
                self._forgo(tensor)
            elif not changed and not func.is_view:  # memory that another had before, perhaps
                self._without.discard(memory_key(tensor))
        return result

    def _forgo(self, tensor: Tensor) -> None:
        self._without.add(memory_key(tensor))
        self._seen.append(weakref.ref(tensor))


class _Reads(FunctionMode):
    """Sees what reads values out of sight of operators."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, or say that it misses values."""
        if func in READS and self.watch.lacks(args[0]):
            self.watch.miss()
        return func(*args, **(kwargs or {}))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
