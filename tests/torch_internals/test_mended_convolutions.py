"""Gradients of convolutions of the smallest maps in bfloat16: PyTorch's are memory that nobody has written, ours are right."""

from __future__ import annotations

import itertools
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ziggurat.torch_internals.convolutions import mended, right_convolution_gradients
from ziggurat.torch_internals.machine import cpu_has_bf16_units

Case = tuple[int, int, int, int, int, int]  # dims, rows, kernel, stride, dilation, groups
CASES: list[Case] = [
    *((2, *rest) for rest in itertools.product((1, 2, 3, 9), (1, 3, 5, 7), (1, 2, 3), (1, 2), (1, 16))),
    *((1, rows, kernel, 2, 1, 1) for rows in (1, 2, 9) for kernel in (3, 7)),
    *((3, rows, 3, stride, 1, 1) for rows in (1, 2, 5) for stride in (1, 2)),
]


def layer_of(case: Case) -> tuple[nn.Module, Tensor]:
    dims, rows, kernel, stride, dilation, groups = case
    torch.manual_seed(0)
    layer = getattr(nn, f"Conv{dims}d")(
        16, 16, kernel, stride=stride, padding=dilation * (kernel // 2), dilation=dilation, groups=groups
    )
    return layer, torch.randn(2, 16, *[rows] * dims)


def gradients(layer: nn.Module, images: Tensor, is_mended: bool, dtype: torch.dtype) -> list[Tensor]:
    """Return the gradients of the layer's parameters and of the images, where memory holds what was used before."""
    layer.zero_grad()
    images = images.clone().requires_grad_()
    size = next(layer.parameters()).numel()
    used = [torch.full((n,), 7e5) for n in (size, size // 2, 2 * size, size) * 4]
    del used
    with right_convolution_gradients() if is_mended else nullcontext():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = layer(images)
        outputs.float().square().sum().backward()
    assert outputs.dtype == dtype
    return [one.grad.clone() for one in (*layer.parameters(), images) if one.grad is not None]


def is_right(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(
        bool((a - b).abs().max() <= 0.05 * b.abs().max() + 1e-3) for a, b in zip(found, expected, strict=True)
    )


def test_gradients_are_right_whatever_was_in_memory() -> None:
    for case in CASES:
        layer, images = layer_of(case)
        expected = gradients(layer, images, False, torch.float32)
        found = [gradients(layer, images, True, torch.bfloat16) for _ in range(2)]
        assert is_right(found[0], expected), case
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), case


def test_what_is_right_keeps_its_bits() -> None:
    for case in [case for case in CASES if case[1] == 9 and case[2] == 3 and case[4] == 1]:
        layer, images = layer_of(case)
        mended_ones, plain = (gradients(layer, images, which, torch.bfloat16) for which in (True, False))
        assert all(torch.equal(a, b) for a, b in zip(mended_ones, plain, strict=True)), case


@pytest.mark.skipif(not cpu_has_bf16_units(), reason="this processor computes bfloat16 in another way")
def test_pytorch_is_wrong_by_itself() -> None:
    """Once it is right: the mend, its page and this file can go."""
    wrong = []
    for case in CASES:
        layer, images = layer_of(case)
        expected = gradients(layer, images, False, torch.float32)
        wrong += [
            case for _ in range(3) if not is_right(gradients(layer, images, False, torch.bfloat16), expected)
        ]
    assert wrong, "PyTorch is right by itself: ziggurat.torch_internals.convolutions can go"


def test_passes_with_and_without_gradients_return_the_same() -> None:
    for case in CASES:
        layer, images = layer_of(case)
        with right_convolution_gradients(), torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                without = layer(images)
            assert torch.equal(layer(images), without), case


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv3d"])
def test_all_ways_of_calling(name: str) -> None:
    dims = int(name[4])
    images, weight = torch.randn(16, *[1] * dims), torch.randn(16, 16, *[3] * dims, requires_grad=True)
    original = getattr(torch, name)
    with right_convolution_gradients(), torch.autocast("cpu", torch.bfloat16):
        ways = [
            getattr(functional, name)(images, weight, stride=2, padding=1),
            getattr(torch, name)(
                images[None], weight=weight, bias=None, stride=(2,) * dims, padding=(1,) * dims
            )[0],
            mended(original)(images, weight, None, [2], [1], [1], 1),
            getattr(functional, name)(images, weight, padding="same"),
        ]
    assert getattr(torch, name) is original
    assert getattr(functional, name) is original
    middle = weight[(slice(None), slice(None), *[1] * dims)]
    for out in ways:
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(
            out.flatten().float(),
            (middle @ images.flatten()).detach(),
            rtol=0.02,
            atol=0.02,
            check_stride=False,
        )
        (gradient,) = torch.autograd.grad(out.float().sum(), weight)
        assert gradient.count_nonzero() == 256
