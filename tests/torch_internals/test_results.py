"""What operators would return is what they return."""

from __future__ import annotations

import pytest
import torch

from ziggurat.torch_internals.results import (
    Blank,
    Forms,
    blank_of,
    changed_results,
    changes_form,
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
