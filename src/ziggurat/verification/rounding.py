"""What rounding alone does to a network: the step on one worker again, rounded in other ways.

A bound that is broken has one of two causes. Either the plan computes something else, or the network amplifies rounding:
batch norms over a few values do, and each in a row does it again. Here no plan takes part, so what differs is rounding:

- last bits of the input, of what each layer returns, and of what is added up (`x.mean`, `x.std`, norms): of equal values
  even these last bits may be all that there is of the result;
- the moments of batch norms, which PyTorch adds up value by value on the CPU: of 74 000 values that costs some hundred times
  the last bit. Added up pairwise they are nearer to the truth, and so are those of bands, which are shorter sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.torch_internals.containers import tree_leaves
from ziggurat.torch_internals.functions import FunctionMode
from ziggurat.torch_internals.norm_calls import add_statistics
from ziggurat.torch_internals.tensors import memory_key
from ziggurat.verification.compare import compare_steps
from ziggurat.verification.errors import Errors, join_errors
from ziggurat.verification.step import Outcome, Trial, watch_step

WAYS = 3  # of rounding; a single one moves some tensors little by chance


def with_other_last_bits(values: Tensor, generator: torch.Generator) -> Tensor:
    """Return values of which each is about one rounding larger or smaller.

    Example:
        >>> values = torch.ones(4, dtype=torch.float64)
        >>> float((with_other_last_bits(values, torch.Generator()) - values).abs().max()) < 3e-16
        True
    """
    signs = torch.randint(0, 2, values.shape, generator=generator).to(values)
    return values * (1 + (2 * signs - 1) * torch.finfo(values.dtype).eps)


@contextmanager
def other_roundings(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Change the last bits of what each layer without children returns."""

    def change(layer: nn.Module, given: Any, output: Any) -> Any:
        if isinstance(output, Tensor) and output.is_floating_point():
            return with_other_last_bits(output, generator)
        return output

    leaves = [layer for layer in model.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(change) for layer in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


SUMS = frozenset(
    {
        "sum",
        "mean",
        "var",
        "std",
        "var_mean",
        "std_mean",
        "norm",
        "vector_norm",
        "nansum",
        "nanmean",
        "logsumexp",
        "batch_norm",
        "instance_norm",
        "group_norm",
        "layer_norm",
        "rms_norm",
    }
)
"""Functions by name; of a map of one value a norm leaves nothing but the last bits of its mean."""


class _OtherLastBits(FunctionMode):
    """While it is active, some numbers have other last bits.

    Args:
        generator: Says which.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator


class OtherSums(_OtherLastBits):
    """While it is active, what functions add up, norms among them, has other last bits."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = args[0] if args else None
        if getattr(func, "__name__", "") in SUMS and isinstance(given, Tensor) and given.is_floating_point():
            total = func(with_other_last_bits(given, self.generator), *args[1:], **(kwargs or {}))
            # of many values each moves too little for their mean, which may be compared with one of them
            return with_other_last_bits(total, self.generator) if isinstance(total, Tensor) else total
        return func(*args, **(kwargs or {}))


class OtherRoundings(_OtherLastBits):
    """While it is active, every function's new result has other last bits; what is a view, or was changed in place, stays."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        memory = memory_key(result)
        if any(isinstance(one, Tensor) and memory_key(one) == memory for one in tree_leaves((args, named))):
            return result
        return with_other_last_bits(result, self.generator)


@contextmanager
def other_functions(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Change the last bits of what each function within a network returns."""
    mode = OtherRoundings(generator)
    hooks = (
        model.register_forward_pre_hook(lambda network, given: mode.__enter__() and None),
        model.register_forward_hook(lambda network, given, output: mode.__exit__(None, None, None), always_call=True),
    )  # fmt: skip
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class PairwiseMoments(FunctionMode):
    """While it is active, batch norms in training add up their moments pairwise.

    References:
        Higham, The accuracy of floating point summation, 1993.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if func is functional.batch_norm:
            return _batch_norm(*args, **named)
        return func(*args, **named)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    values = input.transpose(0, 1).flatten(1)  # in one row, so that the sums are pairwise
    mean = values.mean(1, keepdim=True)
    centred = values - mean
    rest = centred.mean(1, keepdim=True)
    centred, mean = centred - rest, mean + rest
    variance = centred.square().mean(1, keepdim=True)
    if running_mean is not None and running_var is not None:
        unbiased = variance * (values.shape[1] / (values.shape[1] - 1))
        add_statistics(
            running_mean, running_var, momentum, mean.detach().flatten(), unbiased.detach().flatten()
        )
    normal = centred * (variance + eps).rsqrt()
    if weight is not None:
        normal = normal * weight[:, None]
    if bias is not None:
        normal = normal + bias[:, None]
    out: Tensor = normal.unflatten(1, (input.shape[0], *input.shape[2:])).transpose(0, 1)
    return out.to(input.dtype)


def measure_rounding(
    build: Callable[[], nn.Module], trial: Trial, reference: Outcome, device: torch.device | None = None
) -> Errors:
    """Return how far each tensor moves at most when the step on one worker is rounded in some other ways.

    Args:
        build: Returns the network with the weights that the reference's had before its step; it is changed.
        trial: The reference's.
        reference: The step on one worker.
        device: Where the reference was computed; by default the CPU.
    """
    mesh = make_mesh(Workers(device=device))
    found = []
    for way in range(WAYS):
        generator = torch.Generator().manual_seed(trial.seed + way)
        other, model = replace(trial, images=with_other_last_bits(trial.images, generator)), build()
        with other_roundings(model, generator), OtherSums(generator), PairwiseMoments():
            found.append(watch_step(model, other, mesh, lambda step: compare_steps(step, reference))[0])
    return join_errors(found)
