"""Prediction on the user's files."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.fake_detector import BrightSquares, FindSquares, Squares
from support.ranks import run_ranks
from ziggurat.config import DataConfig, DecodeConfig, RunConfig
from ziggurat.data.readers.image_files import expand_paths, picture_names, picture_suffix
from ziggurat.errors import UserError
from ziggurat.inference.predict import predict_files
from ziggurat.inference.predictor import Predictor
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh

CONFIG = RunConfig(
    dtype="fp32", data=DataConfig(crop=64, tile_overlap=0.5), decode=DecodeConfig(max_detections=200)
)
SCENES = Squares([(64, 64), (120, 170), (50, 40)])


def save(path, scene):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(SCENES.image(scene).permute(1, 2, 0).numpy()).save(path)


@pytest.fixture
def folder(tmp_path):
    for scene, name in enumerate(["img10.png", "img9.PNG", "sub/img9.tiff"]):
        save(tmp_path / "in" / name, scene)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path / "in"


def predict(workers, paths, out, config=CONFIG):
    mesh = make_mesh(workers)
    predictor = Predictor.of_model(BrightSquares(), config, mesh, SCENES.classes, FindSquares(config))
    return predict_files(predictor, SCENES.category_ids, paths, out)


def names(paths):
    return [path.name for path in expand_paths([str(path) for path in paths])]


def test_results_are_as_coco_has_them(folder, tmp_path):
    result = predict(Workers(), [str(folder / "img10.png"), str(folder / "img9.PNG")], tmp_path / "out")
    assert (result["images"], result["predictions"]) == (2, str(tmp_path / "out" / "predictions.json"))
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert result["detections"] == len(rows)
    for image, scene in ((1, 0), (2, 1)):
        objects = SCENES.objects(scene)
        mine = [row for row in rows if row["image_id"] == image]
        assert {row["file_name"] for row in mine} == {(folder / ["img10.png", "img9.PNG"][scene]).as_posix()}
        expected = [
            ([x1, y1, x2 - x1, y2 - y1], label)
            for (x1, y1, x2, y2), label in zip(
                objects.boxes_xyxy.tolist(), objects.labels.tolist(), strict=True
            )
        ]
        found = [(row["bbox"], SCENES.category_ids.index(row["category_id"])) for row in mine]
        assert sorted(found) == sorted(expected)
        assert all(
            row["category"] == SCENES.classes[SCENES.category_ids.index(row["category_id"])] for row in mine
        )
        assert all(np.float32(row["score"]) == row["score"] or len(str(row["score"])) < 12 for row in mine)


def test_what_a_limit_cuts_off_is_counted_and_said(folder, tmp_path):
    config = dataclasses.replace(CONFIG, decode=DecodeConfig(max_detections=5))
    result = predict(Workers(), [str(folder / "img10.png")], tmp_path / "out", config)
    assert (result["detections"], result["truncated"]) == (5, len(SCENES.objects(0)) - 5)
    assert any("decode.max_detections has cut off" in note for note in result["notes"])
    result = predict(Workers(), [str(folder / "img10.png")], tmp_path / "whole")
    assert (result["detections"], result["truncated"], result["notes"]) == (len(SCENES.objects(0)), 0, [])


def test_a_picture_is_written_of_every_image(folder, tmp_path):
    result = predict(Workers(), [str(folder / "**/*")], tmp_path / "out")
    assert result["pictures"] == str(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "img10.png", "img9.png", "predictions.csv", "predictions.json", "sub_img9.png",
    ]  # fmt: skip
    picture = np.asarray(Image.open(tmp_path / "out" / "img9.png"))
    height, width, _ = picture.shape
    assert (height >= 240, width) == (True, 340), "a small image is enlarged, and may have a legend"


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_files_on_any_number_of_workers(folder, tmp_path):
    paths = [str(folder / "**/*")]
    for world in (1, 2, 3):
        run_ranks(predict, world, (paths, tmp_path / str(world)))
    assert len(files_of(tmp_path / "1")) == 5
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2") == files_of(tmp_path / "3")


def test_folders_globs_and_files(folder):
    assert names([folder]) == ["img9.PNG", "img10.png", "img9.tiff"]
    assert names([folder / "**/*"]) == ["img9.PNG", "img10.png", "img9.tiff"]
    assert names([folder / "img?.*"]) == ["img9.PNG"]
    assert names([folder / "img10.png", folder, folder / "sub" / ".." / "img10.png"]) == [
        "img10.png",
        "img9.PNG",
        "img9.tiff",
    ]
    assert names([folder / "notes.txt"]) == ["notes.txt"]  # named by the user: decoding it will tell


def test_a_file_with_the_letters_of_a_glob_in_its_name(tmp_path):
    save(tmp_path / "a[1].png", 0)
    assert names([tmp_path / "a[1].png"]) == ["a[1].png"]


def test_every_path_without_images_is_listed(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        expand_paths([str(tmp_path / "empty"), str(folder), str(folder / "*.gif"), str(folder / "x.png")])
    first, second, third = caught.value.faults
    assert "holds no images" in first
    assert "no image matches" in second
    assert "there is no file or folder" in third
    with pytest.raises(UserError, match="no images are given"):
        expand_paths([])


def faults_of(workers, paths, out):
    with pytest.raises(UserError) as caught:
        predict(workers, paths, out)
    return caught.value.faults


@pytest.mark.parametrize("world", [1, 2])
def test_every_corrupt_image_is_listed_on_every_worker(folder, tmp_path, world):
    (folder / "bad1.png").write_bytes(b"")
    (folder / "bad2.jpg").write_bytes(b"\xff\xd8 no picture")
    results = run_ranks(faults_of, world, ([str(folder)], tmp_path / "out"))
    assert all(faults == results[0] for faults in results)
    assert [name in fault for name, fault in zip(["bad1.png", "bad2.jpg"], results[0], strict=True)] == [
        True,
        True,
    ]
    for name in ("bad1.png", "bad2.jpg"):
        (folder / name).unlink()
    for name in ("img9.PNG", "img10.png"):  # headers are sound, pixels are missing
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    results = run_ranks(faults_of, world, ([str(folder)], tmp_path / "out"))
    assert all(faults == results[0] for faults in results)
    assert [name in fault for name, fault in zip(["img9.PNG", "img10.png"], results[0], strict=True)] == [
        True,
        True,
    ]
    assert not (tmp_path / "out" / "predictions.json").exists()


TOLERANT = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, on_error="skip"))


def spoil(folder):
    """Spoil images in every way: no bytes, another content, half of the pixels, a folder's name, a name without a file."""
    whole = (folder / "img9.PNG").read_bytes()
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture")
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "head.png").write_bytes(whole[:30])
    (folder / "sub" / "half.png").write_bytes(whole[: len(whole) - 200])
    (folder / "link.png").symlink_to(folder / "gone.png")
    return {"empty.png", "text.jpg", "half.png", "head.png", "sub/half.png", "link.png"}


