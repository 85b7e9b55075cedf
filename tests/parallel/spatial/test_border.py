"""Convolutions that begin before their halo has come: as exact as those that join band and halo, at every geometry."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - PyTorch's own habit

from support.operation_cases import CONVOLUTIONS, DIMS, conv
from support.ranks import run_ranks
from support.whole_and_bands import Case, assert_exact, compare
from ziggurat.parallel.spatial import cut, spatial_mesh
from ziggurat.parallel.spatial.operations import border
from ziggurat.parallel.spatial.operations.border import strips_of

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
ALL = CONVOLUTIONS | {name: DIMS[name] for name in ("conv1d", "conv3d")}


@pytest.fixture(autouse=True)
def _small_bands(monkeypatch):
    monkeypatch.setattr(border, "WORTH_BYTES", 0)


@pytest.mark.parametrize("degrees", [(2,), (3,), (5,), (1, 2)], ids=str)
def test_convolutions_compute_what_the_whole_does(degrees):
    cases = {name: case for name, case in ALL.items() if len(degrees) == 1 or len(case.shape) > 3}
    for name, found in compare(cases, degrees).items():
        assert isinstance(found, dict), (name, found)
        assert max(found.values()) <= 1e-10, (name, found)


@pytest.mark.parametrize("extent", [3, 4, 5, 7])
def test_halos_of_several_neighbours(extent):
    cases = {
        "far": Case(conv(4, 4, 3, padding=5, dilation=5), (2, 4, extent, 6)),
        "wide": Case(conv(4, 4, 7, padding=3), (2, 4, extent, 6)),
        "wide, strided": Case(conv(4, 4, 7, stride=2, padding=3), (2, 4, extent, 6)),
    }
    for found in compare(cases, (3,)).values():
        assert_exact(found)


def kinds(workers):
    mesh = spatial_mesh(workers, (workers.size,), 1)
    weight = torch.ones(4, 3, 3, 3, requires_grad=True)
    bands = cut(torch.ones(1, 3, 12, 5), mesh)
    ways = {
        "padded": {"padding": 1},
        "strided": {"padding": 1, "stride": 2},
        "bare": {},
        "too much": {"padding": 2},
    }
    return {name: type(F.conv2d(bands, weight, **way).local.grad_fn).__name__ for name, way in ways.items()}


def test_which_way_is_taken_follows_from_the_geometry(monkeypatch):
    first, joined = "BorderConvolutionBackward", "_ConvolutionBackward"
    for found in run_ranks(kinds, 2):
        assert (found["padded"], found["strided"]) == (first, first)
        assert joined in found.values()  # zeros on both sides, and halos on one, are not as many
    monkeypatch.setattr(border, "WORTH_BYTES", 1 << 20)
    assert all(set(found.values()) == {joined} for found in run_ranks(kinds, 2))


@settings(deadline=None, max_examples=200)
@given(
    height=st.integers(1, 9), above=st.integers(0, 9), kernel=st.integers(1, 5), stride=st.integers(1, 3),
    dilation=st.integers(1, 3), data=st.data(),
)  # fmt: skip
def test_strips_complete_any_geometry(height, above, kernel, stride, dilation, data):
    """Of a signal of rows above, in and below a band: zeros first, and the strips later, are the whole."""
    before, span = min(above, dilation * (kernel - 1)), dilation * (kernel - 1) + 1
    num_out = (height + 2 * before - span) // stride + 1
    if num_out < 1:
        return
    below = max(0, (num_out - 1) * stride + span - before - height)
    rows = torch.randn(before + height + below, dtype=torch.float64)
    weight = torch.randn(kernel, dtype=torch.float64)
    every = range(-before, height + below)

    def convolve(values):
        return torch.stack([
            sum(weight[t] * values[out * stride + t * dilation] for t in range(kernel)) for out in range(num_out)
        ])  # fmt: skip

    inside = torch.tensor([float(0 <= row < height) for row in every])
    total = convolve(rows * inside)
    for strip in strips_of(height, num_out, kernel, stride, dilation, before):
        side = torch.tensor([float(row < 0 if strip.above else row >= height) for row in every])
        read = (rows * side)[strip.start + before :][: strip.rows]
        assert len(read) == strip.rows
        total[strip.out :][: strip.num_out] += weight[strip.tap] * read[::stride]
    torch.testing.assert_close(total, convolve(rows))
