"""What the optimizers do to an element does not depend on where in a tensor it lies; and is what PyTorch's do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ziggurat.training.optimizers import SGD, AdamW

MAKERS = {
    "adamw": lambda p: AdamW([{"params": p, "weight_decay": 0.05}], lr=0.0013, betas=(0.9, 0.999)),
    "sgd": lambda p: SGD([{"params": p, "weight_decay": 0.05}], lr=0.0137, momentum=0.9),
    "sgd without momentum": lambda p: SGD([{"params": p, "weight_decay": 0.05}], lr=0.0137, momentum=0.0),
}
PYTORCH = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.0013, betas=(0.9, 0.999), weight_decay=0.05),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.0137, momentum=0.9, weight_decay=0.05),
    "sgd without momentum": lambda p: torch.optim.SGD(p, lr=0.0137, weight_decay=0.05),
}


def drawn(shape, dtype, count=4):
    generator = torch.Generator().manual_seed(sum(shape))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def trained(make, weights, gradients):
    """Return what becomes of some weights, and of what the optimizer keeps of them, after a step for each list of gradients."""
    parameters = [nn.Parameter(weight) for weight in weights]
    optimizer = make(parameters)
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone(memory_format=torch.preserve_format)
        optimizer.step()
    slots = [optimizer.state[parameter] for parameter in parameters]
    return parameters, slots


def after(make, weight, gradients):
    (parameter,), (slots,) = trained(make, [weight.clone()], [[gradient] for gradient in gradients])
    return {
        "weight": parameter.detach(),
        **{name: value for name, value in slots.items() if value is not None},
    }


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", MAKERS)
def test_bits_do_not_depend_on_where_an_element_lies(kind, dtype):
    for length in range(1, 201):
        weight, *gradients = drawn((length,), dtype)
        whole = after(MAKERS[kind], weight, gradients)
        for count in (2, 3):
            pieces = [
                after(MAKERS[kind], weight.chunk(count)[n], [g.chunk(count)[n] for g in gradients])
                for n in range(len(weight.chunk(count)))
            ]
            for name, value in whole.items():
                if name != "step":
                    assert torch.equal(torch.cat([piece[name] for piece in pieces]), value), (length, name)


def test_pytorchs_own_does_depend_on_it():
    """Else this file would prove nothing, and the code could go."""
    for kind, make in {
        "adamw": lambda p: torch.optim.AdamW(p, fused=True),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.0137, momentum=0.9, weight_decay=0.05, fused=True),
    }.items():
        differ = 0
        for length in range(1, 201):
            weight, *gradients = drawn((length,), torch.float32)
            whole = after(make, weight, gradients)["weight"]
            halves = [
                after(make, weight.chunk(2)[n], [g.chunk(2)[n] for g in gradients])
                for n in range(min(2, length))
            ]
            differ += not torch.equal(torch.cat([half["weight"] for half in halves]), whole)
        assert differ, kind


@pytest.mark.parametrize("kind", MAKERS)
def test_it_is_pytorchs_update(kind):
    shapes = [(5,), (64, 3, 3, 3), (), (16,), (0, 4), (7, 9)]
    weights, *gradients = zip(*(drawn(shape, torch.float64) for shape in shapes), strict=True)
    ours, slots = trained(MAKERS[kind], [w.clone() for w in weights], gradients)
    theirs, expected = trained(PYTORCH[kind], [w.clone() for w in weights], gradients)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    for one, other in zip(slots, expected, strict=True):
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=1e-12, atol=1e-14, check_dtype=False)


@pytest.mark.parametrize("kind", MAKERS)
def test_memory_formats(kind):
    weight, *gradients = drawn((6, 5, 3, 3), torch.float32)
    expected = after(MAKERS[kind], weight, gradients)
    last = torch.channels_last
    forms = {
        "channels last": (
            weight.contiguous(memory_format=last),
            [g.contiguous(memory_format=last) for g in gradients],
        ),
        "other gradients": (weight, [g.contiguous(memory_format=last) for g in gradients]),
        "transposed": (weight.transpose(0, 1).contiguous().transpose(0, 1), gradients),
    }
    for name, (start, given) in forms.items():
        found = after(MAKERS[kind], start, given)
        for slot, value in expected.items():
            assert torch.equal(found[slot], value), (name, slot)
    room = torch.zeros(6, 5, 3, 3, 2)
    with_gaps = room[..., 0].copy_(weight)
    (parameter,), _ = trained(MAKERS[kind], [with_gaps], [[gradient] for gradient in gradients])
    assert torch.equal(parameter, expected["weight"])
    assert not room[..., 1].any()


def test_parameters_without_a_gradient_stay_and_are_not_counted():
    weights = [torch.ones(3), torch.ones(20)]
    parameters = [nn.Parameter(weight) for weight in weights]
    optimizer = MAKERS["adamw"](parameters)
    parameters[1].grad = torch.ones(20)
    optimizer.step()
    optimizer.step()
    assert parameters[0].tolist() == [1.0] * 3
    assert parameters[0] not in optimizer.state
    assert optimizer.state[parameters[1]]["step"] == 2.0
