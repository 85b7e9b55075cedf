"""The norm of a gradient has the same bits wherever its rows are, and whatever memory holds them."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.ranks import run_ranks
from ziggurat.strategies import squares
from ziggurat.strategies.boxes import Box
from ziggurat.strategies.layout import Layout, Placement
from ziggurat.strategies.squares import fold
from ziggurat.strategies.squares import row_squares as squares_of_each

SHAPES = [(), (1,), (37,), (5, 3), (64, 129), (7, 33, 3, 3), (12, 1, 7, 7), (3, 5, 2, 3, 2), (1, 4097)]


def drawn(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def row_squares(tensor):
    return squares_of_each([tensor])[0]


def folded(values):
    """The definition, one number after the other."""
    while len(values) > 1:
        half = (len(values) + 1) // 2
        values = [values[i] + values[half + i] if half + i < len(values) else values[i] for i in range(half)]
    return values[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_is_folded_as_defined(dtype):
    tensor = drawn((2, 7, 3), dtype)
    for row, found in zip(tensor, row_squares(tensor), strict=True):
        by_dim = folded([slice_ * slice_ for slice_ in row])
        assert found == folded(list(by_dim)).double()


@given(st.sampled_from(SHAPES[1:]), st.integers(1, 6), st.integers(0, 9), st.permutations(range(4)))
def test_bits_do_not_depend_on_rows_strides_or_blocks(shape, count, seed, order):
    tensor = drawn(shape, seed=seed)
    expected = row_squares(tensor)
    parts = [row_squares(part) for part in tensor.chunk(count)]
    assert torch.equal(torch.cat(parts), expected), "rows"
    dims = [dim for dim in order if dim < tensor.dim()] + list(range(4, tensor.dim()))
    back = [dims.index(dim) for dim in range(tensor.dim())]
    other = tensor.permute(dims).contiguous().permute(back)
    assert torch.equal(row_squares(other), expected), "strides"
    spaced = torch.empty((*shape, 2))[..., 0].copy_(tensor)
    assert torch.equal(row_squares(spaced), expected), "gaps"


@pytest.mark.parametrize("block", [1, 100, 1 << 30])
def test_bits_do_not_depend_on_the_size_of_blocks(monkeypatch, block):
    expected = [row_squares(drawn(shape)) for shape in SHAPES]
    monkeypatch.setattr(squares, "BLOCK", block)
    for one, shape in zip(expected, SHAPES, strict=True):
        assert torch.equal(row_squares(drawn(shape)), one)


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-6), (torch.float64, 1e-15)]
)
def test_the_sum_is_that_of_the_squares(dtype, most):
    for shape in SHAPES:
        tensor = drawn(shape, dtype)
        expected = tensor.double().square().flatten(1).sum(1) if len(shape) > 1 else tensor.double().square()
        torch.testing.assert_close(row_squares(tensor), expected.reshape(-1), rtol=most, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_one_after_the_other_do_not_disturb_each_other(dtype):
    tensors = [drawn(shape, dtype, seed) for seed, shape in enumerate(SHAPES)]
    for tensor, found in zip(tensors, squares_of_each(tensors), strict=True):
        assert torch.equal(found, row_squares(tensor))


def test_numbers_that_are_not_finite_and_nothing():
    assert row_squares(torch.tensor([[1.0, torch.nan], [2.0, -torch.inf], [3.0, 4.0]])).tolist()[1:] == [
        torch.inf,
        25.0,
    ]
    assert row_squares(torch.empty(0, 3)).tolist() == []
    assert row_squares(torch.empty(2, 0)).tolist() == [0.0, 0.0]
    assert fold(torch.empty(0)).tolist() == []


def spread(workers, splits):
    """The norm where each worker has some rows of each tensor, and channels-last memory on the first one."""
    placements, held = {}, {}
    for number, shape in enumerate(SHAPES):
        name, whole = f"t{number}", drawn(shape, seed=number)
        if len(shape) == 4 and workers.is_first:
            whole = whole.contiguous(memory_format=torch.channels_last)
        if not shape:
            boxes = tuple(
                (Box.of(shape),) if rank == workers.size - 1 else () for rank in range(workers.size)
            )
        else:
            ends = [0, *(int(shape[0] * share) for share in splits), shape[0]]
            boxes = tuple(
                (Box.of(shape).narrow(0, first, last - first),) if last > first else ()
                for first, last in itertools.pairwise(ends)
            )
        placements[name] = Placement(shape, boxes)
        held[name] = tuple(box.of_tensor(whole) for box in boxes[workers.rank])
    return Layout(placements, workers).norm(held).item()


def test_the_norm_over_workers_has_the_bits_of_one():
    tensors = {f"t{number}": drawn(shape, seed=number) for number, shape in enumerate(SHAPES)}
    (alone,) = run_ranks(spread, 1, ((),))
    expected = torch.cat([tensor.flatten() for tensor in tensors.values()]).double().norm().item()
    assert alone == pytest.approx(expected, rel=1e-7)
    for splits in ((0.5,), (0.1,), (0.34, 0.67)):
        assert run_ranks(spread, len(splits) + 1, (splits,)) == [alone] * (len(splits) + 1)
