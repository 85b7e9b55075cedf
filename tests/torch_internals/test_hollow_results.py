"""What is answered in PyTorch's place of tensors without memory is what PyTorch answers; what it raises on is an error here, too."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.torch_internals.hollow_results import QUICK, on_meta

SHAPES = [
    (2, 4),
    (1, 4),
    (2, 4, 5),
    (2, 4, 1),
    (3, 4, 6, 5),
    (1, 4, 1, 1),
    (2, 4, 3, 4, 5),
    (0, 4, 3, 3),
    (4,),
    (2, 5, 3, 3),
]
TYPES = (torch.float32, torch.float64, torch.bfloat16)


def state(size: int, dtype: torch.dtype, grad: bool = False) -> Tensor:
    return torch.empty(size, device="meta", dtype=dtype, requires_grad=grad)


def calls(dtype: torch.dtype, shape: tuple[int, ...]) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    found: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    for training, with_state, grad in itertools.product((True, False), repeat=3):
        running = [state(4, dtype), state(4, dtype)] if with_state else [None, None]
        found.append(
            (functional.batch_norm, (*running, state(4, dtype, grad), state(4, dtype, grad), training), {})
        )
    wide = state(4, torch.float32), state(4, torch.float32)
    found += [
        (functional.batch_norm, (None, None, *wide), {"training": True}),
        (functional.batch_norm, (None, None), {"training": True, "eps": -1.0}),
        (functional.group_norm, (2, *wide), {}),
        (functional.group_norm, (2,), {"weight": state(4, dtype, True)}),
        (functional.group_norm, (3,), {}),
        (functional.layer_norm, (shape[1:],), {}),
        (functional.layer_norm, (shape[-1:], state(shape[-1], dtype, True)), {}),
        (functional.layer_norm, ((7,),), {}),
    ]
    for plain in (functional.relu, torch.relu, Tensor.relu, torch.sigmoid, Tensor.sigmoid, functional.silu):
        found.append((plain, (), {}))
    found += [(functional.gelu, (), {"approximate": how}) for how in ("none", "tanh", "no such")]
    found += [(functional.relu, (), {"inplace": True}), (functional.silu, (), {"inplace": True})]
    found += [(torch.sigmoid, (), {"out": state(0, dtype)}), (functional.gelu, (), {"out": state(0, dtype)})]
    for width, grad, kind in itertools.product((shape[-1], 7), (False, True), (dtype, torch.float32)):
        weight = torch.empty(3, width, device="meta", dtype=kind, requires_grad=grad)
        found.append((functional.linear, (weight,), {}))
        found += [(functional.linear, (weight, state(size, dtype, grad)), {}) for size in (3, 4)]
    like = torch.empty(shape, device="meta", dtype=dtype)
    others = [
        *(like, like.clone().requires_grad_(), like.float(), like.int(), state(shape[-1], dtype), like[None]),
        *(torch.empty(shape[::-1], device="meta", dtype=dtype).permute(*range(len(shape))[::-1]), like[..., :1]),
        *(torch.tensor(2.0), torch.tensor(2.0, dtype=torch.float64), 2, 2.5, True, "no number", None),
    ]  # fmt: skip
    for other in others:
        found += [(sums, (other,), {}) for sums in (torch.add, Tensor.add, torch.mul, Tensor.mul)]
    found += [(torch.add, (like,), {"alpha": 2}), (torch.add, (), {"other": like, "out": state(0, dtype)})]
    found += [(torch.mul, (), {"other": like}), (torch.mul, (like,), {"out": state(0, dtype)})]
    for mode, size in itertools.product(
        ("nearest", "linear", "bilinear", "trilinear", "bicubic", "area", "none"), (None, 7, 0)
    ):
        scale = 1.7 if size is None else None
        found.append((functional.interpolate, (), {"size": size, "scale_factor": scale, "mode": mode}))
    found += [
        (functional.interpolate, (None, 2), {"mode": "bilinear", "align_corners": True}),
        (functional.interpolate, ((9, 3),), {"mode": "bilinear", "antialias": True}),
        (functional.interpolate, (None, (0.5, 1.5)), {"mode": "bicubic", "recompute_scale_factor": True}),
        (functional.interpolate, (None, None), {"mode": "bilinear"}),
    ]
    return found


def answer(call: Any, func: Any, given: Tensor, args: Any, named: Any) -> Any:
    try:
        out = call(func, (given, *args), named)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError, ZeroDivisionError):
        return "an error"
    return (
        tuple(out.shape), out.dtype, out.stride(), out.requires_grad, out.device, out.is_leaf and out.requires_grad
    )  # fmt: skip


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_answers_as_pytorch_does(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    with_gradient = torch.empty(shape, device="meta", dtype=dtype, requires_grad=True)
    permuted = torch.empty(shape[::-1], device="meta", dtype=dtype).permute(*range(len(shape))[::-1])
    for given in (torch.empty(shape, device="meta", dtype=dtype), with_gradient, permuted):
        for func, args, named in calls(dtype, shape):
            expected = answer(lambda f, a, n: f(*a, **n), func, given, args, named)
            assert answer(on_meta, func, given, args, named) == expected, (func.__name__, args, named)


def test_no_arithmetic_is_gone_through() -> None:
    """Each function has a case above that it answers by itself: it is not called."""
    answered = set()
    for func, args, named in calls(torch.float32, (3, 4, 6, 5)):
        quick = QUICK[func]
        try:
            if quick(torch.empty(3, 4, 6, 5, device="meta"), *args, **named) is not None:
                answered.add(func)
        except (RuntimeError, ValueError):
            continue
    assert answered == set(QUICK)
