"""Where a run's data lie: found from any folder, asked for where they have moved, by runs of earlier versions, too."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.small_runs import config_of
from ziggurat.cli.main import main
from ziggurat.config import RunConfig, load_config, override, save_config
from ziggurat.runs.folder import data_as_begun, load_run, lost_places, with_places


def make_home(home, settings):
    """Write a data set, ``home/data``, and begin a run of it, ``home/run``, from within the data set or beside it."""
    data = home / "data"
    for split in ("train", "val"):
        (data / split).mkdir(parents=True)
        for name in "ab":
            Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(data / split / f"{name}.png")
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 30, 30]}
        images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate("ab", start=1)]
        content = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "tree"}]}
        (data / f"{split}.json").write_text(json.dumps(content))
    save_config(config_of("detect", **settings), home / "own.yaml")


PLAN = ["--plan", "dp=1", "--threads", "1"]
LATER = ["train", "--resume", "--steps", "3", *PLAN, "--out"]
GIVEN = {  # from which folder, and how the run names its data there
    "beside": (".", {"data.path": "data"}),
    "within": ("data", {"data.path": "."}),
    "below": ("data/train", {"data.path": "../train.json", "data.val": "../val.json"}),
}


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """Of each case the folder in which a run of two steps has ended; nothing of it is changed."""
    root = tmp_path_factory.mktemp("homes")
    before = os.getcwd()
    for case, (start, settings) in GIVEN.items():
        make_home(root / case, settings)
        os.chdir(root / case / start)
        try:
            words = ["--config", str(root / case / "own.yaml"), "--out", str(root / case / "run"), *PLAN]
            assert main(["train", *words]) == 0
        finally:
            os.chdir(before)
    return root


def as_earlier(run, settings):
    """Let a run have the config of an earlier version, with paths as they were given."""
    config = load_config(run / "config.yaml")
    save_config(override(config, settings), run / "config.yaml")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", GIVEN)
@pytest.mark.parametrize("version", ["now", "earlier"])
def test_a_run_goes_on_from_any_folder(homes, tmp_path, monkeypatch, capfd, case, version):
    """Its config has absolute paths; those of a run of an earlier version begin in the folder that it was started in."""
    run = tmp_path / "run"
    shutil.copytree(homes / case / "run", run)
    stored = load_config(run / "config.yaml").data
    assert Path(stored.path).is_absolute()
    assert not stored.val or Path(stored.val).is_absolute()
    if version == "earlier":
        as_earlier(run, GIVEN[case][1])
    monkeypatch.chdir(tmp_path)
    assert main([*LATER, "run"]) == 0
    said = capfd.readouterr().err
    assert ("is taken from the folder that the run was started in" in said) is (version == "earlier")
    assert load_run(run).classes == ("tree",)
    again = load_config(run / "config.yaml").data
    assert Path(again.path).resolve() == Path(stored.path).resolve()


def test_data_that_have_moved(homes, tmp_path, monkeypatch, capfd):
    """With the folder that the run was started in they are found; else it is asked where they are, before anything begins."""
    home = tmp_path / "old"
    shutil.copytree(homes / "beside", home)
    facts = json.loads((home / "run" / "environment.json").read_text())
    (home / "run" / "environment.json").write_text(json.dumps(facts | {"folder": str(home)}))
    as_earlier(home / "run", {"data.path": str(home / "data")})
    new = home.rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    config = (new / "run" / "config.yaml").read_bytes()
    assert main([*LATER, "new/run"]) == 2
    said = capfd.readouterr().err
    assert f"data.path={home / 'data'} is not there any more" in said
    assert (new / "run" / "config.yaml").read_bytes() == config
    shutil.copytree(new / "run", tmp_path / "other")
    assert main(["train", str(new / "data"), *LATER[1:], "other"]) == 0
    monkeypatch.chdir(new)
    assert main([*LATER, "run"]) == 0
    assert f"it is taken from the present folder, {new / 'data'}" in capfd.readouterr().err
    assert load_config(new / "run" / "config.yaml").data.path == str(new / "data")


def test_names_of_data_sets_are_no_paths(tmp_path, monkeypatch):
    """A folder that is called as a data set of ours does not become it."""
    for name in ("digits", "own:mine"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "own:mine"):
        config = override(RunConfig(), {"data.path": name, "data.val": name})
        assert with_places(config) == config
        (tmp_path / "environment.json").write_text(json.dumps({"folder": str(tmp_path)}))
        assert data_as_begun(config, tmp_path) == (config, [])
        assert lost_places(config) == []


def test_a_folder_of_images_is_stored_as_it_is_found(homes, tmp_path, monkeypatch):
    """It is part of what defines a run: it goes on from elsewhere as the same run."""
    monkeypatch.chdir(homes / "beside")
    settings = {"data.path": "data/train.json", "data.val": "data/val.json", "data.images": "data/train"}
    save_config(config_of("detect", **settings), tmp_path / "own.yaml")
    assert main(["train", "--config", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "run"), *PLAN]) == 0
    monkeypatch.chdir(tmp_path)
    assert load_config(tmp_path / "run" / "config.yaml").data.images == str(
        homes / "beside" / "data" / "train"
    )
    assert main([*LATER, "run"]) == 0
