"""Convolutions of small maps in bfloat16 on the CPU, of whose weights PyTorch 2.14 returns gradients that nobody has written.

oneDNN leaves parts of the gradient of a weight as they were in memory, in conditions that shapes tell only in part: mostly of taps that
meet no pixel of the map. ``docs/upstream/convolution_bf16_cpu.md`` has it with a script. A map on which a kernel may hang over at
both ends is computed in float32 here, and the result rounded; it is the coarsest level of a pyramid, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ziggurat.torch_internals.switches import Switch

NAMES = ("conv1d", "conv2d", "conv3d")
ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
PLAIN = (Tensor, nn.Parameter)

_originals: dict[str, Callable[..., Any]] = {name: getattr(torch, name) for name in NAMES}


def _set(functions: dict[str, Callable[..., Any]]) -> None:
    for name, function in functions.items():
        setattr(torch, name, function)
        setattr(functional, name, function)


class _Mended:
    """Is ``torch.conv2d``, or another of its names."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self.original, self.__name__ = original, original.__name__

    def __call__(self, *args: Any, **named: Any) -> Any:
        given: Any = args[0] if args else named.get("input")
        if type(given) in PLAIN and not torch.compiler.is_compiling():
            is_autocast = torch.is_autocast_enabled("cpu")
            dtype = torch.get_autocast_dtype("cpu") if is_autocast else given.dtype
            if dtype == torch.bfloat16 and given.device.type == "cpu":
                bound = dict(zip(ARGUMENTS, args, strict=False)) | named
                weight, stride = bound["weight"], bound.get("stride", 1)
                if type(weight) in PLAIN and is_small(given, weight, stride, bound.get("dilation", 1)):
                    return self._in_float32(bound)
        return self.original(*args, **named)

    def _in_float32(self, bound: dict[str, Any]) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            tensors = {
                name: None if bound.get(name) is None else bound[name].float()
                for name in ("input", "weight", "bias")
            }
            out: Tensor = self.original(**bound | tensors)
            return out.bfloat16()


def mended(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does what a convolution of PyTorch's does, with right gradients; any other as it is."""
    name = next((name for name, original in _originals.items() if function is original), None)
    return function if name is None else _Mended(function)


_switch = Switch(
    lambda: _set({name: mended(original) for name, original in _originals.items()}),
    lambda: _set(_originals),
)


def right_convolution_gradients() -> AbstractContextManager[None]:
    """While a block runs, no convolution on the CPU is computed in bfloat16 where its gradient would be wrong.

    Passes without gradients are computed so, too: they return what those with gradients do. Those of scripted and compiled code are not seen. It is for the whole process, where it does no harm. Why so: as
    `ziggurat.torch_internals.norm_calls.keeping_statistics`.
    """
    return _switch.held()


def is_small(
    images: Tensor, weight: Tensor, stride: int | Sequence[int], dilation: int | Sequence[int]
) -> bool:
    """Whether a kernel may hang over a map at both ends along some dim: then some of its taps may meet no pixel.

    Args:
        images: Whose last dims are the map's.
        weight: Shape ``(outputs, inputs, *kernel)``.
        stride: Of the convolution.
        dilation: Likewise.
    """
    kernel = weight.shape[2:]
    strides, dilations = (
        (one,) * len(kernel) if isinstance(one, int) else tuple(one) * (len(kernel) if len(one) == 1 else 1)
        for one in (stride, dilation)
    )
    rows = images.shape[images.dim() - len(kernel) :]
    return any(
        k > 1 and n < (k - 1) * d + s for n, k, s, d in zip(rows, kernel, strides, dilations, strict=True)
    )
