"""Operations that mix positions freely, in bands against the whole: outputs and all gradients in float64."""

import functools
import pickle

import pytest
import torch
from torch import nn

from support import index_cases, other_cases, product_cases, sampling_cases
from support.ranks import run_ranks
from support.whole_and_bands import assert_exact, compare
from ziggurat.parallel.spatial import SpatialTensor, UnsupportedOperation, cut, spatial_mesh, whole_tensor

pytestmark = pytest.mark.filterwarnings("ignore:.*is in beta")

GROUPS = {**index_cases.GROUPS, **sampling_cases.GROUPS, **product_cases.GROUPS, **other_cases.GROUPS}
PLANS = {"2": (2,), "3": (3,), "1x2": (1, 2), "2x2": (2, 2)}


@functools.cache
def found(group: str, plan: str, min_rows: int):
    return compare(GROUPS[group], PLANS[plan], min_rows)


@pytest.mark.sampled(208)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, cases in GROUPS.items() for name in cases]
)
def test_bands_compute_what_the_whole_does(group, name, plan):
    if "1d" in name and "x" in plan:
        pytest.skip("a signal has one dim to cut")
    assert_exact(found(group, plan, 1)[name])


@pytest.mark.sampled(6)
@pytest.mark.parametrize("group", GROUPS)
def test_extents_that_are_too_small_to_cut_are_computed_by_every_worker(group):
    for name, result in compare(GROUPS[group], (2,), min_rows=8).items():  # 13 rows are whole
        assert isinstance(result, dict), (name, result)
        assert max(result.values()) < 1e-10, (name, result)


def bands_of(workers, shape=(2, 4, 13, 11)):
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return whole, cut(whole, spatial_mesh(workers, (workers.size,)))


class Painting(nn.Module):
    """Puts an image into a view of what is returned."""

    def forward(self, x):
        canvas = torch.zeros(2, 4, 13, 11)
        canvas[1][:, 2:4] = x[0, :, :2]
        return canvas


def refusal(workers):
    _, bands = bands_of(workers)
    with pytest.raises(UnsupportedOperation) as caught:
        Painting()(bands)
    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    return error.operation, error.reason, error.remedy, error.line, str(error)


def test_a_view_of_a_plain_tensor_is_not_changed_by_bands():
    for operation, reason, remedy, line, message in run_ranks(refusal, 2):
        assert operation == "setitem"
        assert "shares its memory" in reason
        assert "new_zeros" in remedy
        assert line == f"{__file__}:{Painting.forward.__code__.co_firstlineno + 2}"
        assert line in message


class Memory(nn.Module):
    """Keeps what it has seen in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(3, 4))
        self.detaches = True

    def forward(self, x):
        self.seen[1] = (x.detach() if self.detaches else x).mean((0, 2, 3))
        return x * self.seen[1, :, None, None]


def remember(workers):
    whole, bands = bands_of(workers)
    alone, together = Memory(), Memory()
    expected, found = alone(whole), together(bands)
    assert not isinstance(together.seen, SpatialTensor)
    torch.testing.assert_close(together.seen, alone.seen)
    torch.testing.assert_close(whole_tensor(found), expected)
    together.detaches = False
    with pytest.raises(UnsupportedOperation, match=r"put x\.detach"):
        together(bands * nn.Parameter(torch.ones(1)))
    return True


def test_a_buffer_stays_plain():
    assert all(run_ranks(remember, 2))


def counted(workers):
    _, bands = bands_of(workers, (2, 4, 12, 11))
    mesh = bands.mesh
    bands[:, :, torch.tensor([3, 1])]  # few: looked up
    assert not mesh.gathers
    bands[:, :, torch.arange(12)]
    bands[bands > 0]
    return dict(mesh.gathers)


def test_what_is_gathered_for_an_index_is_counted():
    for gathers in run_ranks(counted, 2):
        rows = 2 * 4 * 6 * 11  # of the other worker
        assert gathers == {("?", "getitem"): rows * 4 + rows}  # of float32, and of the mask
