"""Sharded data parallelism (fsdp): weights and gradients are spread over workers by rows, by PyTorch's `fully_shard`.

    worker 0   shard 0 of every weight   --+                                      +-->  shard 0 of the sum of gradients
                                           |-->  a unit's whole weights: forward, |
    worker 1   shard 1 of every weight   --+     backward, gradient             --+-->  shard 1

Where several workers share each image (sp), weights are sharded over all workers of both axes. Each has a part of the
gradient, and the sum that leaves the shards is over all of them: parts and microbatches add up in one step. Where wide layers
are split (tp), each worker shards what it has of them with those that have the same part.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from ziggurat.errors import UserError
from ziggurat.parallel.collectives.canonical import partition
from ziggurat.parallel.collectives.pieces import PartSum
from ziggurat.parallel.collectives.row_sum import Pass, RowSum
from ziggurat.parallel.collectives.wire import Wire
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.base import Joined, Setting, Strategy
from ziggurat.strategies.boxes import Box
from ziggurat.strategies.estimate import StepCost
from ziggurat.strategies.opening import backward_of_nothing, close_around, open_around
from ziggurat.strategies.running import Microbatches, Runner, WholeRunner
from ziggurat.strategies.shares import refuse_uneven
from ziggurat.strategies.sums import Section, Sums
from ziggurat.strategies.units import find_units
from ziggurat.strategies.whole import local
from ziggurat.torch_internals.sharding import (
    drop_gathered,
    keep_memory_order,
    own_rows,
    strides_of,
    sum_gradients,
    sum_rows_by,
)

TOGETHER = (
    "the workers of fsdp gather weights together, so each takes as many passes as the one with the most microbatches, and shares "
    "are even"
)


class ShardedParallel(Strategy):
    """Rows of every weight: the samples of a step are spread as under dp."""

    axis = "fsdp"
    meaning = "samples and weights"
    inwards = 0
    settings = ("pipeline.unit_bytes",)
    spreads_samples = True
    wants_microbatches = True
    frees_storage = True
    rounds_gradients = False
    home = "cpu"  # a whole model need not fit a device

    @classmethod
    def faults(cls, sizes: Mapping[str, int], text: str) -> list[str]:
        """It takes the place of dp."""
        if "dp" not in sizes:
            return []
        return [
            f"fsdp spreads samples as dp does: got '{text}'; use fsdp={sizes['fsdp'] * sizes['dp']} without dp, or leave out fsdp"
        ]

    @classmethod
    def estimate(cls, cost: StepCost, size: int) -> StepCost:
        """Microbatches are spread; in each, weights are gathered twice, and its gradient is scattered."""
        spread = cost.spread_samples(size)
        return spread.sum_gradients(size, passes=3 * spread.num_microbatches).share_state(size)

    def join(self, model: nn.Module, setting: Setting) -> Joined:
        """Find the modules that are gathered each as one piece."""
        return Shards(self, model, setting)


class Shards(Joined):
    """Models whose weights lie in rows on the same workers.

    Attributes:
        units: Names of the modules that are gathered each as one piece, inner ones first.
        is_traced: Whether a trace says that they run in one order.

    Raises:
        UserError: If the model has parameters that cannot be sharded.

    Placement:
        Before, every worker has all weights, perhaps in the CPU's memory; after, its rows are on its device, where there never
        is more of them than these and one unit. Buffers stay whole.

    Communication:
        In each microbatch every unit's weights are gathered for forward and again for backward, and its gradient is
        reduce-scattered: three times the bytes of the weights, over the workers.
    """

    def __init__(self, strategy: ShardedParallel, model: nn.Module, setting: Setting) -> None:
        refused = [name for name, p in model.named_parameters() if p.ndim == 0]
        if refused:
            raise UserError(
                f"fsdp shards parameters by their first dim: {', '.join(refused)} have none; give them one (shape (1,)), or "
                "use a plan without fsdp"
            )
        self.data, self.setting = strategy.workers, setting
        self.workers = strategy.topology.along("fsdp", "sp")
        self.now = Pass()
        shape = (1, *setting.spec.shape[1:]) if not model.training else setting.spec.shape
        with warnings.catch_warnings(), setting.alone():
            warnings.simplefilter("ignore")  # the network's own
            self.units, self.is_traced = find_units(model, shape, setting.config.pipeline.unit_bytes)

    def place(self, model: nn.Module) -> None:
        """Leave each parameter this worker's rows, as a `DTensor`."""
        orders = {
            (module, name): order
            for module in model.modules()
            for name, parameter in module.named_parameters(recurse=False)
            if (order := memory_order(parameter)) is not None
        }
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()
        devices = self.workers.device_mesh()
        for module in (*(model.get_submodule(name) for name in self.units), model):
            open_around(module)
            fully_shard(module, mesh=devices)
            close_around(module)
            assert isinstance(module, FSDPModule)
            sum_gradients(module)  # never averaged; a loss may reach a weight on some workers only
            keep_memory_order(module, orders)
            sum_rows_by(module, RowSum(self.workers, self.workers.size // self.data.size, self.now))
        if not self.is_traced:
            UnitOrder(model, self.units, self.workers)

    def narrow(self, name: str, box: Box, tensor: Tensor) -> Box | None:
        """Return this worker's rows."""
        if not isinstance(tensor, DTensor):
            return box
        first, size = own_rows(tensor)
        return box.narrow(0, first, size) if size else None

    def runner(self, model: nn.Module) -> Runner:
        """Return what keeps other workers company where they have more microbatches."""
        return ShardedRunner(model, self.data, self.setting)

    def sums(self, sections: Sequence[Section], data: Workers, parts: PartSum | None, wire: Wire) -> Sums:
        """Return sums of statistics alone: gradients are added up as `fully_shard` takes them."""
        return ShardedSums(sections, data, self.now)

    def describe(self) -> list[str]:
        """Return a line on the units."""
        return [f"weights are gathered in {len(self.units) + 1} units"]


def memory_order(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the dims of a tensor, the outermost in memory first, where rows are outermost and others are in another order.

    Dims of one index count: by their strides alone PyTorch tells the memory format of a convolution of one pixel.

    Example:
        >>> memory_order(torch.empty(2, 3, 1, 1).to(memory_format=torch.channels_last))
        (0, 2, 3, 1)
    """
    dims = range(tensor.dim())
    order = tuple(sorted(dims, key=lambda dim: (-tensor.stride()[dim], -tensor.shape[dim])))
    is_known = tensor.stride() == strides_of(tensor.shape, order)
    return order if is_known and order[:1] == (0,) and order != tuple(dims) else None


class ShardedSums(Sums):
    """What microbatches leave behind, where every ``parameter.grad`` is this worker's rows of the sum already.

    Args:
        sections: The model, as one.
        data: The workers that take other microbatches.
        now: The pass that is under way, for those who add up the gradients.
    """

    def __init__(self, sections: Sequence[Section], data: Workers, now: Pass) -> None:
        super().__init__([Section({}, section.layers) for section in sections], data)
        self.parameters = sections[0].parameters
        self.now = now
        self.passes = 0

    def start(
        self, num_microbatches: int, of_workers: Sequence[range] | None = None, key: tuple[int, ...] = (0, 0)
    ) -> None:
        """Begin a step; its passes are taken by all workers together, so that their microbatches are as even as possible."""
        if of_workers is not None:
            refuse_uneven(of_workers, num_microbatches, TOGETHER)
        super().start(num_microbatches)
        self.passes = 0
        self.now.step += 1
        self.now.num_leaves = num_microbatches

    @contextmanager
    def leaf(self, section: int, index: int) -> Iterator[None]:
        """Take the gradient of backward of a microbatch, run inside."""
        self._begin_pass(index)
        yield

    def _begin_pass(self, leaf: int | None) -> None:
        self.passes += 1
        self.now.leaf, self.now.is_last = leaf, self.passes == max(self._counts)
        for parameter in self.parameters.values():
            parameter.grad = None  # the rows of the sum come with the last pass

    @property
    def num_idle(self) -> int:
        """How many microbatches more than this worker another one has."""
        return max(self._counts) - self._counts[self.data.rank]

    @property
    def _counts(self) -> list[int]:
        return [len(mine) for mine in partition(self.num_microbatches, self.data.size)]

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Take nothing of a pass that keeps other workers company."""
        self._begin_pass(None)
        yield
        self.forget_statistics()

    def finish(self) -> dict[str, Tensor]:
        """Return this worker's rows of the gradient of each parameter, zeros where no microbatch has reached it."""
        for parameter in self.parameters.values():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return {name: local(p.grad) for name, p in self.parameters.items() if p.grad is not None}

    def assign(self, gradients: Mapping[str, Tensor]) -> None:
        """Do nothing: the rows share the memory of ``parameter.grad``."""


class UnitOrder:
    """Makes sure that all workers run the same unit next, before they gather its weights together.

    A network that chooses by values which layers it runs would gather the weights of different ones together. It is asked of such
    networks alone whose units were not found by a trace: what can be traced chooses by shapes.

    Args:
        model: Placed; its hooks stay.
        units: Their names.
        workers: That gather together.
    """

    def __init__(self, model: nn.Module, units: Sequence[str], workers: Workers) -> None:
        self.workers = workers
        for name in units:
            model.get_submodule(name).register_forward_pre_hook(partial(self._begin, name), prepend=True)
        model.register_forward_hook(self._end)

    def _begin(self, name: str, module: nn.Module, args: Any) -> None:
        self._agree(f"runs '{name}'")

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._agree("ends")

    def _agree(self, mine: str) -> None:
        """Raise on all workers if they do not do the same.

        Communication:
            Two small all-gathers.
        """
        every = self.workers.gather(mine)
        if len(set(every)) > 1:
            other = next(one for one in every if one != every[0])
            raise UserError(
                f"fsdp gathers the weights of a unit on all workers together, so all must run the same ones: one {every[0]} where another "
                f"{other}, as the network chooses by values which layers it runs; take it as one unit (pipeline.unit_bytes larger than "
                "its weights), or a plan without fsdp"
            )


class ShardedRunner(WholeRunner):
    """Runs one microbatch after the other, together with the workers that have other rows.

    Args:
        model: Placed.
        data: The workers that take other microbatches.
        setting: Makes images for company.
    """

    looks_at_each = False

    def __init__(self, model: nn.Module, data: Workers, setting: Setting) -> None:
        super().__init__(model)
        self.data, self.setting = data, setting

    def inference(self) -> AbstractContextManager[Any]:
        """Return the context in which `infer` is called: gathered weights are met by autograd later."""
        return torch.no_grad()

    def train(self, work: Microbatches, mine: Sequence[int], sums: Sums) -> list[Tensor]:
        """Run forward and backward of this worker's microbatches; then keep other workers company."""
        assert isinstance(sums, ShardedSums)
        losses = super().train(work, mine, sums)
        for _ in range(sums.num_idle):
            with sums.idle():
                backward_of_nothing(self._run_blank(self.setting.blank_images, work.compute))
        return losses

    def keep_company(self, runs: int, images: Callable[[], Tensor], compute: Callable[[], Any]) -> None:
        """Run the model on black images."""
        with torch.no_grad():
            for _ in range(runs):
                self._run_blank(images, compute)

    def end_inference(self) -> None:
        """Drop all weights that are gathered still: they would be old ones after the next change of the shards."""
        drop_gathered(self.model)

    def _run_blank(self, images: Callable[[], Tensor], compute: Callable[[], Any]) -> Any:
        with compute():
            return self.model(images())


def shard_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters that this worker holds between steps, under any plan."""
    held = [local(p) for p in model.parameters() if not p.is_meta]
    return sum(p.numel() * p.element_size() for p in held)
