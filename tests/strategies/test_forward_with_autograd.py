"""Networks that use autograd and its modes themselves while they run: gradients, detached tensors, checkpoints, copies of layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from support.verdicts import make_trial, reference_in_a_process, verdict_of


class Inner(nn.Module):
    """A layer with layers in it, which does what is asked about."""

    def __init__(self, does: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.does = does
        self.mid, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.does(self, x)


class Network(nn.Module):
    """Two branches behind it: something for every plan."""

    def __init__(self, does: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.inner = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh()), Inner(does)
        self.left = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.Tanh(), nn.Conv2d(64, 8, 3, padding=1))
        self.right = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.Tanh(), nn.Conv2d(64, 8, 3, padding=1))
        self.last = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(self.stem(x))
        result: Tensor = self.last(self.left(x) + self.right(x))
        return result


def within(block: Callable[[], AbstractContextManager[Any]]) -> Callable[[Inner, Tensor], Tensor]:
    """Return what adds what a layer computes in a block."""

    def does(layer: Inner, x: Tensor) -> Tensor:
        with block():
            made: Tensor = layer.mid(x)
        return x + made

    return does


def gradient_of(layer: Inner, x: Tensor, create_graph: bool, through: bool) -> Tensor:
    with torch.enable_grad():
        inner = x if x.requires_grad else x.detach().requires_grad_()
        value = (layer.mid(inner) if through else inner**3).square().sum()
        (found,) = torch.autograd.grad(value, inner, create_graph=create_graph, retain_graph=True)
    return x + found.tanh()


def gradient_of_weight(layer: Inner, x: Tensor) -> Tensor:
    with torch.enable_grad():
        value = layer.mid(x).square().mean()
        (found,) = torch.autograd.grad(value, layer.mid.weight, create_graph=True)
    return x * (1 + found.abs().mean())


def backward_of(layer: Inner, x: Tensor, through: bool) -> Tensor:
    with torch.enable_grad():
        inner = x.detach().requires_grad_()
        value = (layer.mid(inner) if through else inner**3).square().sum()
        if through:
            value.backward(inputs=[inner])
        else:
            value.backward()
    assert inner.grad is not None
    return x + inner.grad.tanh()


def switched_off(layer: Inner, x: Tensor) -> Tensor:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    made: Tensor = layer.mid(x)
    torch.set_grad_enabled(before)
    return x + made


@contextmanager
def enabled_again() -> Iterator[None]:
    with torch.no_grad(), torch.enable_grad():
        yield


@contextmanager
def kept_twice() -> Iterator[None]:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t * 1, lambda t: t):
        yield


@contextmanager
def of_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def line_of_default_type(layer: Inner, x: Tensor) -> Tensor:
    with of_float64():
        return x + torch.linspace(0, 1, x.shape[1])[:, None, None]


def frozen_meanwhile(layer: Inner, x: Tensor) -> Tensor:
    layer.mid.weight.requires_grad_(False)
    made: Tensor = layer.mid(x)
    layer.mid.weight.requires_grad_(True)
    return x + made


def frozen_by_assigning(layer: Inner, x: Tensor) -> Tensor:
    layer.mid.weight.requires_grad = False
    made: Tensor = layer.mid(x)
    layer.mid.weight.requires_grad = True
    return x + made


def normed_by_evaluating(layer: Inner, x: Tensor) -> Tensor:
    layer.norm.eval()
    made: Tensor = layer.norm(x)
    layer.norm.train()
    return made


def weights_replaced(layer: Inner, x: Tensor) -> Tensor:
    doubled = {name: weight * 2 for name, weight in layer.mid.named_parameters()}
    made: Tensor = torch.func.functional_call(layer.mid, doubled, (x,))
    return made


def convolved(x: Tensor, weight: Tensor) -> Tensor:
    return functional.conv2d(x, weight, padding=1)


DOES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a gradient": lambda layer, x: gradient_of(layer, x, False, False),
    "a gradient with a graph": lambda layer, x: gradient_of(layer, x, True, False),
    "a gradient through a layer": lambda layer, x: gradient_of(layer, x, False, True),
    "a gradient through a layer with a graph": lambda layer, x: gradient_of(layer, x, True, True),
    "the gradient of a weight": gradient_of_weight,
    "backward": lambda layer, x: backward_of(layer, x, False),
    "backward through a layer": lambda layer, x: backward_of(layer, x, True),
    "torch.func.grad": lambda layer, x: x + torch.func.grad(lambda z: (z**3).sum())(x),
    "vmap": lambda layer, x: torch.vmap(torch.sin)(x),
    "functional_call": weights_replaced,
    "no_grad": within(torch.no_grad),
    "inference_mode": lambda layer, x: x + inferred(layer, x).clone(),
    "grad mode switched off": switched_off,
    "enabled again": within(enabled_again),
    "saved tensors that are packed": within(kept_twice),
    "anomalies detected": within(lambda: torch.autograd.set_detect_anomaly(True)),
    "a checkpoint": lambda layer, x: checkpoint(layer.mid, x, use_reentrant=False),
    "a reentrant checkpoint": lambda layer, x: checkpoint(layer.mid, x, use_reentrant=True),
    "what is detached": lambda layer, x: layer.mid(x.detach()) + x,
    "half detached": lambda layer, x: x * 0.5 + x.detach() * 0.5,
    "a weight that is detached": lambda layer, x: x + convolved(x, layer.mid.weight.detach()),
    "a weight's data": lambda layer, x: convolved(x, layer.mid.weight.data) + layer.mid(x),
    "weights by a loop": lambda layer, x: x * (1 + sum(p.square().mean() for p in layer.mid.parameters())),
    "a copy of a layer": lambda layer, x: x + copy.deepcopy(layer.mid)(x),
    "a copy of a weight": lambda layer, x: x + convolved(x, copy.deepcopy(layer.mid.weight)),
    "a copy of a layer with layers": lambda layer, x: x + copy.deepcopy(nn.Sequential(layer.mid, nn.ReLU()))(x),
    "the state dict": lambda layer, x: convolved(x, layer.mid.state_dict()["weight"]) + layer.mid(x),
    "a default type": line_of_default_type,
    "a weight frozen meanwhile": frozen_meanwhile,
    "a weight frozen by assigning": frozen_by_assigning,
    "a norm that evaluates": normed_by_evaluating,
    "float32": lambda layer, x: convolved(x.float(), layer.mid.weight.float()).to(x.dtype),
}  # fmt: skip
PLANS = ("dp=2", "sp=2", "pp=2", "lp=2", "tp=2", "fsdp=2", "sp=2,pp=2")
FREED = "AssertionError|data is not allocated yet"  # fully_shard has no weights any more, or not yet
ITSELF = {  # what PyTorch says by itself
    ("the state dict", "fsdp=2"): "mixed torch.Tensor and DTensor",
    ("a gradient through a layer", "fsdp=2"): FREED,
    ("a gradient through a layer with a graph", "fsdp=2"): FREED,
    ("backward through a layer", "fsdp=2"): FREED,
}


def inferred(layer: Inner, x: Tensor) -> Tensor:
    with torch.inference_mode():
        made: Tensor = layer.mid(x)
    return made


@pytest.mark.sampled(6)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("does", DOES)
def test_exact_or_refused(does: str, plan: str) -> None:
    torch.manual_seed(0)
    network, trial = Network(DOES[does]).double(), make_trial()
    reference = reference_in_a_process(network, trial)
    if (does, plan) in ITSELF:
        with pytest.raises(RuntimeError, match=ITSELF[does, plan]):
            verdict_of(network, plan, trial, reference)
        return
    verdict = verdict_of(network, plan, trial, reference)
    rounds = does == "float32" and plan.startswith("sp")  # sums over rows in another order
    if rounds and verdict.errors is not None:
        assert verdict.errors.largest < 1e-4, verdict
    else:
        assert verdict.word in ("exact", "refused"), verdict
    if plan in ("dp=2", "tp=2") and does not in (
        "torch.func.grad",
        "vmap",
        "functional_call",
        "inference_mode",
    ):
        assert verdict.word == "exact", verdict.why
