"""Tensor parallelism: joins a model to the workers of the tp axis.

Wide layers are split, the rest is computed by every worker of the axis. The model must have the same weights on each of
them before: they are drawn whole, and then cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ziggurat.parallel.pipeline.record import ImageSpec, Skeleton
from ziggurat.parallel.tensor.layers import ColumnLayer, PartDropout, RowLayer, cut_between
from ziggurat.parallel.tensor.operators import TensorAxis
from ziggurat.parallel.tensor.pairs import Pair, find_pairs
from ziggurat.parallel.workers import Workers


@dataclass(frozen=True)
class Split:
    """A pair of layers, or a classifier, that is split.

    Attributes:
        first: Name of the layer whose outputs are split.
        second: Name of the layer whose inputs are split; empty for a classifier.
        width: Hidden channels, or classes.
        whole_bytes: Of the weights on one worker.
        worker_bytes: Of the weights that each worker keeps.
    """

    first: str
    second: str
    width: int
    whole_bytes: int
    worker_bytes: int


class TensorParallel:
    """Splits a model over the workers of an axis, in place.

    Args:
        model: With all its weights, the same on every worker, in training mode; changed.
        spec: Of the images of a microbatch.
        workers: Of the tp axis.
        min_width: Fewest hidden channels (or classes) of what is split.

    Attributes:
        splits: What is split; empty if the model has nothing wide enough.
        dims: The dim that is cut of each parameter and buffer that is, by name.
        axis: Counts what is sent.

    Raises:
        CannotCut: If the network cannot be recorded.

    Placement:
        Before, each worker has the whole model; after, of what is split its part, of the rest the whole.
    """

    def __init__(self, model: nn.Module, spec: ImageSpec, workers: Workers, min_width: int) -> None:
        self.axis = TensorAxis(workers)
        self.dims: dict[str, int] = {}
        graph = Skeleton(model).record(spec)
        pairs = find_pairs(graph, model, workers.size, min_width)
        self.splits = [self._split(model, pair) for pair in pairs]

    def _split(self, model: nn.Module, pair: Pair) -> Split:
        names = [name for name in (pair.first, *pair.between, pair.second) if name]
        whole = sum(_bytes_of(model.get_submodule(name)) for name in names)
        first = model.get_submodule(pair.first)
        _replace(model, pair.first, ColumnLayer(first, self.axis, joined=not pair.second))
        self._note(pair.first, first, 0)
        for name in pair.between:
            layer = model.get_submodule(name)
            if isinstance(layer, nn.Dropout):
                _replace(model, name, PartDropout(layer, self.axis))
            else:
                self._note(name, layer, 0)
                cut_between(layer, self.axis)
        if pair.second:
            _replace(model, pair.second, RowLayer(model.get_submodule(pair.second), self.axis))
            self.dims[f"{pair.second}.weight"] = 1
        kept = sum(_bytes_of(model.get_submodule(name)) for name in names)
        return Split(pair.first, pair.second, pair.width, whole, kept)

    def _note(self, name: str, layer: nn.Module, dim: int) -> None:
        for key, tensor in (*layer.named_parameters(), *layer.named_buffers()):
            if tensor.dim():
                self.dims[f"{name}.{key}"] = dim

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors of parts, such as weights or gradients by the parameter's name.

        Communication:
            One all-gather over tp of each tensor that is split.
        """
        return {
            name: self.axis.join(tensor, self.dims[name]) if name in self.dims else tensor
            for name, tensor in tensors.items()
        }


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, key = name.rpartition(".")
    owner: Any = model.get_submodule(parent)
    owner._modules[key] = layer.train(model.training)


def _bytes_of(layer: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in layer.parameters())
