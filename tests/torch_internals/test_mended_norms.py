"""Gradients of PyTorch's operations where memory is in any order and dims have one row: which are wrong, and that they are mended.

The reference is the operation on standard memory with a gradient in standard memory; of batch norm, its arithmetic.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.torch_internals.norms import order_of, right_norm_gradients

Operation = Callable[[Tensor], Tensor]
SHAPES = [shape for shape in itertools.product((1, 2), (4,), (1, 5), (1, 3)) if shape != (1, 4, 1, 1)]
ORDERS = list(itertools.permutations(range(4)))
ORDERS_3D = [
    (0, 1, 2, 3, 4),
    (0, 2, 3, 4, 1),
    (2, 3, 4, 0, 1),
    (2, 3, 4, 1, 0),
    (2, 0, 3, 4, 1),
    (1, 0, 2, 3, 4),
    (4, 3, 2, 1, 0),
]


def weight(*shape: int) -> Tensor:
    return torch.linspace(0.5, 1.5, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)


def laid_out(values: Tensor, order: tuple[int, ...]) -> Tensor:
    """Return values in memory whose slowest dim is the first of the order."""
    strides, step = [0] * values.dim(), 1
    for dim in reversed(order):
        strides[dim], step = step, step * values.shape[dim]
    return torch.empty_strided(values.shape, strides, dtype=values.dtype).copy_(values)


NORMS: dict[str, Operation] = {
    "batch norm": lambda x: functional.batch_norm(x, None, None, weight(x.shape[1]), None, True),
    "batch norm in evaluation": lambda x: torch.batch_norm(
        x, None, None, weight(x.shape[1]), weight(x.shape[1]), False, 0.1, 1e-5, False
    ),
    "instance norm": lambda x: functional.instance_norm(x, weight=weight(x.shape[1])),
}  # fmt: skip
# What else has a kernel of its own for channels last, or walks through memory by itself.
OTHERS: dict[str, Operation] = {
    "group norm": lambda x: functional.group_norm(x, 2, weight(x.shape[1])),
    "layer norm": lambda x: functional.layer_norm(x, x.shape[1:], weight(*x.shape[1:])),
    "convolution": lambda x: functional.conv2d(x, weight(6, x.shape[1], 3, 3), padding=1),
    "convolution of one position": lambda x: functional.conv2d(x, weight(6, x.shape[1], 1, 1)),
    "depthwise convolution": lambda x: functional.conv2d(x, weight(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1]),
    "transposed convolution": lambda x: functional.conv_transpose2d(x, weight(x.shape[1], 6, 2, 2), stride=2),
    "max pooling": lambda x: functional.max_pool2d(x, 3, 2, 1),
    "average pooling": lambda x: functional.avg_pool2d(x, 3, 2, 1),
    "adaptive average pooling": lambda x: functional.adaptive_avg_pool2d(x, (2, 3)),
    "adaptive max pooling": lambda x: functional.adaptive_max_pool2d(x, (2, 3)),
    "nearest": lambda x: functional.interpolate(x, scale_factor=2.0, mode="nearest"),
    "bilinear": lambda x: functional.interpolate(x, size=(7, 2), mode="bilinear"),
    "bicubic": lambda x: functional.interpolate(x, size=(7, 9), mode="bicubic"),
    "bilinear, antialiased": lambda x: functional.interpolate(x, size=(2, 2), mode="bilinear", antialias=True),
    "area": lambda x: functional.interpolate(x, size=(2, 2), mode="area"),
    "replicated padding": lambda x: functional.pad(x, (1, 2, 1, 0), mode="replicate"),
    "pixel shuffle": lambda x: functional.pixel_shuffle(x, 2),
    "channel shuffle": lambda x: functional.channel_shuffle(x, 2),
    "grid sample": lambda x: functional.grid_sample(x, weight(x.shape[0], 4, 5, 2) - 1, align_corners=False),
    "softmax": lambda x: x.softmax(1),
    "prelu": lambda x: functional.prelu(x, weight(x.shape[1])),
    "attention": lambda x: functional.scaled_dot_product_attention(x, x * 2, x + 1),
}  # fmt: skip


def cases(operation: Operation, shapes=SHAPES, orders=ORDERS) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield inputs and gradients in every order, with the gradient of the input that is right."""
    for shape in shapes:
        generator = torch.Generator().manual_seed(1)
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        try:
            out = operation(values.requires_grad_())
        except ValueError:  # a norm of one value
            continue
        gradients = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        (right,) = torch.autograd.grad(out, values, gradients)
        of_gradient = orders if out.dim() == len(shape) else [tuple(range(out.dim()))]
        for of_input, of_output in itertools.product(orders, of_gradient):
            yield laid_out(values.detach(), of_input).requires_grad_(), laid_out(gradients, of_output), right


