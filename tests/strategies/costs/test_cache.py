"""What was measured for a run is found again; where it cannot be, or is damaged, this is said, and it is measured again."""

import pytest

from ziggurat.strategies.costs.cache import AGAIN, MeasurementCache


def test_values_are_kept_by_key(tmp_path, capsys):
    kept = MeasurementCache(tmp_path / "file.json")
    assert kept.read("one") is None
    kept.write("one", [1, 0.1])
    kept.write("two", {"a": 2})
    again = MeasurementCache(tmp_path / "file.json")
    assert (again.read("one"), again.read("two"), again.read("three")) == ([1, 0.1], {"a": 2}, None)
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_a_damaged_file_holds_nothing_and_is_replaced(tmp_path, capsys, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    assert MeasurementCache(path).read("one") is None
    said = capsys.readouterr().err
    assert said.startswith(f"ziggurat: {path} cannot be read (")
    assert said.endswith(f": {AGAIN}\n")
    MeasurementCache(path).write("one", 1)
    assert MeasurementCache(path).read("one") == 1


def test_without_a_path_nothing_is_kept(capsys):
    MeasurementCache(None).write("one", 1)
    assert MeasurementCache(None).read("one") is None
    assert capsys.readouterr().err == ""


def test_a_file_that_cannot_be_written_is_named(tmp_path, capsys):
    path = tmp_path / "no folder" / "file.json"
    MeasurementCache(path).write("one", 1)
    assert MeasurementCache(path).read("one") is None
    assert capsys.readouterr().err.startswith(
        f"ziggurat: {path} cannot be written (No such file or directory): "
    )
