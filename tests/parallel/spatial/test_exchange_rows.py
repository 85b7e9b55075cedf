"""The exchange of rows and its adjoint: <A x, y> = <x, A' y>, and numeric gradients, over any geometry."""

import torch
from hypothesis import given as drawn_from
from hypothesis import settings
from hypothesis import strategies as st

from support.ranks import run_ranks
from ziggurat.parallel.spatial.axis import Axis
from ziggurat.parallel.spatial.exchange import Fetch, fetch, give
from ziggurat.parallel.spatial.sums import largest_over, sum_over


@st.composite
def plans(draw):
    """Draw bands, even empty ones, and needs: halos, gaps, and rows outside of the whole."""
    world = draw(st.integers(2, 4))
    sizes = draw(st.lists(st.integers(0, 4), min_size=world, max_size=world).filter(sum))
    have = [0]
    for size in sizes:
        have.append(have[-1] + size)
    need = []
    for _ in range(world):
        start = draw(st.integers(-3, have[-1] + 2))
        need.append((start, start + draw(st.integers(0, have[-1] + 3))))
    return world, Fetch(draw(st.sampled_from([1, 2])), tuple(have), tuple(need))


def shape_of(plan, rows):
    return (2, rows, 3, 2) if plan.dim == 1 else (2, 3, rows, 2)


def fetched(workers, plan, channels_last):
    """Return what is compared: rows against the definition, both inner products, and numeric derivatives."""
    axis, rank = Axis(workers, 0), workers.rank
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(shape_of(plan, plan.extent), generator=generator, dtype=torch.float64)
    band = whole.narrow(plan.dim, plan.have[rank], plan.have[rank + 1] - plan.have[rank]).clone()
    if channels_last:
        band = band.contiguous(memory_format=torch.channels_last)
    band.requires_grad_()
    rows = fetch(band, plan, axis)
    start, stop = plan.need[rank]
    padded = torch.nn.functional.pad(
        whole.movedim(plan.dim, -1), (max(0, -start), max(0, stop - plan.extent))
    ).movedim(-1, plan.dim)
    expected = padded.narrow(plan.dim, start + max(0, -start), stop - start)
    assert rows.shape == expected.shape
    assert torch.equal(rows, expected)
    weights = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1 + rank), dtype=torch.float64)
    (rows * weights).sum().backward()
    forward = sum_over((rows * weights).sum().detach(), axis)
    backward = sum_over((band * band.grad).sum().detach(), axis)
    return float(forward), float(backward)


@settings(max_examples=30, deadline=None)
@drawn_from(plans(), st.booleans())
def test_rows_arrive_and_gradients_return(drawn, channels_last):
    world, plan = drawn
    for forward, backward in run_ranks(fetched, world, (plan, channels_last)):
        assert abs(forward - backward) < 1e-9 * (1 + abs(forward))


def given_back(workers, plan, channels_last):
    """Return the inner products of rows that are given to their owners, and check that their gradient is what is fetched."""
    axis, rank = Axis(workers, 0), workers.rank
    band = torch.randn(shape_of(plan, plan.have[rank + 1] - plan.have[rank]), dtype=torch.float64)
    rows = torch.randn(shape_of(plan, plan.need[rank][1] - plan.need[rank][0]), dtype=torch.float64)
    if channels_last:
        rows = rows.contiguous(memory_format=torch.channels_last)
    rows.requires_grad_()
    added = give(rows, plan, axis)
    assert added.shape == band.shape
    (added * band).sum().backward()
    expected = fetch(band, plan, axis)
    assert torch.equal(rows.grad, expected)
    forward = sum_over((added * band).sum().detach(), axis)
    backward = sum_over((rows * expected).sum().detach(), axis)
    return float(forward), float(backward)


@settings(max_examples=30, deadline=None)
@drawn_from(plans(), st.booleans())
def test_giving_rows_is_the_adjoint_of_fetching_them(drawn, channels_last):
    world, plan = drawn
    for forward, backward in run_ranks(given_back, world, (plan, channels_last)):
        assert abs(forward - backward) < 1e-9 * (1 + abs(forward))


def numeric_and_exact(workers, function, shape):
    """Check derivatives of the sum of all workers' weighted results by moving one worker's inputs at a time."""
    axis, rank = Axis(workers, 0), workers.rank
    point = torch.randn(shape, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)

    def total(value):
        result = function(value, axis)
        weights = torch.linspace(-1, 1, result.numel(), dtype=torch.float64).view_as(result) + rank
        return (result * weights).sum()

    exact = point.clone().requires_grad_()
    total(exact).backward()
    step, worst = 1e-6, 0.0
    for mover in range(workers.size):
        for number in range(point.numel()):
            values = []
            for sign in (1, -1):
                moved = point.clone()
                if rank == mover:
                    moved.view(-1)[number] += sign * step
                with torch.no_grad():
                    values.append(float(sum_over(total(moved), axis)))
            if rank == mover:
                slope = (values[0] - values[1]) / (2 * step)
                worst = max(worst, abs(slope - float(exact.grad.view(-1)[number])))
    return worst


def _halos(value, axis):
    return fetch(value, Fetch(2, (0, 2, 4, 6), ((-1, 4), (1, 5), (2, 8))), axis)


def _everything(value, axis):
    return fetch(value, Fetch(2, (0, 2, 4, 6), ((0, 6),) * 3), axis)


def _given(value, axis):
    return give(value.cos(), Fetch(2, (0, 1, 2, 4), ((-1, 1), (1, 3), (2, 4))), axis)


def _sum(value, axis):
    return sum_over(value.sin(), axis)


def _largest(value, axis):
    return largest_over(value, (2, 3), (axis,))


def test_numeric_gradients_of_every_exchange():
    for function in (_halos, _everything, _given, _sum, _largest):
        worst = max(run_ranks(numeric_and_exact, 3, (function, (1, 2, 2, 2))))
        assert worst < 1e-7, (function.__name__, worst)
