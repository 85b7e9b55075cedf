"""Kernels are called with tensors of their forms, each once a pass, by as many processes as compute at once."""

import os

import pytest
import torch
from torch import nn

from support.kernels import Recorded
from ziggurat.planning import measuring
from ziggurat.planning.amounts import is_free
from ziggurat.planning.kernels import kernel_of
from ziggurat.planning.measuring import Conditions, Replay, Tensors, measure_kernels
from ziggurat.planning.program import Form, Kernel

aten = torch.ops.aten


class Ticks:
    """A clock that goes on by given steps, between begin and end of each call."""

    def __init__(self, seconds):
        self.seconds, self.now, self.asked = list(seconds), 0.0, 0

    def __call__(self):
        self.asked += 1
        if self.asked % 2 == 0:
            self.now += self.seconds.pop(0)
        return self.now


def kernels_of_a_step():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    with Recorded() as recorded:
        out = net(torch.randn(2, 3, 16, 16))
        out = nn.functional.interpolate(out, scale_factor=2.0).to(torch.bfloat16).float()
        (out.sigmoid().flatten(1) @ torch.randn(784, 5)).logsumexp(1).sum().backward()
        optimizer.step()
    return [kernel for kernel in recorded.kernels if not is_free(kernel)]


def tensor(*shape):
    return torch.zeros(shape)


def add(size):
    return kernel_of(aten.add.Tensor, (tensor(size), tensor(size)), {})


def test_every_kernel_of_a_step_can_be_measured_by_two_workers():
    kernels = kernels_of_a_step()
    found = measure_kernels(kernels, Conditions(workers=2, passes=2))
    assert set(found) == set(kernels)
    assert all(one.seconds > 0 and one.spread >= 0 for one in found.values())


def test_the_median_of_all_passes_but_the_first_counts():
    replay = Replay([add(3)], room=1 << 20, clock=Ticks([9.0, 1.0, 4.0, 2.0]))
    for _ in range(4):
        replay.take_pass()
    (one,) = replay.measured().values()
    assert one.seconds == 2.0
    assert one.spread == pytest.approx((1 + 0 + 2) / 3 / 2)


def test_what_a_call_of_nothing_takes_is_taken_off():
    clock = Ticks([9.0, 0.5, 3.0, 0.25, 4.0, 0.5, 5.0, 0.5])  # a kernel and nothing in turn
    replay = Replay([add(3)], room=1 << 20, clock=clock, every=1)
    for _ in range(4):
        replay.take_pass()
    (one,) = replay.measured().values()
    assert one.seconds == 4.0 - 0.5
    assert clock.seconds == []


def test_no_kernel_takes_less_than_nothing():
    replay = Replay([add(3)], room=1 << 20, clock=Ticks([9.0, 0.5, 0.25, 0.5]), every=1)
    for _ in range(2):
        replay.take_pass()
    (one,) = replay.measured().values()
    assert 0 < one.seconds < 1e-6


def test_a_short_kernel_is_called_as_often_as_the_program_has_it_and_a_long_one_once():
    short, long = add(3), add(4)
    clock = Ticks([1e-6, 1.0, 1e-6, 2.0, 3e-6])
    replay = Replay([short, long, short, long], room=1 << 20, clock=clock)
    replay.take_pass()
    replay.take_pass()
    assert clock.seconds == []
    assert [one.seconds for one in replay.measured().values()] == pytest.approx([2e-6, 2.0])


def test_what_cannot_be_called_or_is_too_large_is_left_out():
    impossible = Kernel("aten.add.Tensor", (Form((2,), (1,), "float32"), Form((3,), (1,), "float32")))
    replay = Replay([impossible, Kernel("no.such.operator", ()), add(1 << 20), add(5)], room=1 << 20)
    for _ in range(2):
        replay.take_pass()
    assert [*replay.measured()] == [3]


def test_a_kernel_reads_what_was_written_last_and_each_of_its_tensors_is_another():
    tensors = Tensors(1 << 20, torch.device("cpu"))
    form = Form((4,), (1,), "float32")
    lend = tensors.for_one_call()
    first, second = lend(form, None), lend(form, None)
    assert first.data_ptr() != second.data_ptr()
    made = torch.ones(4)
    tensors.keep(made)
    assert tensors.for_one_call()(form, None) is made


def test_a_tensor_with_gaps_is_a_part_of_what_was_written_last():
    tensors = Tensors(1 << 20, torch.device("cpu"))
    made = torch.ones(4, 6)
    tensors.keep(made)
    halves = Form((4, 3), (6, 1), "float32")
    lend = tensors.for_one_call()
    left, right = lend(halves, None), lend(halves, None)
    left.zero_()
    right.fill_(2)
    assert made.tolist() == [[0, 0, 0, 2, 2, 2]] * 4
    larger = lend(Form((9, 3), (6, 1), "float32"), None)
    assert larger.untyped_storage().data_ptr() != made.untyped_storage().data_ptr()


def test_tensors_that_were_not_used_for_long_make_room():
    tensors = Tensors(100, torch.device("cpu"))
    for size in (10, 11, 12):
        tensors.keep([torch.ones(size)])
    assert [form.shape for form in tensors.kept] == [(11,), (12,)]
    assert tensors.num_bytes == 92


def test_numbers_stay_finite_and_indices_valid():
    tensors = Tensors(1 << 20, torch.device("cpu"))
    tensors.keep(torch.full((3,), torch.inf))
    assert tensors.for_one_call()(Form((3,), (1,), "float32"), None).isfinite().all()
    grown = tensors.for_one_call()(Form((3,), (1,), "float32"), None)
    tensors.keep(grown.exp_().exp_().exp_())
    assert tensors.for_one_call()(Form((3,), (1,), "float32"), None).max() < 2
    index = tensors.for_one_call()(Form((2,), (1,), "int64"), None)
    index += 5
    tensors.keep(index)
    assert tensors.for_one_call()(Form((2,), (1,), "int64"), None).tolist() == [0, 0]


def test_a_process_that_dies_is_said_and_takes_the_others_with_it(monkeypatch):
    monkeypatch.setattr(measuring.Replay, "take_pass", lambda self: os._exit(1))
    with pytest.raises(RuntimeError, match="ended before it was done"):
        measure_kernels([add(3)], Conditions(workers=2))


def test_nothing_to_measure_starts_no_process():
    assert measure_kernels([], Conditions()) == {}
