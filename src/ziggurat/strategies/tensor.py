"""Tensor parallelism (tp): channels of wide layers, or classes, are spread over workers; the rest is computed by each of them.

Every worker computes what is not split from the same numbers in the same order: an all-reduce gives each the same bits. So its
weights stay the same on all of them, though nobody sends them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.parallel.graph.faults import KINDS
from ziggurat.parallel.tensor.layers import ColumnLayer, PartDropout, RowLayer, cut_between
from ziggurat.parallel.tensor.operators import TensorAxis
from ziggurat.parallel.tensor.pairs import Pair, find_pairs
from ziggurat.strategies.base import Joined, Setting, Strategy
from ziggurat.strategies.boxes import Box
from ziggurat.strategies.estimate import StepCost
from ziggurat.torch_internals.modules import replace_layer

MOST_NAMED = 3  # layers of a line
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of a number


class TensorParallel(Strategy):
    """Parts of wide layers: of what is split, a worker has a part of weights, gradients, average and moments."""

    axis = "tp"
    meaning = "wide layers of the network"
    inwards = 3
    settings = ("tensor.",)

    @classmethod
    def estimate(cls, cost: StepCost, size: int) -> StepCost:
        """As if all layers were wide enough."""
        return cost.share_state(size).share_computation(size)

    def join(self, model: nn.Module, setting: Setting) -> Joined:
        """Find pairs of layers, and a classifier, that are wide enough."""
        return Splits(self, model, setting)


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


class Splits(Joined):
    """Models of which the same layers are split.

    A model in training mode is split where it can be so in evaluation, too. Where images are cut (sp), classes stay whole.

    Attributes:
        splits: What is split.
        dims: The dim that is cut of each parameter and buffer that is, by name.
        tensor_axis: Counts what is sent.

    Raises:
        CannotCut: If the network cannot be traced.
        UserError: If nothing of the model can be split.

    Placement:
        Before, each worker has the whole model; after, of what is split its part, of the rest the whole.
    """

    def __init__(self, strategy: TensorParallel, model: nn.Module, setting: Setting) -> None:
        self.workers = strategy.workers
        self.tensor_axis = TensorAxis(strategy.workers)
        self.dims: dict[str, int] = {}
        self.min_width = setting.config.tensor.min_width
        with warnings.catch_warnings(), setting.alone():
            warnings.simplefilter("ignore")  # the network's own
            self.pairs = self._find(model, setting)
            if model.training:
                model.eval()
                in_evaluation = self._find(model, setting)
                model.train()
                self.pairs = [pair for pair in self.pairs if pair in in_evaluation]
        self._require_pairs(setting.config.model.name)
        self.splits = [self._size_of(model, pair) for pair in self.pairs]
        for pair in self.pairs:
            self._note(model, pair)

    def _find(self, model: nn.Module, setting: Setting) -> list[Pair]:
        graph = setting.tracer(model).trace(setting.spec, allow=KINDS - {"hidden", "outer"})  # it is not run
        pairs = find_pairs(graph, model, self.workers.size, self.min_width)
        return [pair for pair in pairs if pair.second or setting.spatial is None]

    def _require_pairs(self, name: str) -> None:
        if not self.pairs:
            size = self.workers.size
            raise UserError(
                f"tp={size} would leave every worker the whole of {name}: it has no pair of layers, and no classifier, of "
                f"tensor.min_width={self.min_width} hidden channels or classes that {size} divides and nobody else "
                f"sees; use --set tensor.min_width=N with a smaller number, or --plan dp={size}"
            )

    def _size_of(self, model: nn.Module, pair: Pair) -> Split:
        names = [name for name in (pair.first, *pair.between, pair.second) if name]
        whole = kept = 0
        for name in names:
            for key, parameter in model.get_submodule(name).named_parameters():
                size = parameter.numel() * parameter.element_size()
                is_bias = name == pair.second and key == "bias"  # on each worker
                whole, kept = whole + size, kept + (size if is_bias else size // self.workers.size)
        return Split(pair.first, pair.second, pair.width, whole, kept)

    def _note(self, model: nn.Module, pair: Pair) -> None:
        for name in (pair.first, *pair.between):
            layer = model.get_submodule(name)
            if not isinstance(layer, nn.Dropout):
                for key, tensor in (*layer.named_parameters(), *layer.named_buffers()):
                    if tensor.dim():
                        self.dims[f"{name}.{key}"] = 0
        if pair.second:
            self.dims[f"{pair.second}.weight"] = 1

    def place(self, model: nn.Module) -> None:
        """Put layers of which this worker has a part in the place of whole ones, under their names."""
        for pair in self.pairs:
            first = model.get_submodule(pair.first)
            _replace(model, pair.first, ColumnLayer(first, self.tensor_axis, is_last=not pair.second))
            for name in pair.between:
                layer = model.get_submodule(name)
                if isinstance(layer, nn.Dropout):
                    channel_dim = -1 if type(first) is nn.Linear else 1
                    _replace(model, name, PartDropout(layer, self.tensor_axis, channel_dim))
                else:
                    cut_between(layer, self.tensor_axis)
            if pair.second:
                _replace(model, pair.second, RowLayer(model.get_submodule(pair.second), self.tensor_axis))

    def narrow(self, name: str, box: Box, tensor: Tensor) -> Box | None:
        """Return this worker's slice of what is split."""
        if name not in self.dims:
            return box
        dim = self.dims[name]
        size = box.shape[dim] // self.workers.size
        return box.narrow(dim, self.workers.rank * size, size)

    def settle(self, gradients: dict[str, Tensor], needed: Callable[[str], Tensor]) -> None:
        """Let all workers have the same bits of the gradients of what is not split.

        Should workers have computed other bits (a device whose sums have no fixed order), all take the first one's.

        Communication:
            One gather of a checksum of the bits over tp.
        """
        common = [gradient for name, gradient in gradients.items() if name not in self.dims]
        sums = self.workers.gather(float(checksum(common, self.workers.device)))
        if any(one != sums[0] for one in sums):
            self.workers.broadcast(common)

    def parts_gradient(self, name: str) -> bool:
        """Whether the parameter of a name is split."""
        return name in self.dims

    def describe(self) -> list[str]:
        """Return a line on what is split."""
        whole, kept = (sum(getattr(s, f"{of}_bytes") for s in self.splits) for of in ("whole", "worker"))
        layers = ", ".join(
            f"{s.first} > {s.second}" if s.second else s.first for s in self.splits[:MOST_NAMED]
        )
        more = f" and {len(self.splits) - MOST_NAMED} more" if len(self.splits) > MOST_NAMED else ""
        return [
            f"split over tp: {layers}{more}; of their {whole / 1e6:.1f} MB of weights each worker has "
            f"{kept / 1e6:.1f} MB"
        ]

    def facts(self) -> dict[str, Any]:
        """Return what is split, and the fewest channels or classes of what may be."""
        return {"splits": [asdict(split) for split in self.splits], "min_width": self.min_width}

    @property
    def bytes_sent(self) -> int:
        """Bytes that this worker has sent into and out of what is split."""
        return self.tensor_axis.bytes_sent


def checksum(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Return a number of the tensors' bits, in float64, that hardly remains when some of them change.

    Each value's bits as an integer, squared, so that a step up in one place and down in another do not cancel; the sum is
    taken modulo 2**52, which float64 holds exactly. Not finite values have bits, too.
    """
    total = torch.zeros((), dtype=torch.int64, device=device)
    for tensor in tensors:
        bits = tensor.view(INTEGERS[tensor.element_size()])
        total += (bits * bits).sum()  # the product without its upper half, the sum in int64
    return (total % 2**52).double()


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, key = name.rpartition(".")
    owner = model.get_submodule(parent)
    replace_layer(owner, key, layer.train(model.get_submodule(name).training))
