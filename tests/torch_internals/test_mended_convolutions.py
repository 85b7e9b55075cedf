"""Convolutions in bfloat16 of shapes for which PyTorch returns memory that nobody has written, in results or gradients: ours are right."""

from __future__ import annotations

import itertools
import random
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from support.ranks import run_ranks
from ziggurat.parallel.collectives.workers import Workers
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
    """Return the gradients of the layer's parameters and of the images, and its result, where memory holds what was used before."""
    layer.zero_grad()
    images = images.clone().requires_grad_()
    size = next(layer.parameters()).numel()
    used = [torch.full((n + 1,), 7e5) for n in (size, size // 2, 2 * size, size, images.numel()) * 4]
    del used
    with right_convolution_gradients() if is_mended else nullcontext():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = layer(images)
        outputs.float().square().sum().backward()
    assert outputs.dtype == dtype
    found = [one.grad.clone() for one in (*layer.parameters(), images) if one.grad is not None]
    return [*found, outputs.detach().float()]


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


def draw_geometry(rng: random.Random) -> tuple[nn.Module, Tensor] | None:
    """Return a convolution, or a transposed one, of any kind, with images; None where they do not go together."""
    dims, transposed, groups = rng.choice([1, 2, 2, 3]), rng.random() < 0.3, rng.choice([1, 1, 2])
    inputs, outputs = (groups * rng.choice([1, 2, 4, 16, 17, 32]) for _ in range(2))
    kernel, stride, dilation = (
        tuple(rng.choice(some) for _ in range(dims)) for some in ([1, 2, 3, 3, 5], [1, 2, 2, 3], [1, 1, 2])
    )
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple(rng.choice([0, one // 2]) for one in reach)
    size = [rng.choice([1, 2, 3, 4, 5, 7, 9, 16]) for _ in range(dims)]
    if transposed:
        extents = [
            (n - 1) * s - 2 * p + r + 1 for n, s, p, r in zip(size, stride, padding, reach, strict=True)
        ]
    else:
        extents = [n + 2 * p - r for n, p, r in zip(size, padding, reach, strict=True)]
    if min(extents) < 1:
        return None
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
    layer = kind(inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    images = torch.randn(2, inputs, *size)
    if dims > 1 and rng.random() < 0.5:
        order = torch.channels_last if dims == 2 else torch.channels_last_3d
        return layer.to(memory_format=order), images.contiguous(memory_format=order)
    return layer, images


def wrong_ones(workers: Workers, seeds: range) -> list[str]:
    """Return the geometries of which results or gradients are wrong; PyTorch has ended the process with some."""
    wrong = []
    for seed in seeds:
        torch.manual_seed(seed)
        drawn = draw_geometry(random.Random(seed))
        if drawn is not None:
            expected = gradients(*drawn, False, torch.float32)
            found = [gradients(*drawn, True, torch.bfloat16) for _ in range(2)]
            if not is_right(found[0], expected) or not all(map(torch.equal, *found)):
                wrong.append(f"seed {seed}: {drawn[0]} of {tuple(drawn[1].shape)}")
    return wrong


def test_results_and_gradients_are_right_for_any_geometry() -> None:
    assert run_ranks(wrong_ones, 1, (range(400),)) == [[]]


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
