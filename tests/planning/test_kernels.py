"""A call of an operator and its kernel: one form for each call, from which it can be made again."""

import pytest
import torch

from support.kernels import Recorded
from ziggurat.planning.kernels import call_of, form_of, forms_in, kernel_of
from ziggurat.planning.program import Form, Kernel
from ziggurat.torch_internals.operators import computes_nothing, operator_of

aten = torch.ops.aten


def some_tensor(form, parameter):
    return torch.zeros(form.shape, dtype=getattr(torch, form.dtype))


def test_a_call_has_one_kernel_however_it_is_written():
    x = torch.zeros(2, 3)
    plain = kernel_of(aten.add.Tensor, (x, x), {})
    assert kernel_of(aten.add.Tensor, (x, x), {"alpha": 1}) == plain
    assert kernel_of(aten.add.Tensor, (x, x), {"alpha": 2}) != plain


def test_whole_numbers_and_others_are_different_kernels():
    x = torch.zeros(2, dtype=torch.int64)
    assert kernel_of(aten.add.Tensor, (x, 1), {}) != kernel_of(aten.add.Tensor, (x, 1.0), {})


def test_a_step_can_be_called_again_from_its_kernels():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    with Recorded() as recorded:
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator()).to(torch.bfloat16).float()
        x = torch.nn.functional.interpolate(net(x), scale_factor=2.0, mode="bilinear")
        torch.full_like(x, 0.5, memory_format=torch.channels_last)
        x[:, :1].mean().backward()
        optimizer.step()
    names = {kernel.name for kernel in recorded.kernels}
    assert {
        "aten.convolution_backward.default",
        "aten._fused_adamw_.default",
        "aten.randn.generator",
    } <= names
    for kernel in recorded.kernels:
        if kernel.name.startswith("profiler"):
            assert computes_nothing(operator_of(kernel.name))
            continue
        operator, args, named = call_of(kernel, some_tensor)
        operator(*args, **named)  # takes them
        again = kernel_of(operator, args, named)
        assert again.name == kernel.name
        assert [f.shape for f in forms_in(again.arguments)] == [f.shape for f in forms_in(kernel.arguments)]
        assert [x for x in again.arguments if not isinstance(x, (Form, tuple))] == [
            x for x in kernel.arguments if not isinstance(x, (Form, tuple))
        ]


def test_forms_are_told_apart_by_strides_and_types():
    x = torch.zeros(1, 2, 4, 4)
    forms = {form_of(x), form_of(x.to(memory_format=torch.channels_last)), form_of(x.double())}
    assert len(forms) == 3


def test_operators_are_found_by_name_or_refused():
    assert operator_of("aten.add.Tensor") is aten.add.Tensor
    for name in ("aten.no_such_thing.default", "aten.add"):
        with pytest.raises(ValueError, match="operator"):
            operator_of(name)
    with pytest.raises(ValueError, match="operator"):
        call_of(Kernel("no.such.one", ()), some_tensor)


def test_views_compute_nothing():
    assert computes_nothing(aten.view.default)
    assert computes_nothing(aten.detach.default)
    assert not computes_nothing(aten.add.Tensor)
    assert not computes_nothing(aten.clone.default)
