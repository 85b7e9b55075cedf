"""What was measured for a run is found again; where it cannot be, or is damaged, it is as if nothing had been measured."""

import pytest

from ziggurat.parallel.levels.placement import CallCost
from ziggurat.plans.kept import Kept
from ziggurat.plans.kept_costs import KeptCosts


def test_values_are_kept_by_key(tmp_path):
    kept = Kept(tmp_path / "file.json")
    assert kept.read("one") is None
    kept.write("one", [1, 0.1])
    kept.write("two", {"a": 2})
    again = Kept(tmp_path / "file.json")
    assert (again.read("one"), again.read("two"), again.read("three")) == ([1, 0.1], {"a": 2}, None)
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_a_damaged_file_holds_nothing_and_is_replaced(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    assert Kept(path).read("one") is None
    Kept(path).write("one", 1)
    assert Kept(path).read("one") == 1


def test_without_a_place_nothing_is_kept(tmp_path):
    for path in (None, tmp_path / "no folder" / "file.json"):
        Kept(path).write("one", 1)
        assert Kept(path).read("one") is None


def test_costs_come_back_as_they_were(tmp_path):
    costs = {"stem": CallCost(1 / 3), "head.dropout:2": CallCost(2e-7, draws=True)}
    KeptCosts(tmp_path / "costs.json").write(costs)
    assert KeptCosts(tmp_path / "costs.json").read() == costs
    assert KeptCosts(tmp_path / "none.json").read() is None


@pytest.mark.parametrize(
    "value", [[1], {"stem": 3}, {"stem": {"seconds": "a", "draws": False}}, {"stem": {"draws": True}}]
)
def test_costs_that_cannot_be_read_are_none(tmp_path, value):
    Kept(tmp_path / "costs.json").write("forward", value)
    assert KeptCosts(tmp_path / "costs.json").read() is None
