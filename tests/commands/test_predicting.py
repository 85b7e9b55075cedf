"""`ziggurat predict`: what is given, what comes out, and the exit status."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import ziggurat
from support.small_runs import config_of
from ziggurat.cli.main import main
from ziggurat.errors import UserError
from ziggurat.models.build import build_model
from ziggurat.runs.folder import WEIGHTS, declare_run, start_run_folder
from ziggurat.runs.lock import locked
from ziggurat.tasks.opening import open_dataset

ONE = {"plan": "dp=1", "threads": 1}
TASKS = ["detect", "classify", "segment"]


def make_run(folder, task):
    """Make the folder of a run with random weights."""
    config = config_of(task, **{"decode.score_threshold": 0.0})
    dataset = open_dataset("digits", "val", task, config.data, config.digits)
    start_run_folder(folder, config, dataset)
    declare_run(folder, config)
    torch.manual_seed(3)
    model = build_model(config.model, len(dataset.classes))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    return folder


@pytest.fixture(scope="module", params=TASKS)
def any_run(request, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("any") / "run", request.param)


@pytest.fixture
def detector(tmp_path):
    return make_run(tmp_path / "run", "detect")


@pytest.fixture
def data(tmp_path):
    """A COCO data set of two images, with ids of its own."""
    folder = tmp_path / "data"
    names = ["b.png", "sub/a.png"]
    for number, name in enumerate(names):
        (folder / "val" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "val" / name)
    images = [{"id": id, "file_name": name} for id, name in zip((7, 3), names, strict=True)]
    box = {"id": 1, "image_id": 7, "category_id": 30, "bbox": [1, 1, 9, 9], "area": 81}
    content = {"images": images, "annotations": [box], "categories": [{"id": 30, "name": "4"}]}
    (folder / "val.json").write_text(json.dumps(content))
    return folder


def rows_of(result):
    with open(result["predictions"]) as stream:
        return json.load(stream)


def test_every_task_predicts_a_data_set_by_its_name(any_run, tmp_path):
    result = ziggurat.predict(any_run, "digits", tmp_path / "out", ONE)
    assert (result["images"], result["skipped"], result["split"]) == (3, 0, "val")
    assert sorted({row["image_id"] for row in rows_of(result)}) == [1, 2, 3]
    header = (tmp_path / "out" / "predictions.csv").read_text().splitlines()[0]
    assert header.startswith("image_path,")
    assert "label" in header


@pytest.mark.parametrize("given", ["val.json", "."])
def test_results_of_a_data_set_have_its_ids(detector, data, tmp_path, given):
    split = None if given == "val.json" else "val"
    result = ziggurat.predict(detector, data / given, tmp_path / "out", ONE, split=split)
    rows = rows_of(result)
    assert {(row["file_name"], row["image_id"]) for row in rows} == {("b.png", 7), ("sub/a.png", 3)}
    assert {row["category_id"] for row in rows if row["category"] == "4"} <= {30}


def test_images_are_given_in_every_form(detector, data, tmp_path, capfd):
    folder = data / "val"
    forms = {
        "path": folder, "text": str(folder), "list": [folder / "b.png", str(folder / "sub" / "a.png")],
        "tuple": (folder / "b.png", folder / "sub"), "glob": f"{folder}/**/*.png", "globs": [f"{folder}/*.png", f"{folder}/*/*"],
        "twice": [folder, folder], "upwards": folder / "sub" / "..",
    }  # fmt: skip
    for name, form in forms.items():
        result = ziggurat.predict(str(detector), form, str(tmp_path / name), ONE)
        assert (result["images"], {row["image_id"] for row in rows_of(result)}) == (2, {1, 2}), name
    assert "to keep the ids of an annotation file (val.json)" in capfd.readouterr().err


def test_what_is_no_choice(detector, data, tmp_path):
    cases = [
        ([data / "val.json", data / "val"], None, "a data set is predicted by itself"),
        ([data / "val", data / "val" / "sub"], "val", "a data set is predicted by itself"),
        ("digits", "test", "digits has no test split"),
        (data, "test", "has no test split"),
        (data / "gone.json", None, "there is no file or folder"),
        ([], None, "no images are given"),
    ]
    for images, split, message in cases:
        with pytest.raises(UserError, match=message):
            ziggurat.predict(detector, images, tmp_path / "out", ONE, split=split)
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_the_runs_own_folder_is_numbered(detector, data):
    folders = [ziggurat.predict(detector, data / "val", None, ONE)["pictures"] for _ in range(3)]
    assert folders == [str(detector / name) for name in ("predictions", "predictions-2", "predictions-3")]


def test_the_exit_status_says_that_images_are_missing(detector, data, tmp_path, capfd):
    (data / "val" / "zero.png").touch()
    command = ["predict", str(detector), str(data / "val"), "--plan", "dp=1", "--threads", "1", "--json"]
    assert main([*command, "--out", str(tmp_path / "a")]) == 2
    said = capfd.readouterr()
    assert "zero.png" in said.err
    assert "data.on_error=skip" in said.err
    assert main([*command, "--out", str(tmp_path / "b"), "--set", "data.on_error=skip"]) == 1
    said = capfd.readouterr()
    result = json.loads(said.out)
    assert (result["images"], result["skipped"]) == (2, 1)
    assert "ziggurat: left out: " in said.err
    (data / "val" / "zero.png").unlink()
    assert main([*command, "--out", str(tmp_path / "b"), "--overwrite", "--set", "data.on_error=skip"]) == 0
    assert not (tmp_path / "b" / "skipped.jsonl").exists()
    assert main([*command, "--out", str(tmp_path / "b")]) == 2
    assert "--overwrite" in capfd.readouterr().err


def test_only_chosen_classes_count(detector, data, tmp_path):
    """Those of others take no place: what is left is what all are, as long as no limit cuts."""
    settings = ONE | {"decode.candidates": 10_000, "decode.max_detections": 10_000}
    every = rows_of(ziggurat.predict(detector, data / "val", tmp_path / "all", settings))
    names = sorted({row["category"] for row in every})
    assert len(names) > 3
    result = ziggurat.predict(detector, data / "val", tmp_path / "two", settings, classes=names[:2])
    assert rows_of(result) == [row for row in every if row["category"] in names[:2]]
    limited = ziggurat.predict(
        detector, data / "val", tmp_path / "few", ONE | {"decode.max_detections": 5}, classes=names[:1]
    )
    assert limited["detections"] == 10, "the limit is of what counts"
    with pytest.raises(UserError, match=r"--classes names classes of the run: oak is none"):
        ziggurat.predict(detector, data / "val", tmp_path / "none", ONE, classes=["oak", names[0]])


def test_segmenters_have_no_objects_to_choose(data, tmp_path):
    run = make_run(tmp_path / "masks", "segment")
    with pytest.raises(UserError, match="--classes chooses among objects"):
        ziggurat.predict(run, data / "val", tmp_path / "out", ONE, classes=["4"])


def test_images_are_given_by_lists(detector, data, tmp_path, monkeypatch, capfd):
    folder = data / "val"
    (folder / "list.TXT").write_text(f"b.png\n\n{folder}/sub/a.png\r\n")
    result = ziggurat.predict(detector, folder / "list.TXT", tmp_path / "a", ONE)
    assert [row["file_name"] for row in rows_of(result)][:1] == [f"{folder}/b.png"]
    assert result["images"] == 2
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{folder}/sub\n".encode())))
    command = [
        "predict",
        str(detector),
        "-",
        "--plan",
        "dp=1",
        "--threads",
        "1",
        "--json",
        "--out",
        str(tmp_path / "b"),
    ]
    assert main([*command, "--crop", "32", "--overlap", "0.5", "--pictures", "none"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (result["images"], result["exact"], result["passes"], result["resumed"]) == (1, False, 1, False)
    assert result["megapixels_per_second"] > 0
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["predictions.csv", "predictions.json"]
    (folder / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="names no image"):
        ziggurat.predict(detector, folder / "empty.txt", tmp_path / "c", ONE)


def test_what_has_not_ended_is_no_image_and_goes_on(detector, data, monkeypatch):
    """In the run's own folder, and in the folder of the images."""
    for out in (None, data / "val" / "found"):
        with monkeypatch.context() as patch:
            patch.setattr("ziggurat.inference.predict.write_rows", lambda *given: 1 / 0)
            with pytest.raises(Exception, match="division"):
                ziggurat.predict(detector, data / "val", out, ONE)
        result = ziggurat.predict(detector, data / "val", out, ONE, resume=True)
        assert (result["images"], result["resumed"]) == (2, True)
        assert result["pictures"] == str(out or detector / "predictions")


def test_two_predictions_are_never_in_one_folder(detector, data, tmp_path):
    with locked(tmp_path / "out"), pytest.raises(UserError, match="is in use by process"):
        ziggurat.predict(detector, data / "val", tmp_path / "out", ONE, resume=True)
    assert ziggurat.predict(detector, data / "val", tmp_path / "out", ONE, resume=True)["images"] == 2


@pytest.mark.parametrize(("pictures", "are_said"), [("none", False), ("overview", True)])
def test_only_pictures_that_are_drawn_are_said(detector, data, tmp_path, capfd, pictures, are_said):
    words = ["predict", str(detector), str(data / "val" / "b.png"), "--plan", "dp=1", "--threads", "1"]
    assert main([*words, "--pictures", pictures, "--out", str(tmp_path / "out")]) == 0
    assert ("pictures: " in capfd.readouterr().out) is are_said
