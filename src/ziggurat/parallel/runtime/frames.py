"""Naming the layer that is being computed, from the call stack alone: a model needs no hooks for it.

A layer's method is on the stack with the layer as its ``self``; so is what runs a recorded call in a layer's place (see
`graph.runner`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import FrameType

from torch import nn

ENGINES = ("ziggurat.parallel", "ziggurat.torch_internals")


def layers_on_stack(frame: FrameType | None) -> Iterator[nn.Module]:
    """Yield the layers whose methods are on a stack, the innermost first; of a layer's own calls in a row only one."""
    last: nn.Module | None = None
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner is not last:
            last = owner
            yield owner
        frame = frame.f_back


def known_layer(names: Mapping[int, str]) -> str:
    """Return the name of the innermost layer on this thread's stack that has a name; ``?`` outside of any.

    Args:
        names: Of layers, by their ``id``; empty for the network itself, which is called by its class.
    """
    for layer in layers_on_stack(sys._getframe(1)):
        if id(layer) in names:
            return names[id(layer)] or type(layer).__name__
    return "?"


def line_of_network(frame: FrameType | None = None) -> str:
    """Return the line of a network's code that is being run, as ``file:line``; empty outside of any network's code.

    That is the innermost frame which is neither PyTorch's nor of what computes a network's operations for it.

    Args:
        frame: Where to begin; by default where it is called.
    """
    frame = frame or sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if not _is_in(module, ("torch", *ENGINES)):
            of_ours = _is_in(module, ("ziggurat",)) and not _is_in(module, ("ziggurat.models",))
            return "" if of_ours else f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def innermost_layer(frame: FrameType | None) -> str:
    """Return the dotted name of the innermost layer on a stack, as the outermost one names it; empty outside of any.

    Example:
        >>> import sys
        >>> class Inner(nn.Module):
        ...     def forward(self):
        ...         return innermost_layer(sys._getframe())
        >>> class Outer(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.blocks = nn.ModuleList([Inner()])
        ...     def forward(self):
        ...         return self.blocks[0]()
        >>> Outer()()
        'blocks.0'
    """
    layers = list(layers_on_stack(frame))
    if not layers:
        return ""
    inner, outer = layers[0], layers[-1]
    names = [name for name, layer in outer.named_modules() if layer is inner]
    return (names[0] if names else "") or type(inner).__name__
