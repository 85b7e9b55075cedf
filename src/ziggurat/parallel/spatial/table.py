"""The table of operations: every operation that a model may use on bands, by kind.

| kind | what it takes |
|---|---|
| pointwise | nothing: every worker computes its band |
| window | halos of the neighbours |
| resample | rows about the band's own, at another scale |
| moments | one small sum over workers |
| layout | nothing, or rows where a cut does not fall on a multiple |
| gather | rows of all workers: counted and reported |
| question | nothing: shapes, types and other facts |

An operation that is not in the table raises `UnsupportedOperation`. Names are those of PyTorch, without what tells
apart ``torch.relu``, ``Tensor.relu``, ``Tensor.relu_`` and ``torch.nn.functional.relu``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ziggurat.parallel.spatial.memory import make_meta
from ziggurat.parallel.spatial.mesh import REMEDY, SpatialMesh, UnsupportedOperation
from ziggurat.parallel.spatial.strides import elementwise
from ziggurat.parallel.spatial.tensor import SpatialTensor, gather
from ziggurat.torch_internals.containers import tree_leaves
from ziggurat.torch_internals.hollow_results import on_meta

Kind = Literal["pointwise", "window", "resample", "moments", "layout", "gather", "question"]
REFLECTED = {"radd": "add", "rmul": "mul", "ror": "or", "rand": "and", "rxor": "xor"}
BY_OPERATOR = {
    "truediv": "div", "floordiv": "floor_divide", "mod": "remainder", "or": "bitwise_or", "and": "bitwise_and",
    "xor": "bitwise_xor", "invert": "bitwise_not", "rtruediv": "rdiv",
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One call of an operation.

    Attributes:
        func: What was called.
        name: Its name in the table.
        args: Positional arguments.
        named: Other arguments.
        mesh: Of the tensors among them.
    """

    func: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    named: dict[str, Any]
    mesh: SpatialMesh

    @functools.cached_property
    def is_in_place(self) -> bool:
        """Whether it is a method that changes its first argument."""
        name = getattr(self.func, "__name__", "")
        augmented = name.startswith("__i") and name not in ("__invert__", "__index__", "__int__", "__iter__")
        return augmented or name == "__setitem__" or (name.endswith("_") and not name.startswith("_"))

    def changes_untold(self, x: SpatialTensor) -> bool:
        """Whether it changes a tensor of which PyTorch counts no changes."""
        if not x.local.is_inference():
            return False
        given = (*self.args[:1], *(value for name, value in self.named.items() if name == "input"))
        return any(one is x for one in given) and (self.is_in_place or self._is_told_to)

    @property
    def _is_told_to(self) -> bool:
        """Whether its argument ``inplace`` is true."""
        if "inplace" in self.named:
            return bool(self.named["inplace"])
        place = _place_of_inplace(self.func)
        return place is not None and place < len(self.args) and bool(self.args[place])

    def on_meta(self) -> list[Tensor | None]:
        """Return what PyTorch returns for tensors that lie in memory as the whole would: in order, whatever holds them."""
        with torch.no_grad():
            found = on_meta(self.func, tuple(map(as_meta, self.args)), as_meta(self.named))
        return [one for one in tree_leaves(found) if isinstance(one, Tensor)]

    def bind(self, names: str, **defaults: Any) -> dict[str, Any]:
        """Return the arguments by name.

        Args:
            names: The operation's parameters in order, parted by spaces.
            defaults: Of those that may be missing.
        """
        order = names.split()
        if len(self.args) > len(order):
            raise self.unsupported(
                f"it has more arguments than {', '.join(order)}: name them, if it has others of these names"
            )
        bound = defaults | dict(zip(order, self.args, strict=False)) | self.named
        return bound

    def weight(self, value: Any) -> Any:
        """Return a weight as every worker has it; one that is computed from an image may have been spread."""
        return gather(value, self.name).local if isinstance(value, SpatialTensor) else value

    def unsupported(self, reason: str, remedy: str = REMEDY) -> UnsupportedOperation:
        """Return the error that says why this call cannot be computed, and what to do about it."""
        return self.mesh.unsupported(self.name, reason, remedy)


@functools.cache
def _place_of_inplace(func: Callable[..., Any]) -> int | None:
    """Return the place of a function's argument ``inplace``; None where it has no such, as all that are not written in Python."""
    names = list(inspect.signature(func).parameters) if isinstance(func, FunctionType) else []
    return names.index("inplace") if "inplace" in names else None


