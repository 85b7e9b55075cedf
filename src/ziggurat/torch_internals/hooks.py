"""Hooks on gradients: which there are, and seeing one being registered."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.torch_internals.switches import Watch

# From what a tensor was asked for (``register_hook`` ...) and the tensor to nothing; it may raise.
SeesHook = Callable[[str, Tensor], None]


def hooks_on(parameter: Tensor) -> tuple[list[Callable[..., Any]], list[Callable[..., Any]]]:
    """Return the hooks on a parameter's gradient: those that see it before it is accumulated, and those after.

    Those that were registered unseen are not among them. Why: hooks can be added and removed, but not asked for.
    """
    before: Any = parameter._backward_hooks
    after: Any = parameter._post_accumulate_grad_hooks
    return [hook for hook in (before or {}).values() if hook not in _unseen], list((after or {}).values())


def has_gradient_hooks(module: nn.Module) -> bool:
    """Whether a layer has hooks of its own on the gradients that go through it. Why: as `hooks_on`."""
    return bool(module._backward_hooks or module._backward_pre_hooks)


def num_forward_hooks(module: nn.Module) -> int:
    """Return how many hooks see a layer being called, before and after. Why: as `hooks_on`."""
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def has_gradient_hooks_for_all() -> bool:
    """Whether hooks are registered on the gradients that go through any layer. Why: as `hooks_on`."""
    known = nn.modules.module
    return bool(known._global_backward_hooks or known._global_backward_pre_hooks)


ASKED = ("register_hook", "register_post_accumulate_grad_hook", "retain_grad")

_unseen: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()
_originals: dict[str, Any] = {name: getattr(Tensor, name) for name in ASKED}
_grad_fn: Any = Tensor.grad_fn
_inherited = [name for name in ASKED if name not in vars(Tensor)]


def _seen(name: str) -> Callable[..., Any]:
    """Return what a tensor is asked in the place of a method while anybody watches."""
    original = _originals[name]

    @functools.wraps(original)
    def method(self: Tensor, *args: Any, **named: Any) -> Any:
        if (see := _hooks.watcher) is not None:
            see(name, self)
        _renew_history(self)
        return original(self, *args, **named)

    return method


def _renew_history(tensor: Tensor) -> None:
    """Let a view know its history. Why: else a hook on it may end the process, see docs/upstream/register_hook_of_a_view.md."""
    if type(tensor) is Tensor:
        _grad_fn.__get__(tensor)


class _Node:
    """Is ``x.grad_fn`` of a tensor while anybody watches: hooks on it are seen as those on the tensor are.

    Args:
        node: PyTorch's.
        tensor: That it has made, or that was made after it.
    """

    def __init__(self, node: Any, tensor: Tensor) -> None:
        self._node, self._tensor = node, tensor

    @property  # type: ignore[misc]  # for who asks what it is
    def __class__(self) -> Any:
        return type(self._node)

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        return tuple(
            (None if node is None else _Node(node, self._tensor), place)
            for node, place in self._node.next_functions
        )

    def register_hook(self, hook: Callable[..., Any]) -> Any:
        if (see := _hooks.watcher) is not None:
            see("grad_fn.register_hook", self._tensor)
        return self._node.register_hook(hook)

    def register_prehook(self, hook: Callable[..., Any]) -> Any:
        if (see := _hooks.watcher) is not None:
            see("grad_fn.register_prehook", self._tensor)
        return self._node.register_prehook(hook)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def __eq__(self, other: object) -> bool:
        return self._node is (other._node if type(other) is _Node else other)

    def __hash__(self) -> int:
        return hash(self._node)

    def __repr__(self) -> str:
        return repr(self._node)


class _GradFn:
    """Is ``Tensor.grad_fn`` while anybody watches. Tensors of other classes answer for themselves."""

    __name__ = "grad_fn"

    def __get__(self, tensor: Tensor | None, owner: Any = None) -> Any:
        if tensor is None:
            return self
        node = _grad_fn.__get__(tensor)
        is_plain = type(tensor) in (Tensor, nn.Parameter) and _hooks.watcher is not None
        return node if node is None or not is_plain or type(node) is _Node else _Node(node, tensor)

    def __set__(self, tensor: Tensor, value: Any) -> None:
        _grad_fn.__set__(tensor, value)


def _stand_in() -> None:
    for name in ASKED:
        setattr(torch.Tensor, name, _seen(name))
    torch.Tensor.grad_fn = _GradFn()  # type: ignore[assignment]  # inherited: it is removed again


def _stand_back() -> None:
    del torch.Tensor.grad_fn
    for name in ASKED:
        if name in _inherited:
            delattr(torch.Tensor, name)
        else:
            setattr(torch.Tensor, name, _originals[name])


_hooks: Watch[SeesHook] = Watch(_stand_in, _stand_back)


def seeing_hooks(see: SeesHook) -> AbstractContextManager[None]:
    """Let a function see each hook that this thread registers on a tensor, or gradient that it wants kept, before it is so.

    Why: there is no hook for hooks, and a mode that sees every function would cost some percent of a small network's step.

    Those on the node that has made a tensor (``x.grad_fn.register_hook``), or on one before it, are seen, too.

    Args:
        see: Is given the method's name and the tensor.
    """
    return _hooks.by(see)


def register_unseen(tensor: Tensor, hook: Callable[[Tensor], Tensor | None]) -> Any:
    """Register a hook on a tensor, unseen by who watches, and return its handle. Why: as `keep_gradient`."""
    _unseen.add(hook)
    _renew_history(tensor)
    return _originals["register_hook"](tensor, hook)


def keep_gradient(tensor: Tensor) -> None:
    """Let a tensor keep its gradient, unseen by who watches. Why: what computes a network's operations must not see itself."""
    _originals["retain_grad"](tensor)
