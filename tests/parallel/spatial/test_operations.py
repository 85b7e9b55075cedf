"""Every operation in bands against the whole: outputs and all gradients in float64, odd and uneven extents."""

import functools

import pytest

from support.operation_cases import DIMS, GROUPS
from support.whole_and_bands import Case, assert_exact, compare

# PyTorch's own advice on one of the cases
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

PLANS = {"2": (2,), "3": (3,), "1x2": (1, 2), "2x2": (2, 2)}


@functools.cache
def found(group: str, plan: str, min_rows: int):
    return compare(GROUPS.get(group, DIMS), PLANS[plan], min_rows)


@pytest.mark.sampled(286)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, cases in GROUPS.items() for name in cases]
)
def test_bands_compute_what_the_whole_does(group, name, plan):
    assert_exact(found(group, plan, 1)[name])


@pytest.mark.parametrize("plan", ["2", "3", "2x2"])
@pytest.mark.parametrize("name", DIMS)
def test_one_and_three_dimensions(name, plan):
    if plan == "2x2" and "1d" in name:
        pytest.skip("a signal has one dim to cut")
    if plan == "2x2":
        assert_exact(compare({name: DIMS[name]}, PLANS[plan])[name])
    else:
        assert_exact(found("dims", plan, 1)[name])


@pytest.mark.parametrize("group", GROUPS)
def test_extents_that_are_too_small_to_cut_are_computed_by_every_worker(group):
    results = compare(GROUPS[group], (2,), min_rows=8)  # 13 rows are whole, and 16 are cut
    for name, result in results.items():
        assert isinstance(result, dict), (name, result)
        assert max(result.values()) < 1e-10, (name, result)


@pytest.mark.parametrize("degrees", [(5,), (8,), (2, 4)])
def test_up_to_eight_workers(degrees):
    names = [
        "conv3x3",
        "conv7x7 s2",
        "conv3x3 dilated far",
        "maxpool 3/2/1",
        "bilinear to a size",
        "batch norm",
        "windows",
    ]
    every = {name: case for cases in GROUPS.values() for name, case in cases.items()}
    for name, result in compare({name: every[name] for name in names}, degrees).items():
        assert isinstance(result, dict), (name, result)
        assert max(result.values()) < 1e-10, (name, result)


@pytest.mark.parametrize("extent", [1, 2, 3, 5])
def test_fewer_rows_than_workers(extent):
    names = ["conv3x3", "conv3x3 s2", "maxpool 3/2/1", "bilinear x2", "batch norm", "mean", "cat of channels"]
    every = {name: case for cases in GROUPS.values() for name, case in cases.items()}
    shape = (2, 4, extent, 11)
    for name, result in compare({n: Case(every[n].function, shape) for n in names}, (4,)).items():
        assert isinstance(result, dict), (name, result)
        assert max(result.values()) < 1e-10, (name, result)