def is_right(
    operation: Operation, x: Tensor, gradient: Tensor, right: Tensor, mended: bool
) -> tuple[bool, Tensor]:
    with right_norm_gradients() if mended else nullcontext():
        (found,) = torch.autograd.grad(operation(x), x, gradient)
    return bool(torch.allclose(found, right, rtol=1e-9, atol=1e-11)), found


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dims", [4, 5])
def test_norms_are_mended_exactly_where_pytorch_is_wrong(name: str, dims: int) -> None:
    operation, num_wrong = NORMS[name], 0
    shapes = [(*shape[:2], 2, *shape[2:]) for shape in SHAPES] + [(1, 4, 1, 3, 1)]
    for x, gradient, right in cases(operation) if dims == 4 else cases(operation, shapes, ORDERS_3D):
        was_right, before = is_right(operation, x, gradient, right, mended=False)
        now_right, after = is_right(operation, x, gradient, right, mended=True)
        assert now_right, (x.shape, x.stride(), gradient.stride())
        assert torch.equal(before, after) == was_right, "no bit changes where nothing is wrong"
        num_wrong += not was_right
    assert num_wrong, "PyTorch is right by itself: ziggurat.torch_internals.norms can go"


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", OTHERS)
def test_no_other_operation_has_the_fault(name: str) -> None:
    operation = OTHERS[name]
    shapes = [(1, 4, 5, 3), (1, 4, 1, 3), (2, 4, 5, 1), (1, 4, 5, 1)]
    for x, gradient, right in cases(operation, shapes):
        fine, _ = is_right(operation, x, gradient, right, mended=False)
        assert fine, (x.shape, x.stride(), gradient.stride())


def test_the_reference_of_a_batch_norm_is_its_arithmetic() -> None:
    def slow(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        return (x - mean) * (variance + 1e-5).rsqrt() * weight(x.shape[1])[:, None, None]

    for shape in SHAPES:
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        gradient = torch.randn(shape, dtype=torch.float64)
        (right,) = torch.autograd.grad(slow(x), x, gradient)
        assert torch.allclose(
            torch.autograd.grad(NORMS["batch norm"](x), x, gradient)[0], right, rtol=1e-9, atol=1e-11
        )


def test_the_order_of_memory_is_told_as_the_kernels_see_it() -> None:
    x = torch.randn(1, 4, 5, 3)
    last = x.contiguous(memory_format=torch.channels_last)
    assert order_of(x) == "first"
    assert order_of(last) == "last"
    assert order_of(x.transpose(2, 3)) == "none"
    assert order_of(torch.empty_strided(x.shape, (1, 1, 12, 4))) == "odd"
    assert order_of(x.to("meta")) == "none"
    assert order_of(x[0]) == "none"


def test_the_condition_as_a_network_meets_it() -> None:
    """Tokens of one image: what the transposition leaves is contiguous with channels last, and suggests that they come first."""
    x = torch.randn(1, 4, 5, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 15, 4, dtype=torch.float64)
    orders: list[str] = []
    out = functional.batch_norm(x, None, None, training=True)
    out.register_hook(lambda gradient: orders.append(order_of(gradient)))
    (out.flatten(2).transpose(1, 2) * weights).sum().backward()
    assert orders == ["odd"]


def test_pytorchs_functions_are_its_own_again() -> None:
    before = torch.batch_norm, torch.instance_norm, torch.native_batch_norm
    with right_norm_gradients(), right_norm_gradients():
        assert torch.batch_norm is not before[0]
    assert before == (torch.batch_norm, torch.instance_norm, torch.native_batch_norm)


def test_norms_in_place_and_out_of_reach_are_left_alone() -> None:
    x = torch.randn(1, 4, 5, 3, requires_grad=True)
    with right_norm_gradients():
        (functional.batch_norm(x, None, None, training=True).relu_() ** 2).sum().backward()
        with torch.no_grad():
            assert functional.batch_norm(x, None, None, training=True).grad_fn is None
            assert functional.instance_norm(x).grad_fn is None
    assert x.grad is not None


def test_the_script_that_is_to_be_sent_upstream_shows_the_fault(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "upstream" / "batch_norm_cpu.md"
    script = page.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    exec(compile(script, page.name, "exec"), {})
    assert float(capsys.readouterr().out) > 0.1
    with right_norm_gradients():
        exec(compile(script, page.name, "exec"), {})
    assert float(capsys.readouterr().out) < 1e-12
