"""Seeing what is called: functions, operators, and custom autograd functions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from ziggurat.torch_internals.switches import Watch

# Why: documented in notes only, and the second lies in a private module. Both are of the thread that enters them.
FunctionMode = TorchFunctionMode
DispatchMode = TorchDispatchMode

# From the function's class, its arguments and what calls it to what the call returns.
SeesApply = Callable[[Any, tuple[Any, ...], dict[str, Any], Callable[..., Any]], Any]


def unseen() -> AbstractContextManager[Any]:
    """Return a context in which no mode and no subclass of this thread sees calls of functions.

    Why: who watches a network from within must not see itself. The context that PyTorch documents is for subclasses alone.
    """
    context: AbstractContextManager[Any] = torch._C.DisableTorchFunction()
    return context


def without_dispatch_modes() -> AbstractContextManager[Any]:
    """Return a context in which no dispatch mode of this thread sees operators.

    Why: what is computed to know how large something is belongs to no count; modes have no public switch.
    """
    context: AbstractContextManager[Any] = torch.utils._python_dispatch._disable_current_modes()
    return context


def is_primitive(func: Callable[..., Any]) -> bool:
    """Whether a function is an operator of PyTorch's own decompositions, which no network calls by itself.

    Why: met while a network is traced, it tells that scripted code has called an operator out of sight.
    """
    return isinstance(func, torch._ops.OpOverload) and func.namespace == "prims"


def changes_arguments(func: Any) -> bool:
    """Whether an operator changes an argument, in place or as where its result goes.

    Why: the tag of operators in place leaves the others out.
    """
    return bool(func._schema.is_mutable)


_original: Any = torch.autograd.Function.__dict__["apply"]


def _apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Be ``Function.apply`` while anybody watches: to threads that do not, it is the original."""
    inner, see = _original.__get__(None, cls), _calls.watcher
    return inner(*args, **kwargs) if see is None else see(cls, args, kwargs, inner)


def _stand_in() -> None:
    torch.autograd.Function.apply = classmethod(_apply)


def _stand_back() -> None:
    torch.autograd.Function.apply = _original


_calls: Watch[SeesApply] = Watch(_stand_in, _stand_back)


def seeing_apply(see: SeesApply) -> AbstractContextManager[None]:
    """Let a function be called in the place of each ``Function.apply`` of this thread.

    Why: no mode of PyTorch sees a custom autograd function as one call; what its forward does is not what is differentiated.

    Args:
        see: Is called instead, and has to call what calls the original.
    """
    return _calls.by(see)


def is_of_custom_function(tensor: Tensor) -> bool:
    """Whether a custom autograd function has made a tensor.

    Why: who has bound ``Function.apply`` before (``swish = Swish.apply``) calls it unseen. The property is asked as PyTorch has it, as
    others may watch who asks.
    """
    grad_fn: Any = torch._C.TensorBase.grad_fn
    return isinstance(grad_fn.__get__(tensor), BackwardCFunction)


def checkpoint_by_hooks(function: Callable[..., Any], keeps_generators: bool, *args: Any) -> Any:
    """Compute what a reentrant checkpoint (`CheckpointFunction`) is given by one that is not reentrant.

    Why: the function that it is given is out of sight of who sees calls of custom autograd functions, and so are the tensors that it
    uses beside its arguments. The results have a gradient if one of the arguments has.
    """
    if not any(isinstance(one, Tensor) and one.requires_grad for one in args):
        with torch.no_grad():
            return function(*args)
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=keeps_generators)
