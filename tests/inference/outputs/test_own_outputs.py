"""A format of results from outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.georeferenced import SCENES, planted, predict, write_scene
from ziggurat.cli.main import main
from ziggurat.errors import UserError
from ziggurat.inference.outputs.base import Output
from ziggurat.inference.outputs.registry import OUTPUTS, check_formats


class Counts(Output):
    """Boxes of each image."""

    name = "counts"
    takes = ("boxes",)

    def __init__(self, target):
        super().__init__(target)
        self.found = {}

    def image(self, results):
        (self.target.folder / f"{results.stem}.count").write_text(str(len(results.rows)))

    def collect(self, results):
        self.found[results.source.record.name] = [
            self.target.classes[self.target.label(row)] for row in results.rows
        ]

    def close(self):
        file = self.target.folder / "counts.json"
        file.write_text(json.dumps(self.found))
        return [file]


@pytest.fixture
def counts(monkeypatch):
    monkeypatch.setitem(OUTPUTS._entries, "counts", Counts)


def test_a_format_of_ones_own(counts, tmp_path):
    images = [write_scene(tmp_path / f"{scene}.tif", None, scene) for scene in (0, 1)]
    result = predict(images, tmp_path / "out", ("counts",))
    assert (result["table"], result["files"]) == (None, [str(tmp_path / "out" / "counts.json")])
    found = json.loads(Path(result["files"][0]).read_text())
    for scene, image in enumerate(images):
        expected = sorted(SCENES.classes[label] for *_, label in planted(scene))
        assert sorted(found[image.as_posix()]) == expected
        assert (tmp_path / "out" / f"{scene}.count").read_text() == str(len(expected))
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_unknown_formats_and_others_rows_are_refused(counts):
    with pytest.raises(UserError) as caught:
        check_formats(["gpgk", "csv", "counts", "xyz"], "masks")
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "unknown format of results 'gpgk'", "unknown format of results 'xyz'", "--format counts holds results on boxes",
    ]  # fmt: skip
    assert "did you mean 'gpkg'?" in caught.value.faults[0]


def test_the_command_checks_formats_first(capsys):
    assert main(["predict", "no-run", "no-image.png", "--format", "gpgk"]) == 2
    assert "did you mean 'gpkg'?" in capsys.readouterr().err


def test_what_is_unfinished_is_removed(counts, tmp_path, monkeypatch):
    given_up = []
    monkeypatch.setattr(Counts, "give_up", lambda self: given_up.append(self.name))
    monkeypatch.setattr(Counts, "collect", lambda self, results: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict([write_scene(tmp_path / "a.tif", None)], tmp_path / "out", ("counts",))
    assert given_up == ["counts"]
