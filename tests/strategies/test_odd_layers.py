"""Layers as networks write them otherwise than PyTorch's examples: called by their forward, by keywords, by their weights, within properties."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

from support.verdicts import make_trial, reference_in_a_process, verdict_of


def convolution(size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(8, 8, size, padding=size // 2)


class Doing(nn.Module):
    """A layer that does something with its layers."""

    def __init__(self, does: Callable[[Any, Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.does, self.layers = does, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.does(self.layers, x)


class Symmetric(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.flip(-1)) / 2


class Calling(nn.Module):
    """Does something before its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = convolution()

    def __call__(self, x: Tensor) -> Any:
        return super().__call__(x * 2)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


class ByName(nn.Module):
    """Takes its argument by name, and gives it by name."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *, x: Tensor) -> Any:
        return self.layer(input=x)


class Behind(nn.Module):
    """Has its layer behind a property, and yields its results."""

    def __init__(self) -> None:
        super().__init__()
        self._layers = nn.ModuleList(convolution(1) for _ in range(3))

    @property
    def layers(self) -> nn.ModuleList:
        return self._layers

    def each(self, x: Tensor) -> Iterator[Tensor]:
        for layer in self.layers:
            x = layer(x)
            yield x

    def forward(self, x: Tensor) -> Any:
        return sum(self.each(x))


class Scalars(nn.Module):
    """Parameters without dims, in lists and dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.all = nn.ParameterList([nn.Parameter(torch.full((8, 1, 1), float(n))) for n in range(3)])
        self.named = nn.ParameterDict({"one": nn.Parameter(torch.ones(1))})

    def forward(self, x: Tensor) -> Any:
        return sum(x * one for one in self.all) * self.named["one"] * self.gain


def hooked(register: str, hook: Callable[..., Any], **how: Any) -> nn.Module:
    layer = convolution()
    getattr(layer, register)(hook, **how)
    return layer


def tied() -> nn.Module:
    first, second = convolution(), convolution()
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second)


def twice(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, nn.Tanh(), layer)


def with_own_parametrization() -> nn.Module:
    layer = convolution()
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def frozen(layer: nn.Module, *names: str) -> nn.Module:
    for name in names:
        layer.get_parameter(name).requires_grad_(False)
    return layer


def normed(layers: Any, x: Tensor, training: bool) -> Tensor:
    norm = layers[0]
    return functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training)


def of_positions(layers: Any, x: Tensor) -> Tensor:
    made: Tensor = layers[0](x.flatten(2).transpose(1, 2))
    return made.transpose(1, 2).view_as(x)


def halves(layers: Any, x: Tensor) -> Tensor:
    weight = layers[0].weight
    return torch.cat([functional.conv2d(x, part, padding=1) for part in (weight[:4], weight[4:])], 1)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "one twice": lambda: twice(convolution()),
    "tied": tied,
    "weight norm": lambda: parametrizations.weight_norm(convolution()),
    "orthogonal": lambda: parametrizations.orthogonal(convolution(1)),
    "a parametrization": with_own_parametrization,
    "its own call": Calling,
    "by name": lambda: Doing(lambda layers, x: layers[0](x=x), ByName(convolution())),
    "a property": Behind,
    "scalars": Scalars,
    "a hook before": lambda: hooked("register_forward_pre_hook", lambda layer, given: (given[0] * 2,)),
    "a hook before with names": lambda: hooked(
        "register_forward_pre_hook", lambda layer, given, named: ((given[0] * 2,), named), with_kwargs=True
    ),
    "a hook behind": lambda: hooked("register_forward_hook", lambda layer, given, made: made + given[0]),
    "its forward": lambda: Doing(lambda layers, x: layers[0].forward(x), convolution()),
    "its class's forward": lambda: Doing(lambda layers, x: nn.Conv2d.forward(layers[0], x), convolution()),
    "its weight": lambda: Doing(lambda layers, x: functional.conv2d(x, layers[0].weight, padding=1), convolution()),
    "halves of its weight": lambda: Doing(halves, convolution()),
    "its weight and it": lambda: Doing(
        lambda layers, x: functional.conv2d(x, layers[0].weight * 0.5, padding=1) + layers[0](x), convolution()
    ),
    "its weight transposed": lambda: Doing(
        lambda layers, x: layers[1](functional.conv2d(x, layers[0].weight.transpose(0, 1), padding=1)),
        convolution(),
        convolution(),
    ),
    "a norm's buffers, training": lambda: Doing(lambda layers, x: normed(layers, x, True), nn.BatchNorm2d(8)),
    "a norm's buffers, evaluating": lambda: Doing(lambda layers, x: normed(layers, x, False), nn.BatchNorm2d(8)),
    "a norm without buffers": lambda: nn.BatchNorm2d(8, track_running_stats=False),
    "a norm of all batches": lambda: nn.BatchNorm2d(8, momentum=None),
    "a norm twice": lambda: twice(nn.BatchNorm2d(8)),
    "a norm that is frozen": lambda: frozen(nn.BatchNorm2d(8), "weight", "bias"),
    "a weight that is frozen": lambda: frozen(convolution(), "weight"),
    "one that is not used": lambda: Doing(lambda layers, x: layers[0](x), convolution(), convolution()),
    "a transformer's layer": lambda: Doing(
        of_positions, nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    ),
}  # fmt: skip


class Network(nn.Module):
    """A stem, the layer, and two branches: something for every plan."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem, self.layer = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh()), layer
        self.left = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.Tanh(), nn.Conv2d(64, 8, 3, padding=1))
        self.right = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.Tanh(), nn.Conv2d(64, 8, 3, padding=1))
        self.last = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        x = self.layer(self.stem(x))
        return self.last(self.left(x) + self.right(x))


@pytest.mark.sampled(30)
@pytest.mark.parametrize("plan", ["dp=2", "sp=2", "pp=2", "lp=2", "tp=2", "fsdp=2", "dp=2,tp=2"])
@pytest.mark.parametrize("layer", LAYERS)
def test_exact(layer: str, plan: str) -> None:
    torch.manual_seed(0)
    network, trial = Network(LAYERS[layer]()).double(), make_trial()
    verdict = verdict_of(network, plan, trial, reference_in_a_process(network, trial))
    if (layer, plan) == ("scalars", "fsdp=2"):
        assert "fsdp shards parameters by their first dim" in verdict.why
    else:
        assert verdict.word == "exact", verdict
