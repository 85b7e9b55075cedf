"""What was measured for a run is found again; where it cannot be, or is damaged, this is said, and it is measured again."""

import pytest

from ziggurat.config import PipelineConfig
from ziggurat.parallel.branches.placement import CallCost
from ziggurat.strategies.costs.branch_costs import KeptCosts
from ziggurat.strategies.costs.cache import AGAIN, Kept
from ziggurat.strategies.costs.cuts import KeptCuts


def test_values_are_kept_by_key(tmp_path, capsys):
    kept = Kept(tmp_path / "file.json")
    assert kept.read("one") is None
    kept.write("one", [1, 0.1])
    kept.write("two", {"a": 2})
    again = Kept(tmp_path / "file.json")
    assert (again.read("one"), again.read("two"), again.read("three")) == ([1, 0.1], {"a": 2}, None)
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_a_damaged_file_holds_nothing_and_is_replaced(tmp_path, capsys, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    assert Kept(path).read("one") is None
    said = capsys.readouterr().err
    assert said.startswith(f"ziggurat: {path} cannot be read (")
    assert said.endswith(f": {AGAIN}\n")
    Kept(path).write("one", 1)
    assert Kept(path).read("one") == 1


def test_without_a_path_nothing_is_kept(capsys):
    Kept(None).write("one", 1)
    assert Kept(None).read("one") is None
    assert capsys.readouterr().err == ""


def test_a_file_that_cannot_be_written_is_named(tmp_path, capsys):
    path = tmp_path / "no folder" / "file.json"
    Kept(path).write("one", 1)
    assert Kept(path).read("one") is None
    assert capsys.readouterr().err.startswith(
        f"ziggurat: {path} cannot be written (No such file or directory): "
    )


def test_costs_come_back_as_they_were(tmp_path, capsys):
    costs = {"stem": CallCost(1 / 3), "head.dropout:2": CallCost(2e-7, draws=True)}
    KeptCosts(tmp_path / "costs.json").write(costs)
    assert KeptCosts(tmp_path / "costs.json").read() == costs
    assert KeptCosts(tmp_path / "none.json").read() is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "value", [[1], {"stem": 3}, {"stem": {"seconds": "a", "draws": False}}, {"stem": {"draws": True}}]
)
def test_costs_that_cannot_be_read_are_none(tmp_path, capsys, value):
    path = tmp_path / "costs.json"
    Kept(path).write("forward", value)
    assert KeptCosts(path).read() is None
    assert capsys.readouterr().err == f"ziggurat: {path} holds no usable value for 'forward': {AGAIN}\n"


@pytest.mark.parametrize("value", [[1], {"layers": ["stem"]}, {"layers": ["stem"], "costs": [{"hours": 1}]}])
def test_cuts_that_cannot_be_read_are_none(tmp_path, capsys, value):
    path = tmp_path / "cuts.json"
    cuts = KeptCuts(path, 2, PipelineConfig())
    Kept(path).write(cuts.key, value)
    assert cuts.read() is None
    assert capsys.readouterr().err == f"ziggurat: {path} holds no usable value for {cuts.key!r}: {AGAIN}\n"
