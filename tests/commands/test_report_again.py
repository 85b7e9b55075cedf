"""`ziggurat report`: the report of a run, again, of a checkpoint, and on other data."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from support.ranks import run_ranks
from support.small_runs import config_of
from ziggurat.cli.main import main
from ziggurat.commands.report import report
from ziggurat.errors import UserError
from ziggurat.training.loop import train

ONE = {"plan": "dp=1", "threads": 1}


def make(workers, folder):
    settings = {"plan": "dp=1", "train.report": "pictures", "train.checkpoint_every": 1, "checkpoint.keep": 3}
    return train(workers, config_of("detect", **settings), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    run = tmp_path_factory.mktemp("report") / "run"
    run_ranks(make, 1, (run,))
    return run


def test_what_was_removed_is_made_again(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (folder / "report").iterdir()}
    before.pop("train_batch.png", None)  # of the training, not of the report
    shutil.rmtree(tmp_path / "run" / "report")
    result = report(tmp_path / "run", None, None, ONE)
    after = {path.name: path.read_bytes() for path in (tmp_path / "run" / "report").iterdir()}
    assert after.keys() == before.keys()
    assert after["metrics.json"] == before["metrics.json"]
    for name in before:
        if name.endswith(".png"):
            one, other = (np.asarray(Image.open(run / "report" / name)) for run in (folder, tmp_path / "run"))
            assert np.array_equal(one, other), name
    assert result["images"] == 3
    assert set(result["files"].values()) == {str(tmp_path / "run" / "report" / name) for name in after}


def test_of_a_checkpoint_and_on_other_data(folder, tmp_path, capfd):
    assert report(f"{folder}@step-1", None, None, ONE)["report"] == str(folder / "report-step-1")
    assert (folder / "report-step-1" / "worst.png").is_file()
    words = [
        "report",
        str(folder),
        "digits",
        "--split",
        "train",
        "--out",
        str(tmp_path / "out"),
        "--plan",
        "dp=1",
    ]
    assert main([*words, "--threads", "1", "--json", "--set", "train.report=numbers"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["images"], result["report"]) == (8, str(tmp_path / "out"))
    assert {path.suffix for path in (tmp_path / "out").iterdir()} <= {".json", ".csv"}


def test_two_workers_make_the_same_report(folder, tmp_path):
    results = [report(folder, None, tmp_path / plan, ONE | {"plan": plan}) for plan in ("dp=1", "sp=2")]
    files = [sorted(path.name for path in (tmp_path / plan).iterdir()) for plan in ("dp=1", "sp=2")]
    assert files[0] == files[1]
    assert results[0]["images"] == results[1]["images"]


def test_what_has_no_report(folder, tmp_path):
    shutil.copy(folder / "weights.safetensors", tmp_path / "alone.safetensors")
    with pytest.raises(UserError, match="is a file of weights by itself"):
        report(tmp_path / "alone.safetensors", None, None, ONE)
    with pytest.raises(UserError, match="has no test split"):
        report(folder, "digits", tmp_path / "out", ONE, split="test")
