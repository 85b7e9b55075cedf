"""From a call of an operator to its `Kernel`, and back: the one form in which recording, costs and predictions meet.

    tensor             Form             size, strides and type; never its numbers
    list, tuple        tuple
    int, bool, None    itself
    float              text, ``0.5``    so that 1 and 1.0, which give results of other types, are different kernels
    dtype, layout ...  text, ``torch.float32``
    device             text
    generator          None             whose numbers are drawn changes no time

Arguments stand in the order of the operator's schema, those by name too; what is left out at the end is left out. So one call has
one kernel, however it was written.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ziggurat.planning.program import Form, Kernel
from ziggurat.torch_internals.operators import Parameter, operator_of, parameters_of

_TEXTS: dict[Any, str] = {}  # of types, formats and operators: written once


def form_of(tensor: Tensor) -> Form:
    """Return what a tensor is like.

    Example:
        >>> form_of(torch.zeros(2, 3).t())
        Form(shape=(3, 2), strides=(1, 3), dtype='float32')
    """
    return Form(tuple(tensor.shape), tensor.stride(), _text(tensor.dtype)[6:])


def kernel_of(operator: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Kernel:
    """Return the kernel of a call of an operator, as a dispatch mode sees it.

    Example:
        >>> kernel_of(torch.ops.aten.add.Tensor, (torch.zeros(2), 1.0), {"alpha": 2})
        Kernel(name='aten.add.Tensor', arguments=(Form(shape=(2,), strides=(1,), dtype='float32'), '1.0', 2))
    """
    arguments = [_encoded(one) for one in args]
    if named:
        for parameter in parameters_of(operator)[len(args) :]:
            arguments.append(_encoded(named.get(parameter.name, parameter.default)))
    parameters = parameters_of(operator)
    while arguments and _is_default(arguments[-1], parameters[len(arguments) - 1]):
        arguments.pop()
    return Kernel(_text(operator), tuple(arguments))


def call_of(
    kernel: Kernel, tensor: Callable[[Form, Parameter], Tensor]
) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    """Return the operator of a kernel, and arguments for it.

    Args:
        kernel: Of whatever operator is loaded.
        tensor: Gives a tensor for each form; it is told for which of the operator's parameters.

    Raises:
        ValueError: If there is no such operator.
    """
    operator = operator_of(kernel.name)
    args: list[Any] = []
    named: dict[str, Any] = {}
    for parameter, encoded in zip(parameters_of(operator), kernel.arguments, strict=False):
        value = _decoded(encoded, parameter, tensor)
        if parameter.by_name:
            named[parameter.name] = value
        else:
            args.append(value)
    return operator, args, named


def forms_in(arguments: Sequence[Hashable]) -> list[Form]:
    """Return the forms of all tensors among the arguments of a kernel, also those in lists, in order."""
    found: list[Form] = []
    for one in arguments:
        if isinstance(one, Form):
            found.append(one)
        elif isinstance(one, tuple):
            found += forms_in(one)
    return found


@functools.cache
def dtype_of(name: str) -> torch.dtype:
    """Return the type of a name such as ``float32``."""
    found = getattr(torch, name)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r} is no type of numbers")
    return found


def _text(value: Any) -> str:
    found = _TEXTS.get(value)
    if found is None:
        found = _TEXTS[value] = str(value)
    return found


def _encoded(value: Any) -> Hashable:
    kind = type(value)
    if kind is int or kind is bool or value is None or kind is str:
        return value  # type: ignore[no-any-return]  # of the types just looked at
    if isinstance(value, Tensor):
        return form_of(value)
    if kind is float:
        return repr(value)
    if isinstance(value, (list, tuple)):
        return tuple([_encoded(one) for one in value])
    if isinstance(value, torch.Generator):
        return None
    if isinstance(value, (int, float, complex)):  # of a subclass
        return _encoded(int(value)) if isinstance(value, int) else repr(value)
    return _text(value)


def _is_default(encoded: Hashable, parameter: Parameter) -> bool:
    return parameter.by_name and type(encoded) is type(parameter.default) and encoded == parameter.default


def _decoded(encoded: Any, parameter: Parameter, tensor: Callable[[Form, Parameter], Tensor]) -> Any:
    if isinstance(encoded, Form):
        return tensor(encoded, parameter)
    if isinstance(encoded, tuple):
        return [_decoded(one, parameter, tensor) for one in encoded]
    if isinstance(encoded, str):
        if encoded.startswith("torch."):
            return getattr(torch, encoded[6:])
        if "Device" in parameter.kind:
            return torch.device(encoded)
        if any(word in parameter.kind for word in ("float", "number", "Scalar", "Tensor")):
            return float(encoded)
    return encoded
