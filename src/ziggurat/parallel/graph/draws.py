"""Numbers that a network draws while it is traced, and that a trace would keep for ever.

A tensor that PyTorch draws is a call of the trace, and drawn anew each time. A number is not: one of NumPy's or Python's generator, or a
tensor that becomes a number (``if torch.rand(()) < p``). Nor are keys that a network gives to PyTorch's generator, or a generator that
it makes.

Numbers of NumPy and Python are drawn while a network is traced, too. So where these alone are drawn each microbatch has a trace of its own,
made with the states that the generators have before it (see `numbers`). All else is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.graph.cannot_cut import DrawsNumbers
from ziggurat.parallel.graph.generators import Generators
from ziggurat.torch_internals.functions import unseen

DRAWING = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli", "normal", "multinomial",
    "poisson", "bernoulli_", "normal_", "uniform_", "random_", "exponential_", "geometric_", "cauchy_", "log_normal_",
}  # fmt: skip
TO_NUMBERS = {
    "item",
    "tolist",
    "numpy",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "__complex__",
    "__array__",
}
REMEDY = (
    "draw a tensor instead, and multiply by it (x * torch.rand((), device=x.device)); or draw from NumPy or Python in a layer that has no "
    "layers in it, which is called as it is; or run it without pp, lp and tp"
)


def said_of(used: Generators) -> str:
    """Return what a network does that has used generators."""
    return f"draws from {' and '.join(used.names)}, or keys it, while it is traced"


class DrawWatch:
    """Looks for draws between the calls of a trace.

    Args:
        what: The network's class.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.drawn: dict[int, Tensor] = {}  # tensors that are drawn, or made of such alone
        self.seed = torch.initial_seed()
        self.forget()

    def forget(self) -> None:
        """Go on from here: what was drawn so far is drawn anew each time."""
        with unseen():
            self.before = Generators.now()

    def check(self, layer: str) -> Generators | None:
        """Look whether a generator was used since the last look.

        Args:
            layer: Where the network is; empty for its own forward.

        Returns:
            The states of NumPy's and Python's that were used; None where none was.

        Raises:
            DrawsNumbers: Naming the generator and the layer, if it is one of PyTorch's.
        """
        with unseen():
            used = Generators.now().changed_since(self.before)
        if not used.names:
            return None
        if used.host is not None or used.device is not None:
            self._refuse(layer, said_of(used))
        self.forget()
        return used

    def uses(self) -> bool:
        """Whether a generator was used since the last look."""
        with unseen():
            return bool(Generators.now().changed_since(self.before).names)

    def before_call(
        self, func: Callable[..., Any], values: Sequence[Any], given: Sequence[Tensor], layer: str
    ) -> None:
        """Look at a call of one of PyTorch's functions.

        Args:
            func: What is called.
            values: Its arguments.
            given: The tensors in them.
            layer: Where the network is.

        Raises:
            DrawsNumbers: If it makes a number of what was drawn, draws from a generator of the network's own, or the network has keyed
                PyTorch's before it.
        """
        if any(isinstance(value, torch.Generator) for value in values):
            self._refuse(layer, "draws from a generator of its own (torch.Generator)")
        if torch.initial_seed() != self.seed:
            self._refuse(layer, "keys PyTorch's generator while it is traced (torch.manual_seed)")
        self.before_number(func, given, layer)

    def before_number(self, func: Callable[..., Any], given: Sequence[Tensor], layer: str) -> None:
        """Look at what may be a number of a tensor that is drawn; also within layers that are one call: there are no values.

        Raises:
            DrawsNumbers: If it is.
        """
        if getattr(func, "__name__", "") in TO_NUMBERS and any(id(tensor) in self.drawn for tensor in given):
            self._refuse(layer, "makes a number of a tensor that it draws while it is traced")

    def after_call(self, func: Callable[..., Any], given: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        """Note what a call has made of what is drawn."""
        draws = getattr(func, "__name__", "") in DRAWING
        if draws or (given and all(id(tensor) in self.drawn for tensor in given)):
            self.drawn |= {id(tensor): tensor for tensor in made}

    def _refuse(self, layer: str, what: str) -> None:
        place = f"the layer '{layer}'" if layer else "its forward"
        raise DrawsNumbers(
            f"{self.what} cannot be cut into stages: {place} {what}: a trace has it once and for all; {REMEDY}"
        )
