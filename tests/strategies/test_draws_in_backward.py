"""Random numbers that are drawn in the backward pass, by hooks and custom functions: those of one worker, or refused by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from support.verdicts import make_trial, reference_in_a_process, verdict_of
from ziggurat.config import override

Gradients = tuple[Tensor | None, ...] | Tensor


def torchs(gradient: Tensor) -> Tensor:
    return gradient * torch.rand_like(gradient)


def by_shape(gradient: Tensor) -> Tensor:
    return gradient * torch.rand(gradient.shape, dtype=gradient.dtype)


def numpys(gradient: Tensor) -> Tensor:
    return gradient * float(np.random.rand())


def pythons(gradient: Tensor) -> Tensor:
    return gradient * random.random()


def each(module: nn.Module, gradients: Gradients, *_: Gradients) -> tuple[Tensor | None, ...]:
    return tuple(None if one is None else torchs(one) for one in gradients)


class Shaken(torch.autograd.Function):
    """Another factor for each image in the backward pass (ShakeDrop)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x * 1.0

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:  # type: ignore[override] - of one
        return gradient * torch.rand(gradient.shape[0], dtype=gradient.dtype).view(-1, 1, 1, 1)


class Network(nn.Module):
    """Two branches between convolutions: something for every plan.

    Args:
        first: What is done to the map before the branches.
        second: To that after them.
    """

    def __init__(self, first: Callable[[Tensor], object], second: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.left = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 3, padding=1))
        self.right = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 3, padding=1))
        self.last = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        changed = self.first(x)
        x = changed if isinstance(changed, Tensor) else x
        x = self.left(x) + self.right(x)
        changed = self.second(x)
        result: Tensor = self.last(changed if isinstance(changed, Tensor) else x)
        return result


def nothing(x: Tensor) -> None:
    return None


def on_a_map(draw: Callable[[Tensor], Tensor], place: int) -> Network:
    def register(x: Tensor) -> None:
        if x.requires_grad:
            x.register_hook(draw)

    return Network(*((register, nothing) if place == 0 else (nothing, register)))


def on_a_layer(register: str, *names: str) -> Network:
    network = Network(nothing, nothing)
    for name in names:
        getattr(network.get_submodule(name), register)(
            each
            if register == "register_full_backward_hook"
            else lambda module, gradients: each(module, gradients)
        )
    return network


def on_a_parameter(name: str) -> Network:
    network = Network(nothing, nothing)
    network.get_parameter(name).register_hook(torchs)
    return network


WAYS: dict[str, Callable[[], Network]] = {
    "a hook on the first map": lambda: on_a_map(torchs, 0),
    "a hook on the second map": lambda: on_a_map(torchs, 1),
    "by shape in a hook on the first map": lambda: on_a_map(by_shape, 0),
    "by shape in a hook on the second map": lambda: on_a_map(by_shape, 1),
    "NumPy's in a hook on the first map": lambda: on_a_map(numpys, 0),
    "NumPy's in a hook on the second map": lambda: on_a_map(numpys, 1),
    "Python's in a hook on the first map": lambda: on_a_map(pythons, 0),
    "Python's in a hook on the second map": lambda: on_a_map(pythons, 1),
    "a hook on a layer": lambda: on_a_layer("register_full_backward_hook", "left.0"),
    "a hook before a layer": lambda: on_a_layer("register_full_backward_pre_hook", "left.0"),
    "hooks on both branches": lambda: on_a_layer("register_full_backward_hook", "left.0", "right.2"),
    "a hook on the last layer": lambda: on_a_layer("register_full_backward_hook", "last.2"),
    "a hook on the first weight": lambda: on_a_parameter("stem.0.weight"),
    "a hook on the last weight": lambda: on_a_parameter("last.2.weight"),
    "a custom function on the first map": lambda: Network(Shaken.apply, nothing),
    "a custom function on the second map": lambda: Network(nothing, Shaken.apply),
}
PLANS = ("dp=2", "sp=2", "pp=2", "lp=2", "tp=2", "fsdp=2", "sp=2,pp=2", "dp=2,pp=2", "sp=2,tp=2")


@pytest.mark.sampled(5)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("way", WAYS)
def test_exact_or_refused(way: str, plan: str) -> None:
    torch.manual_seed(0)
    network, trial = WAYS[way]().double(), make_trial()
    verdict = verdict_of(network, plan, trial, reference_in_a_process(network, trial))
    assert verdict.word in ("exact", "refused"), verdict
    if plan == "dp=2" or (plan == "sp=2" and "by shape" in way):
        assert verdict.word == "exact", verdict.why


def test_stages_say_why() -> None:
    verdict = verdict_of(WAYS["a hook on the first map"]().double(), "pp=2", make_trial())
    assert "drawn in the backward pass (from PyTorch's generator), by a hook" in verdict.why


def test_numbers_that_are_drawn_again_are_no_new_ones() -> None:
    """What a checkpoint computes again in the backward pass draws what its forward pass has drawn."""
    network = Network(lambda x: nn.functional.dropout(x, 0.5), nothing).double()
    trial = make_trial()
    trial = replace(trial, config=override(trial.config, {"pipeline.checkpoint": "stage"}))
    assert verdict_of(network, "pp=2", trial).word == "exact"
