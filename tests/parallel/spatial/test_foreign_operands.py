"""Operators with an operand that PyTorch does not know: the operand's own operator is asked, as on one worker, or the error is the same."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from support.ranks import run_ranks
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.spatial import SpatialTensor, UnsupportedOperation, cut, spatial_mesh

NAMES = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "lshift", "rshift",
    "eq", "ne", "lt", "le", "gt", "ge",
    "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor",
)  # fmt: skip


class Answers:
    """Has every operator of its own, from either side."""

    def answer(self, *_: Any) -> str:
        return "its own"

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = answer
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __matmul__ = __rmatmul__ = answer
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = answer
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = answer
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = answer  # type: ignore[assignment] - no truth
    __hash__ = object.__hash__


REFUSED = {("ipow", "one with operators", "left")}
OPERANDS: dict[str, Callable[[], Any]] = {
    "an object": object,
    "one with operators": Answers,
    "None": lambda: None,
    "a word": lambda: "mean",
    "a dict": dict,
    "a tuple": tuple,
    "a type": lambda: torch.float32,
}


def outcome(function: Callable[[], Any]) -> str:
    """Return what comes of it: an answer, or the kind of error."""
    try:
        result = function()
    except Exception as error:  # noqa: BLE001 - which it is, is the question
        return type(error).__name__
    return type(result).__name__ if isinstance(result, Tensor) else repr(result)


def outcomes(x: Tensor) -> dict[tuple[str, str, str], str]:
    """Return what comes of every operator, with the tensor on either side."""
    found = {}
    for name in NAMES:
        for kind, make in OPERANDS.items():
            operate, operand = getattr(operator, name), make()
            found[name, kind, "left"] = outcome(lambda o=operate, y=operand: o(x.clone(), y))
            found[name, kind, "right"] = outcome(lambda o=operate, y=operand: o(y, x.clone()))
    return found


def differing(workers: Workers) -> list[str]:
    mesh = spatial_mesh(workers, (2,))
    whole = torch.randn(2, 3, 6, 5)
    own, right = outcomes(cut(whole, mesh)), outcomes(whole)
    return [
        f"{key}: {own[key]} instead of {right[key]}"
        for key in right
        if own[key].replace(SpatialTensor.__name__, "Tensor") != right[key]
        and not (
            own[key] == UnsupportedOperation.__name__ and (right[key].endswith("Error") or key in REFUSED)
        )
    ]


@pytest.mark.filterwarnings("ignore")
def test_as_on_one_worker() -> None:
    assert run_ranks(differing) == [[], []]
