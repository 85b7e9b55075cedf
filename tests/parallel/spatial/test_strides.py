"""The order of memory of results, against PyTorch's own."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ziggurat.parallel.spatial.strides import (
    channels_last,
    contiguous,
    elementwise,
    is_dense,
    same_strides,
    span,
    suggests_channels_last,
)


def laid_out(shape):
    """Return tensors of a shape in every order of memory, with gaps, and broadcast from fewer elements."""
    places = range(len(shape))
    found = [
        torch.empty([shape[d] for d in order]).permute([order.index(d) for d in places])
        for order in itertools.permutations(places)
    ]
    found.append(torch.empty([size + 2 for size in shape])[tuple(slice(0, size) for size in shape)])
    few = [1 if d % 2 else size for d, size in enumerate(shape)]
    return [*found, torch.empty(few).expand(shape), torch.empty(few), torch.empty(shape[-1:])]


SHAPES = [
    (2, 3, 4, 5),
    (1, 3, 4, 5),
    (2, 1, 4, 5),
    (2, 3, 1, 5),
    (1, 1, 1, 1),
    (2, 3, 1, 1),
    (4, 5),
    (2, 3, 4),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_computed_element_by_element(shape):
    tensors = laid_out(shape)
    for one in tensors:
        own = (tuple(one.shape), one.stride())
        assert same_strides(one.shape, elementwise(*own[:1], [own]), one.neg().stride())
        assert same_strides(one.shape, elementwise(*own[:1], [own]), torch.empty_like(one).stride())
    for pair in itertools.product(tensors, tensors):
        result = pair[0] + pair[1]
        found = elementwise(tuple(result.shape), [(tuple(one.shape), one.stride()) for one in pair])
        assert same_strides(result.shape, found, result.stride()), [(one.shape, one.stride()) for one in pair]


@pytest.mark.parametrize("shape", [*SHAPES, (1, 4, 2, 2, 3), (2, 1, 1, 3, 1)], ids=str)
def test_channels_together(shape):
    """Pooling keeps the format that PyTorch takes its input for."""
    pools = {4: torch.nn.functional.avg_pool2d, 5: torch.nn.functional.max_pool3d}
    if len(shape) not in pools:
        assert not suggests_channels_last(shape, contiguous(shape))
        return
    for one in laid_out(shape)[: math.factorial(len(shape))]:
        pooled = pools[len(shape)](one, 1)
        last = suggests_channels_last(shape, one.stride())
        expected = channels_last(shape) if last else contiguous(shape)
        assert same_strides(shape, expected, pooled.stride()), one.stride()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_dense_and_span(sizes, data):
    order = data.draw(st.permutations(range(len(sizes))))
    whole = torch.empty([sizes[d] for d in order]).permute([order.index(d) for d in range(len(sizes))])
    assert is_dense(whole.shape, whole.stride())
    assert span(whole.shape, whole.stride()) == whole.numel()
    part = whole[tuple(slice(0, max(1, size - 1)) for size in sizes)]
    assert is_dense(part.shape, part.stride()) == (span(part.shape, part.stride()) == part.numel())
