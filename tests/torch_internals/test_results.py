"""What operators would return is what they return."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ziggurat.torch_internals.functions import DispatchMode, unseen
from ziggurat.torch_internals.operators import computes_nothing
from ziggurat.torch_internals.results import (
    Blank,
    Forms,
    blank_of,
    changed_results,
    changes_form,
    decomposed,
    draws,
    is_made_of_others,
)
from ziggurat.torch_internals.untouched_memory import untouched

aten = torch.ops.aten
MAP = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
WEIGHT, VECTOR = torch.randn(8, 8, 3, 3), torch.randn(8)
WINDOW = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)


@pytest.mark.parametrize(
    ("operator", "args"),
    [
        (aten.convolution.default, (MAP, WEIGHT, VECTOR, *WINDOW)),
        (aten.convolution_backward.default, (MAP, MAP, WEIGHT, [8], *WINDOW, [True] * 3)),
        (aten.native_group_norm.default, (MAP, VECTOR, VECTOR, 2, 8, 36, 4, 1e-5)),
        (aten.native_batch_norm.default, (MAP, VECTOR, VECTOR, None, None, True, 0.1, 1e-5)),
        (aten.log_sigmoid_forward.default, (MAP,)),
        (aten.max_pool2d_with_indices.default, (MAP, [2, 2])),
        (aten.upsample_bilinear2d.default, (MAP, [12, 12], False)),
        (aten.mul.Tensor, (MAP, 2.0)),
        (aten.sum.dim_IntList, (MAP, [2, 3])),
    ],
    ids=lambda value: str(value) if isinstance(value, torch._ops.OpOverload) else "",
)
def test_forms_are_those_of_real_results(operator, args):
    found, real = Forms().of_call(operator, args, {}), operator(*args)
    if not isinstance(real, tuple):
        found, real = (found,), (real,)
    for one, other in zip(found, real, strict=True):
        if isinstance(other, torch.Tensor) and other.numel():
            assert one == blank_of(other)


class Compared(DispatchMode):
    """Holds the form of each result of an operator, in truth, against what is told of it."""

    def __init__(self):
        super().__init__()
        self.forms, self.compared, self.wrong = Forms(), 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if is_made_of_others(func):
            with self:
                return decomposed(func)(*args, **(kwargs or {}))
        with unseen():
            result = func(*args, **(kwargs or {}))
            if computes_nothing(func) or changed_results(func) is not None:
                return result
            told = self.forms.of_call(func, args, kwargs or {})
            for one, other in zip(_several(told), _several(result), strict=True):
                if isinstance(other, torch.Tensor) and other.numel():
                    self.compared += 1
                    if not _is_same(one, blank_of(other)):
                        self.wrong[str(func)] = one, blank_of(other)
        return result


def _several(results):
    return results if isinstance(results, (tuple, list)) else (results,)


def _is_same(one, other):
    strides = [(a, b) for size, a, b in zip(one.shape, one.strides, other.strides, strict=True) if size > 1]
    return (one.shape, one.dtype) == (other.shape, other.dtype) and all(a == b for a, b in strides)


def _padded(mode, amount=2):
    return lambda x: functional.pad(x, [amount] * 2 * (x.dim() - 2), mode=mode)


def _enlarged(mode):
    return lambda x: functional.interpolate(x, scale_factor=2, mode=mode)


def _lost(name):
    return lambda x: getattr(functional, name)(x, torch.zeros_like(x), reduction="none")


FUNCTIONS = {
    **{mode: _padded(mode) for mode in ("replicate", "reflect", "circular", "constant")},
    **{mode: _enlarged(mode) for mode in ("nearest", "nearest-exact")},
    **{name: _lost(name) for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")},
    **{
        name: getattr(functional, name)
        for name in ("relu", "silu", "gelu", "hardswish", "mish", "elu", "leaky_relu", "logsigmoid", "softplus", "instance_norm")
    },
    "rrelu": lambda x: functional.rrelu(x, training=True),
    "glu": lambda x: functional.glu(x, 1),
    "roll": lambda x: x.roll(1, 2),
    "flip": lambda x: x.flip(2),
    "softmax": lambda x: x.softmax(1),
    "group_norm": lambda x: functional.group_norm(x, 2),
    "batch_norm": lambda x: functional.batch_norm(x, None, None, training=True),
    "cat": lambda x: torch.cat([x, x], 1),
    "amax": lambda x: x.amax(1, keepdim=True),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "bf16": lambda x: x.bfloat16() * 2,
}  # fmt: skip
OF_MAPS = {
    "bilinear": _enlarged("bilinear"),
    "bicubic": _enlarged("bicubic"),
    "unpool": lambda x: functional.max_unpool2d(*functional.max_pool2d(x, 2, return_indices=True), 2),
    "max_pool": lambda x: functional.max_pool2d(x, 3, 2, 1),
    "avg_pool": lambda x: functional.avg_pool2d(x, 2),
    "adaptive": lambda x: functional.adaptive_avg_pool2d(x, 3),
    "shuffle": lambda x: functional.pixel_shuffle(x, 2),
    "unshuffle": lambda x: functional.pixel_unshuffle(x, 2),
    "channels": lambda x: functional.channel_shuffle(x, 2),
    "grid": lambda x: functional.grid_sample(x, torch.zeros(2, 5, 5, 2), align_corners=False),
    "conv": lambda x: functional.conv2d(x, WEIGHT, padding=1),
    "transposed": lambda x: functional.conv_transpose2d(x, WEIGHT, stride=2),
}
VOLUME = torch.randn(2, 8, 6, 6, 6).to(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("last", [True, False], ids=["channels last", "rows"])
@pytest.mark.parametrize(
    ("function", "x"),
    [
        *[pytest.param(one, MAP, id=f"{name}-map") for name, one in (FUNCTIONS | OF_MAPS).items()],
        *[pytest.param(one, VOLUME, id=f"{name}-volume") for name, one in FUNCTIONS.items()],
    ],
)
def test_forms_of_what_networks_compute_are_those_of_real_results_forward_and_backward(function, x, last):
    """Kernels differ in speed up to tenfold by the order of their tensors, so a forecast needs the right one."""
    x = (x if last else x.contiguous()).detach().requires_grad_()
    with Compared() as compared:
        made = function(x)
        torch.autograd.grad(made, x, torch.ones_like(made))
    assert compared.compared
    assert not compared.wrong


def test_what_depends_on_numbers_is_not_answered():
    with pytest.raises(RuntimeError):
        Forms().of_call(aten.nonzero.default, (MAP,), {})


def test_kinds_of_operators():
    assert changed_results(aten.add_.Tensor) == ("self",)
    assert changed_results(aten.topk.values) == ("values", "indices")
    assert changed_results(aten._foreach_add_.List) == ()
    assert changed_results(aten.add.Tensor) is None
    assert is_made_of_others(aten.conv2d.default)
    assert not is_made_of_others(aten.convolution.default)
    assert changes_form(aten.squeeze_.default)
    assert not changes_form(aten.add_.Tensor)
    assert draws(aten.bernoulli_.float)
    assert not draws(aten.add_.Tensor)


def test_untouched_memory_is_as_large_as_a_new_tensors_and_reads_as_zeros():
    tensor = untouched((3, 2), (1, 4), torch.int16)
    assert blank_of(tensor) == Blank((3, 2), (1, 4), torch.int16)
    likewise = torch.empty_strided((3, 2), (1, 4), dtype=torch.int16)
    assert tensor.untyped_storage().nbytes() == likewise.untyped_storage().nbytes()
    assert not tensor.any()
    assert untouched((0, 2), (2, 1), torch.float32).shape == (0, 2)
