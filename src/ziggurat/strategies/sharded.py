"""Sharded data parallelism (fsdp): weights and gradients are spread over workers, by PyTorch's `fully_shard`.

    worker 0   shard 0 of every weight   --+                                      +-->  shard 0 of the sum of gradients
                                           |-->  a unit's whole weights: forward, |
    worker 1   shard 1 of every weight   --+     backward, gradient             --+-->  shard 1

Where several workers share each image (sp), weights are sharded over all workers of both axes. Each has a part of the
gradient, and the sum that leaves the shards is over all of them: parts and microbatches add up in one step.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from ziggurat.errors import UserError
from ziggurat.parallel.collectives.running_statistics import RunningStatistics
from ziggurat.parallel.spatial import SpatialTensor
from ziggurat.strategies.leaves import Leaves
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.units import find_units
from ziggurat.torch_internals.sharding import sum_gradients
from ziggurat.torch_internals.tensors import is_view


class ShardedParallel(Leaves):
    """Joins a model to the workers of a plan with fsdp.

    One step is that of `DataParallel`, with one difference: weights are gathered by all workers together, so a worker
    that has fewer microbatches than others takes `num_idle` passes more, with `backward_of_nothing`, in `idle`.

    Args:
        model: Its weights are made those of the first worker, and sharded: parameters become `DTensor`. A model that is
            sharded already stays as it is.
        mesh: All workers; they call this together.
        shape: Of images that the model takes, whole, ``(B, C, H, W)``: its units are found with them.
        unit_bytes: Of the smallest unit's parameters, see `find_units`.

    Raises:
        UserError: If the model has parameters that cannot be sharded.

    Placement:
        Before, every worker has all weights; after, it has its rows of each. Buffers stay whole.

    Communication:
        In each microbatch every unit's weights are gathered for forward and again for backward, and its gradient is
        reduce-scattered: three times the bytes of the weights, over all workers.
    """

    def __init__(self, model: nn.Module, mesh: Mesh, shape: Sequence[int], unit_bytes: int) -> None:
        super().__init__(mesh.dp, mesh.sp)
        shard_units(model, mesh, shape, unit_bytes)
        self.model = model
        self.statistics = RunningStatistics(model, mesh.dp)
        self.num_idle = 0

    def start(self, num_leaves: int) -> None:
        """Begin a step."""
        self.begin(num_leaves)
        most = max(len(self.leaves_of_worker(num_leaves, rank)) for rank in range(self.workers.size))
        self.num_idle = most - len(self.mine)
        self.model.zero_grad(set_to_none=True)
        self.statistics.start()

    @contextmanager
    def leaf(self, index: int) -> Iterator[None]:
        """Take the statistics that forward and backward of microbatch `index`, run inside, leave behind."""
        yield
        self.statistics.take_leaf()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Forget the statistics of a pass that keeps other workers company."""
        yield
        self.statistics.take_leaf()
        if self.statistics.layers:
            self.statistics.leaves.pop()

    def finish_gradients(self) -> None:
        """Do nothing: every ``parameter.grad`` is this worker's shard of the global batch's gradient already."""

    def finish_statistics(self) -> None:
        """Combine the running statistics of all microbatches."""
        self.statistics.finish(self.num_leaves)

    def close(self) -> None:
        """Do nothing: the model stays sharded."""


