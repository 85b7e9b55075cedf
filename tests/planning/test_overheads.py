"""What is left of steps beside their kernels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ziggurat.planning.amounts import is_free
from ziggurat.planning.kernels import kernel_of
from ziggurat.planning.overheads import Overheads, Sample, WithOverheads, fit_overheads, sample_of
from ziggurat.planning.program import Program, Start, spread_operation

ADD = kernel_of(torch.ops.aten.add.Tensor, (torch.zeros(3), torch.zeros(3)), {})
VIEW = kernel_of(torch.ops.aten.view.default, (torch.zeros(3), [3]), {})


class Costs:
    def __init__(self):
        self.measured = []

    def known(self, kernel):
        return bool(self.measured)

    def measure(self, kernels):
        self.measured += kernels

    def seconds(self, kernel):
        return 0.0 if kernel == VIEW else 0.5


tens = st.integers(1, 50)


@given(
    tens,
    tens,
    tens,
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 300)), min_size=4, max_size=9, unique=True),
)
def test_overheads_are_found_again(kernel, start, step, counts):
    truth = Overheads(kernel * 1e-6, start * 1e-5, step * 1e-3)
    samples = [Sample(k, s, 0.1, 0.1 + k * truth.call + s * truth.start + truth.step) for k, s in counts]
    found = fit_overheads(samples)
    for one in samples:
        told = one.kernel_seconds + one.calls * found.call + one.starts * found.start + found.step
        assert told == pytest.approx(one.seconds, rel=1e-3)


def test_steps_that_take_less_than_their_kernels_have_no_overheads():
    assert fit_overheads([Sample(1000, 5, 1.0, 0.9), Sample(2000, 9, 2.0, 1.7)]) == Overheads()


def test_a_call_takes_what_it_takes_at_least():
    samples = [Sample(1000, 5, 1.0, 0.9), Sample(2000, 9, 2.0, 1.7)]
    assert fit_overheads(samples, least_call=1e-6) == Overheads(call=1e-6)
    samples = [Sample(1000, 0, 1.0, 1.02), Sample(4000, 0, 2.0, 2.05)]
    found = fit_overheads(samples, least_call=4e-6)
    assert found == pytest.approx(fit_overheads(samples), rel=1e-4)  # where calls take more, it says nothing


def test_a_large_step_does_not_outweigh_small_ones():
    samples = [Sample(1000, 0, 0.01, 0.02), Sample(1000, 0, 0.02, 0.03), Sample(1000, 0, 100.0, 101.0)]
    assert fit_overheads(samples).call == pytest.approx(1e-5, rel=0.1)


def test_without_steps_nothing_is_fitted():
    with pytest.raises(ValueError, match="got none"):
        fit_overheads([])


def test_each_call_has_what_is_around_it_a_view_too():
    costs = Costs()
    priced = WithOverheads(costs, Overheads(call=0.25, start=2.0))
    assert not priced.known(ADD)
    priced.measure([ADD])
    assert costs.measured == [ADD]
    assert priced.known(ADD)
    assert priced.seconds(ADD) == 0.75
    assert priced.seconds(VIEW) == 0.25
    assert priced.begin(Start("barrier", (0, 1))) == 2.0


def test_a_sample_counts_what_a_program_has():
    program = Program(0, (ADD, VIEW, Start("barrier", (0, 1)), ADD))
    assert sample_of(program, Costs(), 3.0) == Sample(3, 1, 1.0, 3.0)


WINDOW = spread_operation("window", talks=True, with_gradient=False)
POINTWISE = spread_operation("pointwise", talks=False, with_gradient=False)


def test_an_operation_on_spread_tensors_is_no_call_and_needs_no_measuring():
    program = Program(0, (ADD, WINDOW, VIEW))
    assert sample_of(program, Costs(), 3.0) == Sample(2, 0, 0.5, 3.0)
    priced = WithOverheads(Costs(), Overheads(call=0.25), {WINDOW.name: 3.0})
    assert priced.known(WINDOW)
    assert not priced.known(ADD)
    assert priced.seconds(WINDOW) == 3.0
    assert is_free(WINDOW)


def test_operations_that_were_not_measured_take_what_those_take_that_are_alike():
    measured = {WINDOW.name: 3.0, POINTWISE.name: 1.0, spread_operation("layout", False, False).name: 2.0}
    priced = WithOverheads(Costs(), Overheads(), measured)
    assert priced.seconds(spread_operation("gather", True, False)) == 3.0  # those that talk
    assert priced.seconds(spread_operation("resample", False, False)) == 1.5  # those that do not
    assert priced.seconds(spread_operation("resample", False, True)) == 2.0  # all
    assert WithOverheads(Costs(), Overheads()).seconds(WINDOW) == 0.0


def test_beginning_a_message_takes_what_was_measured_of_it():
    priced = WithOverheads(Costs(), Overheads(start=2.0), begins=lambda start: float(start.num_bytes))
    assert priced.begin(Start("all-reduce", (0, 1), num_bytes=7)) == 7.0
