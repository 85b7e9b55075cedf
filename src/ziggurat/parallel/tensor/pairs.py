"""Finding what can be split in a recorded network: pairs of layers whose hidden channels nobody else sees.

    first (columns) ──> norm, activation, depthwise convolution, pooling, dropout ──> second (rows)

Everything between computes each channel by itself, and its only consumer is the next. A layer that is called several
times (a head, on every level) must be followed by the same layers each time. Of a network's last linear layer, which
identities may follow, the classes can be split.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d

from ziggurat.parallel.graph.graph import Call, Graph, Value
from ziggurat.parallel.tensor.layers import CONVOLUTIONS
from ziggurat.torch_internals.hooks import has_gradient_hooks, hooks_on
from ziggurat.torch_internals.modules import CONVOLUTION, has_forward_hooks

POINTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardtanh,
    nn.Hardsigmoid, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Identity,
)  # fmt: skip
POINTWISE_FUNCTIONS = {
    functional.relu, functional.relu6, functional.leaky_relu, functional.elu, functional.gelu, functional.silu,
    functional.mish, functional.hardswish, functional.hardtanh, functional.hardsigmoid, functional.softplus,
    functional.sigmoid, functional.tanh, torch.relu, torch.relu_, torch.sigmoid, torch.tanh, Tensor.relu, Tensor.relu_,
    Tensor.sigmoid, Tensor.tanh,
}  # fmt: skip
POOLINGS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
POOLING_FUNCTIONS = {
    functional.max_pool1d, functional.max_pool2d, functional.max_pool3d, functional.avg_pool1d, functional.avg_pool2d,
    functional.avg_pool3d, functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d,
    functional.adaptive_avg_pool3d, functional.interpolate,
}  # fmt: skip
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Pair:
    """What is split together.

    Attributes:
        first: Name of the layer whose outputs are split.
        between: Names of the layers between that hold weights or draw numbers.
        second: Name of the layer whose inputs are split; empty for a classifier.
        width: Outputs of the first layer.
    """

    first: str
    between: tuple[str, ...]
    second: str
    width: int


def find_pairs(graph: Graph, model: nn.Module, num_workers: int, min_width: int) -> list[Pair]:
    """Return the pairs of a network that can be split, in the order in which they are called; no layer is in two.

    Args:
        graph: Recorded in training.
        model: The network.
        num_workers: Of the tensor axis; it divides what is split.
        min_width: Fewest hidden channels (or classes).
    """
    search = _Search(graph, model, num_workers)
    pairs: list[Pair] = []
    taken: set[str] = set()
    for layer in dict.fromkeys(call.layer for call in graph.calls if call.function is None):
        pair = search.from_layer(layer) if layer not in taken else None
        if pair and pair.width >= min_width and not taken & {pair.first, pair.second, *pair.between}:
            pairs.append(pair)
            taken |= {pair.first, pair.second, *pair.between}
    return pairs


class _Search:
    def __init__(self, graph: Graph, model: nn.Module, num_workers: int) -> None:
        self.graph, self.num_workers = graph, num_workers
        self.layers = dict(model.named_modules())
        self.outputs = set(graph.output_values())
        self.users = graph.users()
        self.calls_of: dict[str, list[int]] = {}
        readers: dict[str, set[str]] = {}
        for number, call in enumerate(graph.calls):
            is_of_layer = call.function is None or _is_frozen_norm(call)
            if is_of_layer:
                self.calls_of.setdefault(call.layer, []).append(number)
            for state in call.states:
                readers.setdefault(state, set()).add(call.layer if is_of_layer else f"{number}")
        self.several = {value.call for value in (*self.users, *self.outputs) if value.place}
        self.shared = {state for state, names in readers.items() if len(names) > 1}
        self.num_places = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))

    def from_layer(self, name: str) -> Pair | None:
        """Return the pair that a layer begins; None if it begins none."""
        layer = self.layers[name]
        if not self._is_dense(name) or self._outputs(layer) % self.num_workers:
            return None
        chains = {self._follow(number) for number in self.calls_of[name]}
        chain = chains.pop()
        if chains or chain is None:
            return None
        if chain == ("",):
            return Pair(name, (), "", self._outputs(layer)) if type(layer) is nn.Linear else None
        *between, second = chain
        between = [one for one in between if one]  # functions have no name
        cut = tuple(dict.fromkeys(one for one in between if self._is_changed(one)))
        count = len(self.calls_of[name])
        if any(len(self.calls_of[one]) != count for one in (*cut, second)):
            return None
        return Pair(name, cut, second, self._outputs(layer))

    def _follow(self, number: int) -> tuple[str, ...] | None:
        """Return the layers from a call to the second of a pair; ``("",)`` if the network returns what the call makes."""
        first = type(self.layers[self.graph.calls[number].layer])
        names: list[str] = []
        value = Value(number, 0)
        while True:
            users = self.users.get(value, [])
            if value in self.outputs:
                passed_on = all(type(self.layers[name]) is nn.Identity for name in names)
                return ("",) if passed_on and not users else None
            if len(users) != 1:
                return None
            call = self.graph.calls[users[0]]
            if call.uses != (value,) or users[0] in self.several:
                return None
            if (
                call.function is None
                and type(self.layers[call.layer]) is first
                and self._is_dense(call.layer)
            ):
                return (*names, call.layer)
            if not self._is_local(call, first):
                return None
            names.append(call.layer if call.function is None or _is_frozen_norm(call) else "")
            value = Value(users[0], 0)

    def _is_dense(self, name: str) -> bool:
        """Whether a layer is linear, or a convolution of one group, and nobody else has a hand in it."""
        layer: Any = self.layers[name]
        is_convolution = type(layer) in CONVOLUTIONS and layer.groups == 1 and layer.padding_mode == "zeros"
        return (type(layer) is nn.Linear or is_convolution) and self._is_alone(name)

    def _is_alone(self, name: str) -> bool:
        layer = self.layers[name]
        states = {
            state for call in self.calls_of[name] for state in self.graph.calls[call].states
        }  # a tied one has the name that it has elsewhere
        return self.num_places[id(layer)] == 1 and not states & self.shared and not _is_hooked(layer)

    def _is_local(self, call: Call, first: type) -> bool:
        """Whether a call computes each channel by itself."""
        if call.function is not None and not _is_frozen_norm(call):
            is_pooling = first is not nn.Linear and call.function in POOLING_FUNCTIONS
            return is_pooling or call.function in POINTWISE_FUNCTIONS
        layer: Any = self.layers[call.layer]
        if isinstance(layer, POINTWISE):
            return not _is_hooked(layer)
        if not self._is_alone(call.layer):
            return False
        if type(layer) is nn.Dropout or first is nn.Linear:
            return type(layer) is nn.Dropout
        if type(layer) is nn.GroupNorm:
            return bool(layer.num_groups % self.num_workers == 0)
        if type(layer) is nn.PReLU:
            return bool(layer.num_parameters > 1)
        if isinstance(layer, CONVOLUTION):
            depthwise = layer.groups == layer.in_channels == layer.out_channels
            known = type(layer) in CONVOLUTIONS or getattr(layer, "keeps_channels_apart", False)
            return bool(known and depthwise and layer.padding_mode == "zeros")
        return isinstance(layer, (*POOLINGS, FrozenBatchNorm2d)) or self._is_batch_norm(call, layer)

    @staticmethod
    def _is_batch_norm(call: Call, layer: nn.Module) -> bool:
        """Whether a call is of a batch norm, alone or fused with an activation, or of a frozen one's function."""
        if _is_frozen_norm(call):
            return True
        return isinstance(layer, BATCH_NORMS) and all(isinstance(c, POINTWISE) for c in layer.children())

    def _is_changed(self, name: str) -> bool:
        """Whether a layer between holds what is split, or draws random numbers."""
        layer = self.layers[name]
        has_states = any(True for _ in (*layer.parameters(), *layer.buffers()))
        return has_states or isinstance(layer, (nn.Dropout, nn.GroupNorm))

    @staticmethod
    def _outputs(layer: Any) -> int:
        return int(layer.out_features if type(layer) is nn.Linear else layer.out_channels)


def _is_hooked(layer: nn.Module) -> bool:
    """Whether somebody looks at what goes through a layer, or at the gradients of its parameters: all of it, not a part."""
    return (
        has_forward_hooks(layer)
        or has_gradient_hooks(layer)
        or any(any(hooks_on(p)) for p in layer.parameters())
    )


def _is_frozen_norm(call: Call) -> bool:
    """Whether a call is of ``batch_norm`` by a layer that normalizes by statistics of its own, which stay."""
    own = all(state.rpartition(".")[0] == call.layer for state in call.states)
    return call.function is functional.batch_norm and call.kwargs.get("training") is False and own
