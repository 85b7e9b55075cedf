"""One export for each kind, which all tests of a session share: a translation takes seconds."""

import dataclasses

import pytest

from support.exported import images_of, spread_run
from ziggurat.exports.exporting import Request, export_run
from ziggurat.exports.formats import FORMATS

SETTINGS = {
    "detect": {"decode.max_detections": 20, "decode.candidates": 50},
    "classify": {"model.name": "timm:test_resnet"},
    "segment": {},
}


@dataclasses.dataclass(frozen=True)
class Made:
    """An export with the run that it was made of."""

    run: object
    exported: object


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """Return a function that exports a run of a task in a format, once."""
    made = {}

    def make(task, name):
        if (task, name) not in made:
            run = spread_run(task, **SETTINGS[task])
            path = tmp_path_factory.mktemp(f"{task}-{name}") / f"model{FORMATS[name].suffix}"
            names, tiles = images_of(run, 3)
            request = Request(name, path, names, tiles, 1, "CC0-1.0")
            made[task, name] = Made(run, export_run(run, request))
        return made[task, name]

    return make