def as_meta(value: Any) -> Any:
    """Return an argument with meta tensors in the place of tensors, as the whole would lie in memory."""
    if isinstance(value, SpatialTensor):
        return value.meta
    if isinstance(value, Tensor):
        return make_meta(tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(as_meta(one) for one in value)
    if isinstance(value, dict):
        return {name: as_meta(one) for name, one in value.items()}
    return value


def place_of(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return shape and strides, of a spread tensor those of the whole."""
    meta = tensor.meta if isinstance(tensor, SpatialTensor) else tensor
    return tuple(meta.shape), meta.stride()


Order = Literal["contiguous", "elementwise", "first", "channels"]
Views = Callable[[Call, Sequence[SpatialTensor]], Sequence[Tensor | None]]


def views_on_meta(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Ask PyTorch how results lie in memory, and in whose.

    Where that depends on values, PyTorch does not say, and results are new.
    """
    try:
        found = call.on_meta()
    except (NotImplementedError, RuntimeError):
        return [None] * len(made)
    return found if len(found) == len(made) else [None] * len(made)


def its_input(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Let a result be the input itself, if it is."""
    return [x.meta if any(x is argument for argument in call.args) else None for x in made]


def like_its_first(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Let results lie as a dense copy of the first argument does."""
    shape, strides = place_of(call.args[0])
    return [make_meta(shape, elementwise(shape, [(shape, strides)]), x.raw.dtype) for x in made]


def as_made(call: Call, made: Sequence[SpatialTensor]) -> Sequence[Tensor | None]:
    """Leave results where the operations have put them that an operation is made of."""
    return [x.meta for x in made]


@dataclass(frozen=True)
class Operation:
    """An entry of the table.

    Attributes:
        kind: What it takes.
        run: Computes it.
        order: How new results lie in memory: ``contiguous``; as what is computed ``elementwise`` from the arguments; with
            channels together where the ``first`` argument has them so, or one of the first two has (``channels``).
        views: Says for each result how it lies in memory, in that of an argument or in new one; None where `order` says it.
    """

    kind: Kind
    run: Callable[[Call], Any]
    order: Order = "contiguous"
    views: Views | None = None


TABLE: dict[str, Operation] = {}
Handler = TypeVar("Handler", bound=Callable[[Call], Any])


def operation(
    kind: Kind, *names: str, order: Order | None = None, views: Views | None = None
) -> Callable[[Handler], Handler]:
    """Enter a function into the table as what computes the operations of these names.

    Args:
        kind: What they take.
        names: As `name_of` gives them.
        order: See `Operation`; by default that of the kind.
        views: See `Operation`; by default operations of the kinds ``layout`` and ``gather`` ask PyTorch.
    """
    usual: Order = "elementwise" if kind == "pointwise" else "contiguous"
    asks = kind in ("layout", "gather") and views is None and order is None
    asked = views_on_meta if asks else views

    def enter(handler: Handler) -> Handler:
        for name in names:
            if name in TABLE:
                raise ValueError(f"an operation is declared once: '{name}' is {TABLE[name].kind} already")
            TABLE[name] = Operation(kind, handler, order or usual, asked)
        return handler

    return enter


def name_of(func: Callable[..., Any]) -> str:
    """Return the name of an operation in the table.

    Example:
        >>> import torch
        >>> [name_of(f) for f in (torch.relu, torch.Tensor.relu_, torch.Tensor.__radd__, torch.Tensor.shape.__get__)]
        ['relu', 'relu', 'add', 'get shape']
    """
    name = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__"):
        owner = getattr(func, "__self__", None)
        return f"{name.strip('_')} {getattr(owner, '__name__', '?')}"
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        if name in ("bool", "float", "int", "index"):
            return f"as {name}"  # bool(x), not x.bool()
        if name[0] == "i" and name[1:] in ("add", "sub", "mul", "truediv", "floordiv", "pow", "and", "or"):
            name = name[1:]
        name = REFLECTED.get(name, name)
        return BY_OPERATOR.get(name, name)
    return name.strip("_")


def wrap(result: Tensor, like: SpatialTensor) -> SpatialTensor:
    """Return a spatial tensor with the layout of another; the other one itself where it was changed in place."""
    return like if result is like.local else SpatialTensor(result, like.dims, like.mesh)
