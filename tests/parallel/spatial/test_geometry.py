"""Window geometry against the plain definition: an output row touches these input rows, and no others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - PyTorch's own habit

from ziggurat.parallel.spatial.geometry import (
    bin_range,
    intersect,
    partition,
    pooled_extent,
    ranges,
    scaled_partition,
    transposed_extent,
    transposed_input,
    window_extent,
    window_input,
)

small = st.integers(1, 5)


@given(extent=st.integers(0, 200), parts=st.integers(1, 9))
def test_bands_cover_the_extent_and_are_even(extent, parts):
    bounds = partition(extent, parts)
    sizes = [stop - start for start, stop in ranges(bounds)]
    assert bounds[0] == 0
    assert bounds[-1] == extent
    assert max(sizes) - min(sizes) <= 1


@given(blocks=st.integers(1, 50), parts=st.integers(1, 9), multiple=st.integers(1, 7))
def test_bounds_are_multiples(blocks, parts, multiple):
    bounds = scaled_partition(blocks * multiple, parts, multiple)
    assert all(bound % multiple == 0 for bound in bounds)
    assert bounds[-1] == blocks * multiple


@given(st.tuples(st.integers(-5, 20), st.integers(0, 9)), st.tuples(st.integers(-5, 20), st.integers(0, 9)))
def test_intersection(one, other):
    first, second = (one[0], one[0] + one[1]), (other[0], other[0] + other[1])
    start, stop = intersect(first, second)
    assert set(range(start, stop)) == set(range(*first)) & set(range(*second))


@given(
    extent=st.integers(1, 24),
    kernel=small,
    stride=small,
    padding=st.integers(0, 4),
    dilation=st.integers(1, 3),
)
def test_a_window_needs_the_rows_that_it_touches(extent, kernel, stride, padding, dilation):
    if extent + 2 * padding < dilation * (kernel - 1) + 1:
        with pytest.raises(ValueError, match="window"):
            window_extent(extent, kernel, stride, (padding, padding), dilation)
        return
    rows = window_extent(extent, kernel, stride, (padding, padding), dilation)
    assert (
        rows
        == F.conv1d(
            torch.zeros(1, 1, extent), torch.zeros(1, 1, kernel), None, stride, padding, dilation
        ).numel()
    )
    for start in range(rows):
        for stop in range(start + 1, rows + 1):
            touched = [i * stride - padding + dilation * t for i in range(start, stop) for t in range(kernel)]
            assert window_input((start, stop), kernel, stride, padding, dilation) == (
                min(touched),
                max(touched) + 1,
            )


@given(extent=st.integers(1, 12), kernel=small, stride=small, dilation=st.integers(1, 3), data=st.data())
def test_a_transposed_window_needs_the_rows_that_reach_it(extent, kernel, stride, dilation, data):
    padding = data.draw(st.integers(0, dilation * (kernel - 1)))
    rows = transposed_extent(extent, kernel, stride, padding, dilation, 0)
    if rows < 1:
        return
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    first, last = transposed_input((start, stop), kernel, stride, padding, dilation)
    reaching = [
        i for i in range(extent) for t in range(kernel) if start <= i * stride - padding + dilation * t < stop
    ]
    assert all(first <= i < last for i in reaching)
    # what these rows reach covers the outputs, so that they can be cut out of it
    assert first * stride - padding <= start
    assert (last - 1) * stride - padding + dilation * (kernel - 1) >= stop - 1


@given(extent=st.integers(1, 24), kernel=small, stride=small, data=st.data())
def test_pooled_rows_are_pytorchs(extent, kernel, stride, data):
    padding = data.draw(st.integers(0, kernel // 2))
    ceil_mode = data.draw(st.booleans())
    if extent + 2 * padding < kernel:
        return
    pooled = F.max_pool1d(torch.zeros(1, 1, extent), kernel, stride, padding, ceil_mode=ceil_mode)
    assert pooled_extent(extent, kernel, stride, padding, 1, ceil_mode) == pooled.numel()


@given(extent=st.integers(1, 30), bins=st.integers(1, 12))
def test_bins_are_pytorchs(extent, bins):
    values = torch.arange(extent, dtype=torch.float64).view(1, 1, -1)
    means = F.adaptive_avg_pool1d(values, bins)[0, 0]
    for index in range(bins):
        first, last = bin_range(index, extent, bins)
        assert means[index] == pytest.approx((first + last - 1) / 2)
