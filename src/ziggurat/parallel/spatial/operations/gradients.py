"""The gradient of a tensor that is spread over workers: it can be kept and read; hooks would see a worker's part, and are refused."""

from __future__ import annotations

from typing import Any, NoReturn

from ziggurat.parallel.spatial.layout import cuts
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor, add_up
from ziggurat.torch_internals.hooks import keep_gradient

PARTS = "workers have parts of the gradient of a tensor that is spread over them"
REMEDY = "change the tensor itself, or the loss, or keep the gradient (retain_grad) and read it after backward; or run the model without sp"


@operation("question", "register_hook", "register_post_accumulate_grad_hook")
def _register_hook(call: Call) -> NoReturn:
    raise call.unsupported(PARTS, REMEDY)


@operation("question", "retain_grad")
def _retain_grad(call: Call) -> None:
    x = call.args[0]
    keep_gradient(x.local)
    x.keeps_gradient = True


@operation("question", "get grad")
def _grad(call: Call) -> Any:
    """Return the gradient of the whole: of what several workers have, each has a part.

    Communication:
        All-reduces over the axes that do not cut the tensor; all workers read it.
    """
    x = call.args[0]
    if x.keeps_gradient and not (x.local.retains_grad or x.local.is_leaf):
        raise call.unsupported(
            "its memory was changed by way of another tensor after its gradient was asked for",
            "call retain_grad() after the last change in place",
        )
    found = x.local.grad if x.keeps_gradient or x.local.is_leaf else None
    if found is None:
        return None
    uncut = sorted(set(range(len(x.mesh.axes))) - set(cuts(x.dims)))
    return SpatialTensor(add_up(found.detach(), x.mesh, uncut), x.dims, x.mesh)


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
