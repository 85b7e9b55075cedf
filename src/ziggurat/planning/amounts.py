"""How much a kernel has to do, from its form alone: arithmetic, bytes, and which kernels are alike.

Kernels that are alike take a time that grows with their work: so those that were measured tell about others.

    text      the kernel itself, but for numbers that change no time (a rate, an epsilon)
    layer     the same layer on images of another size: of a convolution its weights and settings, of others types and orders
    operator  the same operator on anything
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ziggurat.planning.kernels import call_of, dtype_of, forms_in
from ziggurat.planning.program import Form, Kernel, is_spread_operation
from ziggurat.torch_internals.containers import tree_leaves
from ziggurat.torch_internals.operators import Parameter, computes_nothing, operator_of, parameters_of

LONG = 4  # lists of more tensors are told by their number and elements: an optimizer's


class Work(NamedTuple):
    """What a kernel has to do.

    Attributes:
        flops: Multiplications and additions of convolutions, products of matrices and attention; 0 of all others.
        num_bytes: Of the tensors that it reads and writes.
    """

    flops: int
    num_bytes: int


@functools.lru_cache(maxsize=1 << 17)
def work_of(kernel: Kernel) -> Work:
    """Return the work of a kernel.

    Example:
        >>> x = Form((4, 8), (8, 1), "float32")
        >>> work_of(Kernel("aten.mm.default", (x, Form((8, 2), (2, 1), "float32"))))
        Work(flops=128, num_bytes=224)
    """
    if is_free(kernel):
        return Work(0, 0)
    made = _results(kernel)
    read = sum(bytes_of(form) for form in forms_in(kernel.arguments))
    return Work(_flops(kernel, made), read + sum(bytes_of(form) for form in made))


@functools.lru_cache(maxsize=1 << 17)
def is_free(kernel: Kernel) -> bool:
    """Return whether a kernel only gives another view of its tensors, or stands for an operation whose kernels are beside it."""
    if is_spread_operation(kernel):
        return True
    try:
        return computes_nothing(operator_of(kernel.name))
    except ValueError:  # of a library that is not loaded here
        return False


def bytes_of(form: Form) -> int:
    """Return the bytes of a tensor's elements; those that an expanded tensor has several times count once.

    Example:
        >>> bytes_of(Form((2, 3), (0, 1), "float32"))
        12
    """
    if 0 in form.shape:
        return 0
    elements = prod(size for size, stride in zip(form.shape, form.strides, strict=True) if stride)
    return elements * dtype_of(form.dtype).itemsize


@functools.lru_cache(maxsize=1 << 17)
def text_of(kernel: Kernel) -> str:
    """Return a text that is the same for kernels which take the same time.

    Example:
        >>> x = Form((4, 8), (8, 1), "float32")
        >>> text_of(Kernel("aten.mul.Tensor", (x, "0.5")))
        'aten.mul.Tensor(4x8 float32, ~)'
    """
    return f"{kernel.name}({', '.join(_text(one) for one in kernel.arguments)})"


def layer_of(kernel: Kernel) -> str:
    """Return the layer that a kernel belongs to: the same for images of any size."""
    if "convolution" in kernel.name:
        input_, weight = _input_and_weight(kernel)
        settings = [_text(one) for one in kernel.arguments if not isinstance(one, Form)]
        return f"{kernel.name}({input_.dtype} {order_of(input_)}, {_text(weight)}, {', '.join(settings)})"
    kinds = sorted({f"{form.dtype} {order_of(form)}{len(form.shape)}" for form in forms_in(kernel.arguments)})
    return f"{kernel.name}({', '.join(kinds)})"


def operator_text(kernel: Kernel) -> str:
    """Return the operator with the type of its numbers, of a convolution also with the size of its window."""
    forms = forms_in(kernel.arguments)
    dtype = forms[0].dtype if forms else ""
    if "convolution" in kernel.name:
        input_, weight = _input_and_weight(kernel)
        depthwise = " depthwise" if weight.shape[1] == 1 and input_.shape[1] > 1 else ""
        return f"{kernel.name}({dtype}, {'x'.join(map(str, weight.shape[2:]))}{depthwise})"
    return f"{kernel.name}({dtype})"


def order_of(form: Form) -> str:
    """Return the order in which a tensor's elements lie: ``rows``, ``channels`` (channels last) or ``other``.

    Example:
        >>> order_of(Form((2, 3, 4, 4), (48, 1, 12, 3), "float32"))
        'channels'
    """
    shape = form.shape
    dims = [*range(len(shape))]
    if _is_dense(form, dims):
        return "rows"
    if len(shape) > 2 and _is_dense(form, [0, *range(2, len(shape)), 1]):
        return "channels"
    return "other"


def _is_dense(form: Form, dims: list[int]) -> bool:
    step = 1
    for dim in reversed(dims):
        if form.shape[dim] != 1:
            if form.strides[dim] != step:
                return False
            step *= form.shape[dim]
    return True


def _text(value: Hashable) -> str:
    if isinstance(value, Form):
        strides = "" if order_of(value) == "rows" else f"@{','.join(map(str, value.strides))}"
        return f"{'x'.join(map(str, value.shape))}{strides} {value.dtype}"
    if isinstance(value, tuple):
        if len(value) > LONG and all(isinstance(one, Form) for one in value):
            kinds = sorted({one.dtype for one in value if isinstance(one, Form)})
            elements = sum(prod(one.shape) for one in value if isinstance(one, Form))
            return f"[{len(value)} of {elements} {' '.join(kinds)}]"
        return f"[{','.join(_text(one) for one in value)}]"
    return "~" if isinstance(value, str) and _is_number(value) else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _input_and_weight(kernel: Kernel) -> tuple[Form, Form]:
    """Return the input and the weights of a convolution or of its backward, which has the gradient before."""
    first = 1 if "backward" in kernel.name else 0
    input_, weight = kernel.arguments[first : first + 2]
    assert isinstance(input_, Form)  # as the operators have it
    assert isinstance(weight, Form)
    return input_, weight


def _results(kernel: Kernel) -> list[Form]:
    """Return the forms of what a kernel gives, without computing; those of its largest input where PyTorch cannot tell."""
    try:
        operator, args, named = call_of(kernel, _on_meta)
        if any(one.name == "device" for one in parameters_of(operator)):
            named["device"] = torch.device("meta")
        with torch.no_grad():
            made = operator(*args, **named)
    except (RuntimeError, NotImplementedError, ValueError, IndexError, TypeError):  # depends on the numbers
        return sorted(forms_in(kernel.arguments), key=bytes_of)[-1:]
    return [
        Form(tuple(one.shape), one.stride(), str(one.dtype)[6:])
        for one in tree_leaves(made)
        if isinstance(one, Tensor)
    ]


def _on_meta(form: Form, parameter: Parameter) -> Tensor:
    return torch.empty_strided(form.shape, form.strides, dtype=dtype_of(form.dtype), device="meta")


def _flops(kernel: Kernel, made: list[Form]) -> int:
    name, args = kernel.name.split(".")[1], kernel.arguments
    if "convolution" in name:
        return _convolution_flops(kernel, made)
    forms = [form for form in forms_in(args) if len(form.shape) > 1]
    if name in ("mm", "bmm", "addmm", "baddbmm", "addmm_", "linear"):
        # the last two matrices: what is added stands before them
        left, right = forms[-2:] if name != "linear" else (forms[0], forms[1])
        columns = right.shape[0] if name == "linear" else right.shape[-1]
        return 2 * prod(left.shape) * columns
    if name in ("mv", "addmv"):
        return 2 * prod(forms[-1].shape)
    if name.startswith("_scaled_dot_product"):
        backward = "backward" in name
        query, key = forms[1 if backward else 0], forms[2 if backward else 1]
        products = 5 if backward else 2  # backward computes the scores again
        return products * 2 * prod(query.shape) * key.shape[-2]
    return 0


def _convolution_flops(kernel: Kernel, made: list[Form]) -> int:
    input_, weight = _input_and_weight(kernel)
    backward = "backward" in kernel.name
    gradient = kernel.arguments[0] if backward else (made[0] if made else input_)
    assert isinstance(gradient, Form)
    transposed = kernel.arguments[7 if backward else 6] is True
    positions = input_ if transposed else gradient
    each = 2 * prod(positions.shape) * prod(weight.shape[1:])
    if not backward:
        return each
    mask = kernel.arguments[10] if len(kernel.arguments) > 10 else (True, True)
    asked = mask[:2] if isinstance(mask, tuple) else (True, True)
    return each * sum(bool(one) for one in asked)
