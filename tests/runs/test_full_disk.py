"""A disk that is full, or a folder that is gone, at each file of a run: one sentence with the file, the cause and how it goes on.

``/dev/full`` takes no byte: a link to it in the place of a file is a full disk for this file alone.
"""

import shutil
import threading
from pathlib import Path

import pytest

from faults.runs import run
from ziggurat.commands.predict import predict
from ziggurat.errors import UserError

FULL = Path("/dev/full")
SHORT = {"train__steps": 1, "train__checkpoint_every": 0, "train__evaluate_every": 0}


def obstruct(folder, name):
    """Make a run's folder in which one file finds no room."""
    path = folder / name
    path.parent.mkdir(parents=True)
    if name == ".weights.safetensors.partial":
        path.mkdir()  # safetensors would put a file in the place of a link
    else:
        path.symlink_to(FULL)


@pytest.mark.parametrize("name", ["config.yaml", "classes.json", "environment.json"])
def test_what_a_run_begins_with(tmp_path, name):
    folder = tmp_path / "run"
    obstruct(folder, f".{name}.partial")
    with pytest.raises(UserError) as caught:
        run(folder, "dp=1", **SHORT)
    assert caught.value.faults == [
        f"{folder / name} cannot be written: no space is left on its disk; make room"
    ]
    assert not (folder / "config.yaml").exists(), "the same command starts it again"


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("plan", "name", "file"),
    [
        ("dp=1", "log.txt", "log.txt"),
        ("dp=1", ".weights.safetensors.partial", "weights.safetensors"),
        ("dp=2", ".weights.safetensors.partial", "weights.safetensors"),
        ("dp=1", "report/.metrics.json.partial", "report/metrics.json"),
    ],
)
def test_what_a_run_ends_with(tmp_path, capfd, plan, name, file):
    """All else is done, and the run says what is missing and where the newest state is; going on writes it."""
    folder = tmp_path / "run"
    obstruct(folder, name)
    with pytest.raises(UserError) as caught:
        run(folder, plan, **SHORT)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{folder / file} cannot be written: ")
    newest = folder / "checkpoints" / "step-1"
    assert fault.endswith(
        f"; the newest state is {newest}: `ziggurat train --out {folder} --resume` writes what is missing"
    )
    assert "evaluation: map " in capfd.readouterr().err
    if plan == "dp=1":
        path = folder / name
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        run(folder, plan, resume=True, **SHORT)
        assert (folder / file).is_file()


def test_checkpoints(tmp_path):
    folder = tmp_path / "run"
    obstruct(folder, "checkpoints")
    with pytest.raises(UserError) as caught:
        run(folder, "dp=2", **SHORT)
    assert caught.value.faults == [
        f"the checkpoint of step 1 could not be written: File exists ({folder / 'checkpoints'}); "
        f"the newest state are the weights in {folder / 'weights.safetensors'}"
    ]


def test_pictures_may_be_missing(tmp_path, capfd):
    folder = tmp_path / "run"
    obstruct(folder, "report/loss.png")
    run(folder, "dp=1", **SHORT | {"train__report": "pictures"})
    missing = folder / "report" / "loss.png"
    said = f"pictures are missing; the first: {missing} cannot be written: no space is left on its disk; make room"
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.endswith(said)]
    assert line.startswith("1 of ")


def test_a_run_whose_folder_is_removed_ends(tmp_path):
    folder = tmp_path / "run"

    def remove():
        while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
            pass
        while folder.exists():  # the run may be writing a file into it
            shutil.rmtree(folder, ignore_errors=True)

    thread = threading.Thread(target=remove)
    thread.start()
    with pytest.raises(UserError) as caught:
        run(folder, "dp=2", train__steps=2000, train__checkpoint_every=0, train__evaluate_every=0)
    thread.join()
    (fault,) = caught.value.faults
    assert "cannot be written: its folder is not there any more" in fault
    assert "the run ends after step" in fault


def test_what_a_prediction_writes(tmp_path, capfd):
    """Results must be there, pictures may be missing."""
    run(tmp_path / "run", "dp=1", **SHORT)
    capfd.readouterr()
    for name in ("predictions.json", "predictions.csv"):
        out = tmp_path / name
        obstruct(out, f".{name}.partial")
        with pytest.raises(UserError) as caught:
            predict(tmp_path / "run", "digits", out, {"plan": "dp=1"})
        assert caught.value.faults == [
            f"{out / name} cannot be written: no space is left on its disk; make room"
        ]
    out = tmp_path / "pictures"
    obstruct(out, "val-000000.png")
    result = predict(tmp_path / "run", "digits", out, {"plan": "dp=1"})
    assert (out / "predictions.json").is_file()
    assert result["images"] == 2
    assert "1 of 2 pictures are missing; the first: " in capfd.readouterr().err
