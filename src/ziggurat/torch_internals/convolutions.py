"""Convolutions in bfloat16 on the CPU of which PyTorch 2.14 returns what nobody has written: some shapes are computed in float32 here.

oneDNN leaves parts of a gradient, and on processors with AMX of the result itself, as they were in memory, or writes beside them, in conditions
that shapes tell only in part: `goes_wrong` has those that were met, and ``docs/upstream/convolution_bf16_cpu.md`` with scripts. Most
are maps on which a kernel may hang over at both ends, or of one column: the coarsest level of a pyramid, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ziggurat.torch_internals.switches import Switch

ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
OF_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
NAMES = {f"conv{dims}d": ARGUMENTS for dims in (1, 2, 3)} | {
    f"conv_transpose{dims}d": OF_TRANSPOSED for dims in (1, 2, 3)
}
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
        self.arguments = NAMES[self.__name__]

    def __call__(self, *args: Any, **named: Any) -> Any:
        given: Any = args[0] if args else named.get("input")
        if type(given) in PLAIN and not torch.compiler.is_compiling():
            is_autocast = torch.is_autocast_enabled("cpu")
            dtype = torch.get_autocast_dtype("cpu") if is_autocast else given.dtype
            if dtype == torch.bfloat16 and given.device.type == "cpu":
                bound = dict(zip(self.arguments, args, strict=False)) | named
                stride, padding, dilation = (
                    bound.get("stride", 1),
                    bound.get("padding", 0),
                    bound.get("dilation", 1),
                )
                transposed = self.arguments is OF_TRANSPOSED
                if type(bound["weight"]) in PLAIN and goes_wrong(
                    given, bound["weight"], stride, padding, dilation, transposed
                ):
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
    """While a block runs, no convolution on the CPU is computed in bfloat16 where its result or its gradient would be wrong.

    Passes without gradients are computed so, too: they return what those with gradients do. Those of scripted and compiled code are not seen. It is for the whole process, where it does no harm. Why so: as
    `ziggurat.torch_internals.norm_calls.keeping_statistics`.
    """
    return _switch.held()


def goes_wrong(
    images: Tensor,
    weight: Tensor,
    stride: int | Sequence[int],
    padding: int | str | Sequence[int],
    dilation: int | Sequence[int],
    transposed: bool = False,
) -> bool:
    """Whether a convolution in bfloat16 on the CPU may return what nobody has written, in its result or in a gradient.

    Args:
        images: Whose last dims are the map's.
        weight: Shape ``(outputs, inputs, *kernel)``; of a transposed convolution the first two are exchanged.
        stride: Of the convolution.
        padding: Likewise; as a word it goes with a stride of 1, or is none.
        dilation: Likewise.
        transposed: Whether it is a transposed one.

    Example:
        >>> weight = torch.empty(8, 8, 3, 3)
        >>> [goes_wrong(torch.empty(1, 8, 9, columns), weight, 2, 1, 1) for columns in (2, 3, 9)]
        [True, True, False]
        >>> goes_wrong(torch.empty(1, 8, 9, 3), weight, 1, 1, 1)
        False
    """
    kernel, rows = weight.shape[2:], images.shape[images.dim() - weight.dim() + 2 :]
    strides, paddings, dilations = (_each(one, len(kernel)) for one in (stride, padding, dilation))
    dims = list(zip(rows, kernel, strides, paddings, dilations, strict=True))
    is_volume = len(dims) == 3
    if transposed:
        one_column = rows[-1] == 1 and strides[-1] > 1
        return one_column or (is_volume and any(s > k or d > 1 or n == 1 for n, k, s, _, d in dims))
    n, k, s, p, d = dims[-1]
    one_column = s > 1 and n + 2 * p < (k - 1) * d + 1 + s
    return (
        one_column
        or any(k > 1 and n < (k - 1) * d + s for n, k, s, _, d in dims)
        or (is_volume and any(s > k for _, k, s, _, _ in dims))
    )


def _each(value: int | str | Sequence[int], count: int) -> tuple[int, ...]:
    if isinstance(value, str):
        return (0,) * count
    if isinstance(value, int):
        return (value,) * count
    return tuple(value) * (count if len(value) == 1 else 1)
