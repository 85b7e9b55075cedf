"""Full precision throughout: a few networks compute a part of themselves in float32, whatever they are given.

In float64 such a part would hide what is compared behind the rounding of float32. Here it stays in float64. A float32 mask of float64
queries would be worse: PyTorch's attention misreads it on the CPU (docs/upstream/attention_mask_cpu.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.torch_internals.functions import FunctionMode


class KeepFloat64(FunctionMode):
    """While it is active, float64 tensors are not cast to float32.

    Example:
        >>> x = torch.ones(2, dtype=torch.float64)
        >>> with KeepFloat64():
        ...     x.float().dtype, x.to(torch.float32).dtype, x.softmax(0, dtype=torch.float32).dtype
        (torch.float64, torch.float64, torch.float64)
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, Tensor) and first.dtype == torch.float64:
            if func is Tensor.float:
                return first
            args = tuple(_widened(value) for value in args)
            named = {name: _widened(value) for name, value in named.items()}
            if func is functional.scaled_dot_product_attention:
                args = tuple(_in_float64(value) for value in args)
                named = {name: _in_float64(value) for name, value in named.items()}
        return func(*args, **named)


def _in_float64(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def _widened(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