def predict_the_others(workers, folder, out):
    return predict(workers, [str(folder)], out / str(workers.size), TOLERANT)


def test_sound_images_are_predicted_without_those_that_are_not(folder, tmp_path):
    predict(Workers(), [str(folder)], tmp_path / "sound")
    bad = spoil(folder)
    for world in (1, 2, 3):
        for result in run_ranks(predict_the_others, world, (folder, tmp_path)):
            assert (result["images"], result["skipped"]) == (3, len(bad))
            assert {str(Path(name).relative_to(folder)) for name in result["faults"]} == bad
    one, two, three = (files_of(tmp_path / str(world)) for world in (1, 2, 3))
    assert one == two == three
    lines = [json.loads(line) for line in one.pop("skipped.jsonl").decode().splitlines()]
    assert {str(Path(line["file"]).relative_to(folder)) for line in lines} == bad
    assert all(line["fault"] for line in lines)
    rows = [json.loads((tmp_path / out / "predictions.json").read_text()) for out in ("sound", "1")]
    boxes = [[(row["file_name"], row["bbox"]) for row in some] for some in rows]
    assert boxes[0] == boxes[1], "what is found elsewhere does not change"


def test_an_error_says_how_the_others_are_predicted(folder, tmp_path):
    spoil(folder)
    for names in (["empty.png", "img9.PNG"], ["half.png", "img9.PNG"]):
        with pytest.raises(UserError, match=r"data\.on_error=skip"):
            predict(Workers(), [str(folder / name) for name in names], tmp_path / "out")
    with pytest.raises(UserError, match="none of the images can be decoded"):
        predict(Workers(), [str(folder / "empty.png"), str(folder / "half.png")], tmp_path / "out", TOLERANT)


