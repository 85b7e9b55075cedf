"""Runs that are served, made once."""

import pytest

from support.exported import images_of, in_folder, spread_run
from support.served import LocalEngine, listening, make_run, served
from ziggurat.config.serve_config import ServeConfig
from ziggurat.exports.exporting import Request, export_run
from ziggurat.serving.replica import Replica
from ziggurat.tasks.registry import TASKS


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The folder of a run of each task."""
    root = tmp_path_factory.mktemp("served")
    return {task: make_run(root / task, task) for task in ("detect", "classify", "segment")}


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A run of a classifier with its export to ONNX, ``exports/model.onnx``."""
    run = spread_run("classify", **{"model.name": "timm:test_resnet"})
    folder = in_folder(run, tmp_path_factory.mktemp("runs") / "digits")
    names, tiles = images_of(run, 1)
    found = export_run(run, Request("onnx", folder / "exports" / "model.onnx", names, tiles, 1, ""))
    assert found.ok
    return folder


@pytest.fixture(scope="module")
def replicas(runs):
    """A replica of each task, in this process."""
    assert set(runs) == set(TASKS)
    made = [Replica(served(folder), ServeConfig()) for folder in runs.values()]
    yield {one.card.name: one for one in made}
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def live(replicas):
    """A server of all of them."""
    with listening(LocalEngine(replicas.values())) as found:
        yield found