def shard_units(model: nn.Module, mesh: Mesh, shape: Sequence[int], unit_bytes: int) -> None:
    """Spread the weights of a model over all workers, by the units that are found; see `ShardedParallel`.

    Placement:
        Before, all weights of every worker may lie in the CPU's memory; after, its rows are on its device, where there
        never is more of them than these and one unit.
    """
    if isinstance(model, FSDPModule):
        return
    mesh.workers.broadcast(list(model.state_dict().values()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network's own
        units = find_units(model, shape, unit_bytes)
    shard(model, mesh, [model.get_submodule(name) for name in units])


def shard(model: nn.Module, mesh: Mesh, units: list[nn.Module]) -> None:
    """Spread the weights of a model over all workers of a mesh.

    Args:
        model: With all its weights.
        mesh: All workers; they call this together.
        units: Are gathered each on its own; of the rest the model itself is the unit.
    """
    refused = [name for name, p in model.named_parameters() if p.ndim == 0]
    if refused:
        raise UserError(
            f"fsdp shards parameters by their first dim: {', '.join(refused)} have none; give them one (shape (1,)), or "
            "use a plan without fsdp"
        )
    for parameter in model.parameters():  # fully_shard takes no other memory format
        parameter.data = parameter.data.contiguous()
    workers = mesh.workers
    assert workers.group is not None
    devices = DeviceMesh.from_group(workers.group, workers.device.type)
    for module in (*units, model):
        module.register_forward_hook(_open_outputs)
        fully_shard(module, mesh=devices)
        assert isinstance(module, FSDPModule)
        module.register_forward_pre_hook(_open_arguments, prepend=True, with_kwargs=True)
        module.register_forward_pre_hook(_close_arguments, with_kwargs=True)
        module.register_forward_hook(_close_outputs)
        sum_gradients(module)  # never averaged; a loss may reach a weight on some workers only


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor with all its rows, any other tensor itself.

    Communication:
        One all-gather of its bytes.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Return this worker's rows of a sharded tensor, in the same memory; any other tensor itself."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor


def shard_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters that this worker holds between steps, under any plan."""
    local = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters() if not p.is_meta]
    return sum(p.numel() * p.element_size() for p in local)


class _Layout:
    """How a spatial tensor lies on the workers, out of sight of what walks through containers."""

    def __init__(self, tensor: SpatialTensor) -> None:
        self.dims, self.mesh = tensor.dims, tensor.mesh


class _Opened(NamedTuple):
    """A spatial tensor as fsdp's hooks may see it: autograd works on its local part."""

    local: Tensor
    layout: _Layout


def _open(value: Any) -> Any:
    if isinstance(value, SpatialTensor):
        return _Opened(value.local, _Layout(value))
    return value


def _open_output(value: Any) -> Any:
    """Open, and copy views: fsdp loses sight of a view that is changed in place afterwards."""
    value = _open(value)
    if isinstance(value, _Opened):
        return _Opened(_unshared(value.local), value.layout)
    return _unshared(value) if isinstance(value, Tensor) else value


def _unshared(tensor: Tensor) -> Tensor:
    return tensor.clone() if is_view(tensor) and tensor.requires_grad else tensor


def _close(value: Any) -> Any:
    if isinstance(value, _Opened):
        return SpatialTensor(value.local, value.layout.dims, value.layout.mesh)
    return value


def backward_of_nothing(outputs: Any) -> None:
    """Run backward from all outputs of a model with a gradient of 0, so that its units meet those of other workers."""
    found: list[Tensor] = []

    def take(value: Any) -> Any:
        value = value.local if isinstance(value, SpatialTensor) else value
        if isinstance(value, Tensor) and value.requires_grad:
            found.append(value)
        return value

    _each(outputs, take)
    torch.autograd.backward(found, [torch.zeros_like(tensor) for tensor in found])


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a value with every item of its containers changed."""
    changed = change(value)
    if changed is not value or isinstance(value, (Tensor, nn.Module)):
        return changed
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_each(item, change) for item in value))
    if type(value) in (list, tuple):
        return type(value)(_each(item, change) for item in value)
    if isinstance(value, dict):
        pairs = {key: _each(item, change) for key, item in value.items()}
        return pairs if type(value) is dict else type(value)(pairs)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: _each(getattr(value, name), change) for name in names})
    return value


def _open_arguments(module: nn.Module, args: Any, named: Any) -> Any:
    return _each(args, _open), _each(named, _open)


def _close_arguments(module: nn.Module, args: Any, named: Any) -> Any:
    return _each(args, _close), _each(named, _close)


def _open_outputs(module: nn.Module, args: Any, output: Any) -> Any:
    return _each(output, _open_output)


def _close_outputs(module: nn.Module, args: Any, output: Any) -> Any:
    return _each(output, _close)