def test_names_that_are_the_same_in_several_folders(tmp_path):
    for name in ("1.png", "a/1.png", "a/b/1.png", "a_b/1.png", "a/b_1.png", "A/1.PNG"):
        save(tmp_path / "in" / name, 2)
    result = predict(Workers(), [str(tmp_path / "in")], tmp_path / "out")
    pictures = [path for path in (tmp_path / "out").iterdir() if path.suffix == ".png"]
    assert result["images"] == len(pictures) == 6
    with (tmp_path / "out" / "predictions.csv").open(newline="") as stream:
        found = {row["image_path"] for row in csv.DictReader(stream)}
    assert {str(Path(name).relative_to(tmp_path / "in")) for name in found} == {
        "1.png", "a/1.png", "a/b/1.png", "a_b/1.png", "a/b_1.png", "A/1.PNG",
    }  # fmt: skip


def test_what_was_written_before_is_no_image_and_stays(folder, tmp_path):
    first = predict(Workers(), [str(folder)], folder / "out")
    before = files_of(folder / "out")
    again = predict(Workers(), [str(folder)], tmp_path / "again")
    assert again["images"] == first["images"] == 3
    assert [note for note in again["notes"] if "out is passed over" in note]
    with pytest.raises(UserError, match="holds predictions already"):
        predict(Workers(), [str(folder / "img10.png")], folder / "out")
    assert files_of(folder / "out") == before
    mesh = make_mesh(Workers())
    predictor = Predictor.of_model(BrightSquares(), CONFIG, mesh, SCENES.classes, FindSquares(CONFIG))
    ids = SCENES.category_ids
    replaced = predict_files(predictor, ids, [folder / "img10.png"], folder / "out", overwrite=True)
    assert replaced["images"] == 1
    assert expand_paths([str(folder / "out" / "img9.png")]), "what is named is taken"


def test_no_image_is_overwritten(folder):
    before = files_of(folder / "sub")
    save(folder / "sub" / "b.png", 0)
    with pytest.raises(UserError, match="would overwrite"):
        predict(Workers(), [str(folder / "sub")], folder / "sub")
    assert before.items() <= files_of(folder / "sub").items()


def test_a_folder_that_cannot_be_written(folder):
    with pytest.raises(UserError, match="choose another --out"):
        predict(Workers(), [str(folder)], folder / "notes.txt")


def test_too_large_an_image_is_refused_before_it_is_decoded(folder, tmp_path):
    config = RunConfig(data=DataConfig(max_pixels=120 * 170 - 1))
    with pytest.raises(UserError, match="max_pixels"):
        predict(Workers(), [str(folder)], tmp_path / "out", config)


def test_an_image_without_objects(tmp_path):
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "a.png")
    predict(Workers(), [str(tmp_path / "a.png")], tmp_path / "out")
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []
    assert (tmp_path / "out" / "a.png").is_file()


def test_names_of_pictures_do_not_clash(tmp_path):
    paths = [tmp_path / name for name in ("a/x.png", "b/X.jpg", "b/x.tif", "a/b_x.png", "y.bmp")]
    found = picture_names(paths, [(9, 9)] * 5)
    assert found == ["a_x.png", "b_X.png", "b_x-2.png", "b_x-3.png", "y.png"]


def test_formats_of_pictures():
    assert picture_suffix(1000, 1000) == ".png"
    assert picture_suffix(2000, 1000) == ".jpg"
    assert picture_suffix(70000, 1000) == ".png"
