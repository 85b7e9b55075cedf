"""Tensor parallelism: joins a model to the workers of the tp axis.

Wide layers are split, the rest is computed by every worker of the axis. The model must have the same weights on each of
them before: they are drawn whole, and then cut.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.trace import ImageSpec, Tracer
from ziggurat.parallel.tensor.layers import ColumnLayer, PartDropout, RowLayer, cut_between
from ziggurat.parallel.tensor.operators import TensorAxis
from ziggurat.parallel.tensor.pairs import Pair, find_pairs
from ziggurat.torch_internals.modules import replace_layer

MOST_NAMED = 3  # layers of a line


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
        model: With all its weights, the same on every worker; changed. One in training mode is split where it can be so in
            evaluation, too.
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
        self.tracer = Tracer(model)
        self.min_width = min_width
        self.pairs = self._find(model, spec)
        if model.training:
            model.eval()
            in_evaluation = self._find(model, spec)
            model.train()
            self.pairs = [pair for pair in self.pairs if pair in in_evaluation]
        self.splits = self.split(model)

    def _find(self, model: nn.Module, spec: ImageSpec) -> list[Pair]:
        return find_pairs(self.tracer.trace(spec), model, self.axis.workers.size, self.min_width)

    def split(self, model: nn.Module) -> list[Split]:
        """Split another model of the same form, in place."""
        return [self._split(model, pair) for pair in self.pairs]

    def _split(self, model: nn.Module, pair: Pair) -> Split:
        names = [name for name in (pair.first, *pair.between, pair.second) if name]
        whole = sum(_bytes_of(model.get_submodule(name)) for name in names)
        first = model.get_submodule(pair.first)
        _replace(model, pair.first, ColumnLayer(first, self.axis, is_last=not pair.second))
        self._note(pair.first, first, 0)
        for name in pair.between:
            layer = model.get_submodule(name)
            if isinstance(layer, nn.Dropout):
                _replace(model, name, PartDropout(layer, self.axis, -1 if type(first) is nn.Linear else 1))
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

    def meta_model(self, model: nn.Module) -> nn.Module:
        """Return a model of the whole's form, in the mode of a split one, whose parameters and buffers have no memory."""
        whole = copy.deepcopy(self.tracer.meta_model).train(model.training)
        is_trained = any(parameter.requires_grad for parameter in model.parameters())
        return whole if is_trained else whole.requires_grad_(False)  # an average's

    def require_splits(self, name: str) -> None:
        """Refuse a plan that splits nothing of a model.

        Args:
            name: The model's.

        Raises:
            UserError: If it has nothing to split.
        """
        if not self.splits:
            size = self.axis.workers.size
            raise UserError(
                f"tp={size} would leave every worker the whole of {name}: it has no pair of layers, and no classifier, of "
                f"tensor.min_width={self.min_width} hidden channels or classes that {size} divides and nobody else "
                f"sees; use --set tensor.min_width=N with a smaller number, or --plan dp={size}"
            )

    def describe(self) -> str:
        """Return a line on what is split."""
        whole, kept = (sum(getattr(s, f"{of}_bytes") for s in self.splits) for of in ("whole", "worker"))
        layers = ", ".join(
            f"{s.first} > {s.second}" if s.second else s.first for s in self.splits[:MOST_NAMED]
        )
        more = f" and {len(self.splits) - MOST_NAMED} more" if len(self.splits) > MOST_NAMED else ""
        return (
            f"split over tp: {layers}{more}; of their {whole / 1e6:.1f} MB of weights each worker has "
            f"{kept / 1e6:.1f} MB"
        )


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, key = name.rpartition(".")
    owner = model.get_submodule(parent)
    replace_layer(owner, key, layer.train(owner.get_submodule(key).training))


def _bytes_of(layer: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in layer.parameters())
