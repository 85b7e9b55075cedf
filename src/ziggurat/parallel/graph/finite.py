"""Questions whether numbers are finite, which a network asks while it is traced.

A trace has no values to answer with. But ``if not torch.isfinite(x).all(): x = x.clamp(...)``, which many detectors ask after each layer,
is meant for what must not happen. So the trace takes it that all numbers are finite, and notes the question as a call. It is asked
again of every microbatch, and another answer is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ziggurat.errors import UserError

QUESTIONS = {"isfinite": True, "isnan": False, "isinf": False}
"""What each is for numbers that are finite."""
KEEPING = {"all", "any", "clone", "detach"}
TURNING = {"logical_not", "bitwise_not", "__invert__"}
JOINING: dict[str, Callable[[Sequence[bool]], bool]] = {
    "logical_or": any, "bitwise_or": any, "__or__": any, "logical_and": all, "bitwise_and": all, "__and__": all,
}  # fmt: skip
TO_BOOLEANS = {"__bool__", "item"}


class FiniteWatch:
    """Knows which tensors of a trace say whether others are finite."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Tensor, bool]] = {}

    def after_call(self, func: Callable[..., Any], given: Sequence[Tensor], made: Sequence[Tensor]) -> None:
        """Note what a call of one of PyTorch's functions makes of such tensors."""
        name = getattr(func, "__name__", "")
        if len(made) != 1:
            return
        if name in QUESTIONS:
            self.known[id(made[0])] = made[0], QUESTIONS[name]
        elif given and all(id(tensor) in self.known for tensor in given):
            answers = [self.known[id(tensor)][1] for tensor in given]
            if name in KEEPING:
                self.known[id(made[0])] = made[0], answers[0]
            elif name in TURNING:
                self.known[id(made[0])] = made[0], not answers[0]
            elif name in JOINING:
                self.known[id(made[0])] = made[0], JOINING[name](answers)

    def answer(self, func: Callable[..., Any], given: Sequence[Tensor]) -> bool | None:
        """Return what a tensor says that becomes a boolean; None where it says something else."""
        asks = getattr(func, "__name__", "") in TO_BOOLEANS and len(given) == 1
        return self.known[id(given[0])][1] if asks and id(given[0]) in self.known else None


def answered_as_traced(answer: bool, layer: str, said: Tensor) -> None:
    """Ask again, of a microbatch.

    Args:
        answer: For finite numbers.
        layer: That asks.
        said: What became a boolean.

    Raises:
        UserError: If it is another one.
    """
    if bool(said) is not answer:
        raise UserError(
            f"the layer '{layer}' asks whether numbers are finite, and they are not: under pp, lp and tp the network is traced for finite "
            "ones; lower the learning rate, compute in another type, or run it without pp, lp and tp"
        )
