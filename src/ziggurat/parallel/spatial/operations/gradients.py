"""The gradient of a tensor that is spread over workers, as the network sees it: that of the whole.

Where an axis cuts a tensor, each worker has the gradient of its rows; where it does not, each has a part, and the parts add up.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from ziggurat.parallel.spatial.layout import Dims, cuts, size_of
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor, add_up, gather, keep_own
from ziggurat.torch_internals.hooks import keep_gradient, register_unseen

PARTS = "workers have parts of the gradient of a tensor that is spread over them"
REMEDY = "change the tensor itself, or the loss, or keep the gradient (retain_grad) and read it after backward; or run the model without sp"


@operation("question", "register_post_accumulate_grad_hook")
def _register_late_hook(call: Call) -> NoReturn:
    raise call.unsupported(PARTS, REMEDY)


@operation("question", "register_hook")
def _register_hook(call: Call) -> Any:
    """Let a hook see the gradient of the whole, and change it: of what several workers have, the first one has all of the change.

    Communication:
        In backward, all-reduces over the axes that do not cut the tensor; and what the hook itself computes.
    """
    bound = call.bind("self hook")
    x, hook = bound["self"], bound["hook"]
    dims, mesh, uncut = x.dims, call.mesh, uncut_axes(x)

    def see(part: Tensor) -> Tensor | None:
        whole = SpatialTensor(add_up(part.detach(), mesh, uncut), dims, mesh)
        mesh.in_hook = True
        try:
            found = hook(whole)
        finally:
            mesh.in_hook = False
        if found is None:
            return None
        if not isinstance(found, SpatialTensor) or tuple(found.shape) != tuple(map(size_of, dims)):
            raise call.unsupported(
                "the hook returns no gradient of the tensor that is spread over workers", REMEDY
            )
        local = laid_out_as(found, dims).local
        return local if not any(mesh.axes[axis].rank for axis in uncut) else torch.zeros_like(local)

    return register_unseen(_watched(call, x), see)


def _watched(call: Call, x: SpatialTensor) -> Tensor:
    """Return this worker's part of a tensor whose gradient is asked for: all of the gradient must come by it."""
    local = x.local
    if x.account.memory.is_written_back:
        reason = "a view of it was changed in place, whose rows lie apart from it: gradients go past it"
        raise call.unsupported(reason, "ask before the change, or of a clone(); or run the model without sp")
    if x.watched_since is None:
        x.watched_since = x.account.memory.changes
    return local


@operation("question", "retain_grad")
def _retain_grad(call: Call) -> None:
    keep_gradient(_watched(call, call.args[0]))


@operation("question", "get grad")
def _grad(call: Call) -> Any:
    """Return the gradient of the whole: of what several workers have, each has a part.

    Communication:
        All-reduces over the axes that do not cut the tensor; all workers read it.
    """
    x = call.args[0]
    found = x.local.grad if x.watched_since is not None or x.local.is_leaf else None
    if found is None:
        return None
    return SpatialTensor(add_up(found.detach(), x.mesh, uncut_axes(x)), x.dims, x.mesh)


def uncut_axes(x: SpatialTensor) -> list[int]:
    """Return the axes whose workers have the same rows of a tensor, and parts of their gradient."""
    return sorted(set(range(len(x.mesh.axes))) - set(cuts(x.dims)))


def laid_out_as(x: SpatialTensor, dims: Dims) -> SpatialTensor:
    """Return a tensor that lies on the workers as another one of its shape.

    Communication:
        The rows that change their owner.
    """
    if x.dims == dims:
        return x
    return keep_own(gather(x, "register_hook").local, dims, x.mesh)


@operation("question", "get grad_fn")
def _grad_fn(call: Call) -> Any:
    made_by = call.args[0].local.grad_fn
    return None if made_by is None else GradientOfPart(made_by, call.args[0].mesh)


class GradientOfPart:
    """What stands for ``x.grad_fn`` of a tensor that is spread over workers: it has a name, and takes no hooks.

    Args:
        made_by: The node of this worker's part.
        mesh: The workers.
    """

    def __init__(self, made_by: Any, mesh: SpatialMesh) -> None:
        self._made_by, self._mesh = made_by, mesh

    def name(self) -> str:
        """Return the node's name."""
        return str(self._made_by.name())

    def __getattr__(self, asked: str) -> Any:
        if asked.startswith("__"):
            raise AttributeError(asked)
        raise self._mesh.unsupported(f"grad_fn.{asked}", PARTS, REMEDY)
