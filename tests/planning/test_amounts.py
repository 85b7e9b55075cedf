"""The work of kernels, against hand-worked counts and PyTorch's own counter."""

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from support.kernels import Recorded
from ziggurat.planning.amounts import bytes_of, is_free, layer_of, operator_text, order_of, text_of, work_of
from ziggurat.planning.kernels import kernel_of
from ziggurat.planning.program import Form, Kernel

aten = torch.ops.aten


def strided_conv():
    x, w = torch.randn(2, 6, 9, 7, requires_grad=True), torch.randn(4, 6, 3, 3, requires_grad=True)
    functional.conv2d(x, w, stride=2, padding=1).sum().backward()


def first_conv():  # no gradient of the images
    w = torch.randn(4, 3, 3, 3, requires_grad=True)
    functional.conv2d(torch.randn(2, 3, 8, 8), w).sum().backward()


def transposed_conv():
    x, w = torch.randn(1, 6, 5, 5, requires_grad=True), torch.randn(6, 2, 2, 2, requires_grad=True)
    functional.conv_transpose2d(x, w, stride=2).sum().backward()


def matrices():
    x, w = torch.randn(5, 7, requires_grad=True), torch.randn(3, 7, requires_grad=True)
    functional.linear(x, w, torch.randn(3)).sum().backward()
    torch.bmm(torch.randn(2, 3, 4), torch.randn(2, 4, 5))
    torch.baddbmm(torch.randn(2, 3, 5), torch.randn(2, 3, 4), torch.randn(2, 4, 5))


@pytest.mark.parametrize("network", [strided_conv, first_conv, transposed_conv, matrices])
def test_arithmetic_is_what_pytorch_counts(network):
    with FlopCounterMode(display=False) as counter:
        network()
    with Recorded() as recorded:
        network()
    assert sum(work_of(kernel).flops for kernel in recorded.kernels) == counter.get_total_flops()


def test_groups_compute_their_own_channels_alone():
    x, w = torch.randn(2, 6, 9, 7, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    with Recorded() as recorded:
        functional.conv2d(x, w, stride=2, padding=1, groups=2).sum().backward()
    forward = 2 * (2 * 4 * 5 * 4) * (3 * 3 * 3)
    assert sum(work_of(kernel).flops for kernel in recorded.kernels) == 3 * forward


def test_attention_counts_both_products():
    q, k = torch.randn(2, 4, 6, 8), torch.randn(2, 4, 10, 8)
    with Recorded() as recorded:
        functional.scaled_dot_product_attention(q, k, k)
    flops = sum(work_of(kernel).flops for kernel in recorded.kernels)
    assert flops == 2 * (2 * 2 * 4 * 6 * 10 * 8)


def test_bytes_are_those_that_are_read_and_written():
    x = torch.zeros(3, 4)
    assert work_of(kernel_of(aten.add.Tensor, (x, x), {})).num_bytes == 3 * 48
    assert work_of(kernel_of(aten.zeros.default, ([5],), {"dtype": torch.float64})).num_bytes == 40
    assert work_of(kernel_of(aten.view.default, (x, [12]), {})) == (0, 0)
    assert bytes_of(Form((4, 0), (1, 1), "float32")) == 0


def test_what_pytorch_cannot_tell_without_numbers_counts_its_input_twice():
    assert work_of(kernel_of(aten.nonzero.default, (torch.zeros(6),), {})).num_bytes == 48


def test_a_rate_changes_no_text_and_a_size_does():
    x, y = torch.zeros(2, 3), torch.zeros(2, 4)
    assert text_of(kernel_of(aten.mul.Tensor, (x, 0.5), {})) == text_of(
        kernel_of(aten.mul.Tensor, (x, 0.25), {})
    )
    assert text_of(kernel_of(aten.mul.Tensor, (x, 0.5), {})) != text_of(
        kernel_of(aten.mul.Tensor, (y, 0.5), {})
    )
    assert "nearest" in text_of(Kernel("a.b.c", ("nearest",)))


def test_a_layer_is_the_same_on_images_of_another_size_and_not_with_other_weights():
    w, other = torch.zeros(4, 3, 3, 3), torch.zeros(8, 3, 3, 3)

    def conv(size, weight):
        settings = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
        return kernel_of(
            aten.convolution.default, (torch.zeros(1, 3, size, size), weight, None, *settings), {}
        )

    assert layer_of(conv(8, w)) == layer_of(conv(16, w)) != layer_of(conv(8, other))
    assert operator_text(conv(8, w)) == operator_text(conv(8, other))


def test_lists_of_many_tensors_are_told_by_number_and_elements():
    forms = tuple(Form((size,), (1,), "float32") for size in (1, 2, 3, 4, 5))
    text = text_of(Kernel("aten._foreach_mul_.Scalar", (forms, "0.5")))
    assert text == "aten._foreach_mul_.Scalar([5 of 15 float32], ~)"


def test_orders():
    assert order_of(Form((2, 3, 4, 4), (48, 16, 4, 1), "float32")) == "rows"
    assert order_of(Form((3, 4), (1, 3), "float32")) == "other"
    assert order_of(Form((1, 1), (5, 7), "float32")) == "rows"


def test_an_operator_that_is_not_loaded_is_not_free():
    assert not is_free(Kernel("no.such.one", ()))
