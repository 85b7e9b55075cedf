"""`fully_shard` and `DTensor`, beyond what their documentation promises; and whatever else of PyTorch spreads a network by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.fsdp._fully_shard import _fsdp_param, _fsdp_param_group
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel


class OwnRows(NamedTuple):
    """What this worker has of a tensor that is sharded by its first dim.

    Attributes:
        first: Number of the first row; of one that has none, the number of rows of the tensor or less.
        size: How many rows.
    """

    first: int
    size: int


def own_rows(tensor: DTensor) -> OwnRows:
    """Return which rows of a sharded tensor this worker has.

    Why: it is what `torch.distributed.checkpoint` asks; the arithmetic of uneven shards has no documented form.
    """
    (chunk,) = tensor.__create_chunk_list__()
    return OwnRows(int(chunk.offsets[0]), int(chunk.sizes[0]))


def sum_gradients(unit: FSDPModule) -> None:
    """Let a unit's gradients be summed over workers, never averaged, also those of weights that some workers did not use.

    Why: the setters are documented as meant for special cases, and change between minor versions.
    """
    unit.set_gradient_divide_factor(1.0)
    unit.set_force_sum_reduction_for_comms(True)
    unit.set_reduce_scatter_unused_params(True)


def sum_rows_by(unit: FSDPModule, add_up: Callable[[Tensor, Tensor], None]) -> None:
    """Let a function of ours take a unit's gradient after each backward pass, in the place of a reduce-scatter.

    Args:
        unit: Its gradient is taken once in each pass.
        add_up: Writes this worker's rows, its first argument, from the gradient of all rows, which is no longer used.

    Why: ``set_custom_reduce_scatter`` is documented, and the class of what it takes is in a private module; what is called has no other
    members.
    """
    unit.set_custom_reduce_scatter(_RowsBy(add_up))  # type: ignore[arg-type]  # its class is private, see above


Order = tuple[int, ...]  # of dims in memory, the outermost first


def keep_memory_order(unit: FSDPModule, orders: Mapping[tuple[nn.Module, str], Order]) -> None:
    """Let the weights of a unit have another order of dims in memory, in rows and gathered, than that of their dims.

    Args:
        unit: Sharded just now; nothing has run yet.
        orders: Of parameters by the module that has them and their names there; their rows stay outermost.

    Why: `fully_shard` refuses parameters that are not contiguous. But what it gathers is flat, and two strides alone say how: a convolution
    of weights in channels-last rounds otherwise, and takes another time, than with contiguous ones.
    """
    for group in unit._get_fsdp_state()._fsdp_param_groups:
        for one in group.fsdp_params:
            order = orders.get((one._module_info.module, one._module_info.param_name))
            if order is None or one.fsdp_placement.dim != 0:
                continue
            one._contiguous_orig_stride = strides_of(one._orig_size, order)
            local = one._sharded_local_tensor
            flat = one._sharded_param_data[: local.numel()]
            flat.copy_(local.permute(order).reshape(-1).clone())
            assert isinstance(one.sharded_param, DTensor)
            one.sharded_param._local_tensor = flat.as_strided(local.shape, strides_of(local.shape, order))


def strides_of(shape: Sequence[int], order: Order) -> tuple[int, ...]:
    """Return the strides of a tensor without gaps, whose dims have an order in memory.

    Example:
        >>> strides_of((2, 3, 4, 5), (0, 2, 3, 1))
        (60, 1, 15, 3)
    """
    strides, step = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim], step = step, step * max(1, shape[dim])
    return tuple(strides)


class _RowsBy:
    """A reduce-scatter by a function."""

    def __init__(self, add_up: Callable[[Tensor, Tensor], None]) -> None:
        self.add_up = add_up

    def allocate(
        self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Return memory that nobody else has."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: ProcessGroup,
        op: object,
        async_op: bool = False,
    ) -> None:
        """Write this worker's rows."""
        self.add_up(output_tensor, input_tensor)


def drop_gathered(model: nn.Module) -> None:
    """Drop all weights of a model that are gathered still after forward passes without a backward pass, and forget these passes.

    Each unit is told by the documented ``reshard``. Nothing happens to a model that is not sharded, and no worker waits for
    another.

    Why the rest: `fully_shard` notes the order of all forward passes until a backward pass comes, so that a model that is only
    evaluated would keep more with each pass. (``reset_iter_state`` forgets it, too, but is meant for passes that have failed.)
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
            for group in module._get_fsdp_state()._fsdp_param_groups:
                group.comm_ctx.post_forward_order.clear()
                group._post_forward_indices.clear()


def noted_passes(model: nn.Module) -> int:
    """Return how many forward passes of units `fully_shard` has noted of a sharded model for a backward pass to come."""
    groups = [
        group
        for module in model.modules()
        if isinstance(module, FSDPModule)
        for group in module._get_fsdp_state()._fsdp_param_groups
    ]
    return sum(len(group._post_forward_indices) for group in groups)


def talks_by_itself(module: nn.Module) -> bool:
    """Whether a module is one of PyTorch's wrappers that spread what is inside over processes."""
    return isinstance(module, (DistributedDataParallel, FullyShardedDataParallel, FSDPModule))


def held_groups(module: nn.Module) -> list[str]:
    """Return the names of a module's own attributes that are process groups, or meshes of them; none is asked what it is."""
    kinds = (ProcessGroup, DeviceMesh)
    return [name for name, value in vars(module).items() if issubclass(type(value), kinds)]


def gathered_places(args: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Return what the operator ``fsdp::all_gather_copy_in`` does, which copies shards to their place in the room for all of them.

    Why: both results lie in its second argument, which its schema does not say.

    Args:
        args: The operator's: shards, room, their sizes, elements of all shards, number of this worker.
    """
    _, room, _, size, rank = args
    return room.narrow(0, size * rank, size), room


@contextmanager
def seeing_storage(see: Callable[[Tensor], None]) -> Iterator[None]:
    """Let a function be called with each gathered weight whose memory `fully_shard` has freed, or got again, while a block runs.

    It is for the whole process.

    Why: it resizes storages, of which no operator, and so no mode, knows.
    """
    places: list[tuple[Any, str]] = [
        (module, name)
        for module in (_fsdp_param, _fsdp_param_group)
        for name in ("alloc_storage", "free_storage")
        if hasattr(module, name)
    ]
    before = [getattr(module, name) for module, name in places]

    def seen(original: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
        def change(tensor: Tensor) -> None:
            original(tensor)
            see(tensor)

        return change

    for (module, name), original in zip(places, before, strict=True):
        setattr(module, name, seen(original))
    try:
        yield
    finally:
        for (module, name), original in zip(places, before, strict=True):
            setattr(module, name, original)
