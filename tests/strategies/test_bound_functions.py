"""Custom autograd functions by a name that was given to their ``apply`` before, as most are called: exact, or refused by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support.own_swish import OwnSwish
from support.verdicts import make_trial, verdict_of

Context = Any


class SetUp(torch.autograd.Function):
    """Has its context apart, and another gradient than what its forward pass has."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # type: ignore[override] - without a context
        return x.tanh()

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> Tensor:  # type: ignore[override] - of one
        (x,) = ctx.saved_tensors
        return gradient * 0.5 * x.cos()


class Rounded(torch.autograd.Function):
    """Returns what has no gradient, and passes on what it is given (straight through)."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> Tensor:
        return (x * 4).round() / 4

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> Tensor:  # type: ignore[override] - of one
        return gradient


class Reversed(torch.autograd.Function):
    """Returns its argument as it is, and turns its gradient round."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> Tensor:  # type: ignore[override] - of one
        return -gradient


class InPlace(torch.autograd.Function):
    """Changes its argument."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> Tensor:  # type: ignore[override] - of one
        return gradient * 3


class Two(torch.autograd.Function):
    """Returns two maps."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, x * 2

    @staticmethod
    def backward(ctx: Context, one: Tensor, other: Tensor) -> Tensor:  # type: ignore[override] - of two
        return one * 5 + other


FUNCTIONS = (OwnSwish, SetUp, Rounded, Reversed, InPlace, Two)
NAMES: dict[type, Any] = {function: function.apply for function in FUNCTIONS}  # bound as this is imported


def one_of(result: Any) -> Tensor:
    found: Tensor = result[0] + result[1] if isinstance(result, tuple) else result
    return found


class Named(nn.Module):
    """A layer that calls a function by its name."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = NAMES[function]

    def forward(self, x: Tensor) -> Tensor:
        return one_of(self.function(x * 1.0))


class Kept(Named):
    """Has it in a partial."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self.function = functools.partial(NAMES[function])


class Listed(Named):
    """Has it in a list."""

    def forward(self, x: Tensor) -> Tensor:
        return one_of([self.function][0](x * 1.0))


class Deeper(nn.Module):
    """Has a layer, too."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.inner, self.function = nn.Conv2d(8, 8, 1), NAMES[function]

    def forward(self, x: Tensor) -> Tensor:
        return one_of(self.function(self.inner(x)))


class AtTheEnd(nn.Module):
    """Is called by the network itself, and nothing comes after it."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.body, self.function = body(nn.Identity()), NAMES[function]

    def forward(self, x: Tensor) -> Tensor:
        return one_of(self.function(self.body(x)))


class AtTheBeginning(nn.Module):
    """Gives the images to it before anything else."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.body, self.function = body(nn.Identity()), NAMES[function]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(one_of(self.function(x * 1.0)))
        return result


class FirstOfALayer(nn.Module):
    """Gives what it is given to it, and that to a layer of its own."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.inner, self.function = nn.Conv2d(3, 3, 1), NAMES[function]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(one_of(self.function(x * 1.0)))
        return result


class Body(nn.Module):
    """A pyramid of two levels, of which one goes through a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.left = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 3, padding=1))
        self.right = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 3, padding=1))
        self.layer = layer
        self.last = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.stem(x))
        result: Tensor = self.last(self.left(x) + self.right(x))
        return result


def body(layer: nn.Module) -> nn.Module:
    return Body(layer)


PLACES: dict[str, Callable[[Any], nn.Module]] = {
    "a layer": lambda function: body(Named(function)),
    "a partial in a layer": lambda function: body(Kept(function)),
    "a list in a layer": lambda function: body(Listed(function)),
    "a layer with a layer": lambda function: body(Deeper(function)),
    "the end": AtTheEnd,
    "the beginning": AtTheBeginning,
    "the first layer": lambda function: nn.Sequential(FirstOfALayer(function), body(nn.Identity())),
}
PLANS = ("dp=2", "sp=2", "pp=2", "lp=2", "tp=2", "fsdp=2", "sp=2,pp=2", "sp=2,tp=2")


@pytest.mark.sampled(6)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_exact_or_refused(function: Any, place: str, plan: str) -> None:
    torch.manual_seed(0)
    network = PLACES[place](function).double()
    is_refused_before = place in ("the end", "the beginning") and plan in ("sp=2,pp=2", "sp=2,tp=2")
    if function is InPlace and plan.startswith("sp") and not is_refused_before:
        with pytest.raises(RuntimeError, match="in an in-place operation"):  # PyTorch's own
            verdict_of(network, plan, make_trial())
        return
    verdict = verdict_of(network, plan, make_trial())
    assert verdict.word in ("exact", "refused"), verdict
    if plan in ("dp=2", "fsdp=2") or (place == "a layer" and plan in ("pp=2", "lp=2", "tp=2")):
        assert verdict.word == "exact", verdict.why


def test_the_refusal_says_what_to_do() -> None:
    verdict = verdict_of(AtTheEnd(OwnSwish).double(), "pp=2", make_trial())
    assert "call `apply` of its class there" in verdict.why
    verdict = verdict_of(PLACES["a layer"](OwnSwish).double(), "sp=2", make_trial())
    assert "call `apply` of its class where it is used" in verdict.why
