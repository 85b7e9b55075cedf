"""With ``data.gsd`` and ``data.mpp`` the network sees objects of the same size, whatever their images' resolution is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import Affine

from support.commands import run, sets
from support.datasets import write_text
from support.georeferenced import CONFIG as FINDING
from support.georeferenced import GROUNDS, planted, predict, write_scene
from support.small_runs import SMALL, TASKS
from ziggurat.cli.main import main
from ziggurat.commands.check import check
from ziggurat.config import DataConfig, DigitsConfig, RunConfig, load_config, override, range_faults
from ziggurat.data.batch import SampleId
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.formats import headers
from ziggurat.data.readers.spacing import Scaling
from ziggurat.data.samples import TrainingSamples
from ziggurat.data.views import make_view
from ziggurat.errors import UserError
from ziggurat.inference.asked import ask_for_dataset, ask_for_files
from ziggurat.inference.given import GivenImages
from ziggurat.inference.reading import RegionReader
from ziggurat.tasks.detection.targets import ObjectKind
from ziggurat.tasks.opening import open_dataset

CONFIG = DataConfig(crop=96, gsd=0.2, scale_min=1, scale_max=1, flip="none", min_visible=0, cache_bytes=0)
SIDE = 3.0  # metres of a planted object
GROUND = 18.0  # metres of an image
PLACES = [(2.0, 3.0), (9.0, 12.0), (13.0, 4.0)]  # metres from the left and from above


def write_mosaic(path: Path, columns: float, rows: float | None = None) -> list[list[float]]:
    """Write an image of 18 m x 18 m with three bright squares of 3 m, and return their boxes in its pixels."""
    rows = columns if rows is None else rows
    extent = round(GROUND / rows), round(GROUND / columns)
    pixels = np.full((3, *extent), 20, np.uint8)
    boxes = []
    for left, top in PLACES:
        box = [left / columns, top / rows, (left + SIDE) / columns, (top + SIDE) / rows]
        x1, y1, x2, y2 = map(round, box)
        pixels[:, y1:y2, x1:x2] = 230
        boxes.append([x1, y1, x2, y2])
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=extent[0], width=extent[1], dtype="uint8", photometric="rgb",
        crs="EPSG:32632", transform=Affine(columns, 0, 500000, 0, -rows, 5600000), tiled=True, blockxsize=16, blockysize=16,
    ) as file:  # fmt: skip
        file.write(pixels)
    return boxes


@pytest.fixture
def mosaics(tmp_path) -> Path:
    """A set of an image of 0.1 m, of one of 0.3 m, and of one whose pixels are longer than wide."""
    lines = ["image_path,xmin,ymin,xmax,ymax,label"]
    for name, sides in {"fine": (0.1,), "coarse": (0.3,), "oblong": (0.1, 0.3)}.items():
        for box in write_mosaic(tmp_path / f"{name}.tif", *sides):
            lines.append(f"{name}.tif,{','.join(map(str, box))},crown")
    return write_text(tmp_path / "crowns.csv", "\n".join(lines) + "\n")


def opened(path: Path, config: DataConfig = CONFIG):
    return open_dataset(str(path), "train", "detect", config, DigitsConfig())


def test_training_sees_objects_of_one_size(mosaics):
    dataset = opened(mosaics)
    assert [dataset.record(index).spacing for index in range(3)] == [(0.1, 0.1), (0.3, 0.3), (0.3, 0.1)]
    samples = TrainingSamples(dataset, ObjectKind(), CONFIG, seed=1)
    assert len(samples) == 3
    for number in range(3):
        sample = samples.sample(SampleId(0, number))
        sizes = sample.target.boxes_xyxy[:, 2:] - sample.target.boxes_xyxy[:, :2]
        torch.testing.assert_close(sizes, torch.full((3, 2), SIDE / 0.2), rtol=0.04, atol=0)
        bright = sample.image_CHW[0] > 125
        for x1, y1, x2, y2 in sample.target.boxes_xyxy.round().int().tolist():
            assert bright[y1:y2, x1:x2].float().mean() > 0.85, "pixels lie where the boxes are"
            assert not bright[max(y1 - 3, 0), x1:x2].any()
    boxes = [dataset.objects(index).boxes_xyxy for index in (0, 1)]
    widths = [float((one[:, 2] - one[:, 0]).mean()) for one in boxes]
    assert widths == [30, 10], "in their own pixels they differ threefold"


def test_the_network_sees_one_size_in_prediction(mosaics):
    images = ask_for_files([mosaics.parent], (1,), CONFIG).images
    views = [make_view(images.record(index), CONFIG) for index in range(3)]
    assert {view.extent for view in views} == {(90, 90)}
    reader = RegionReader(images, views)
    seen = [reader.read(index, view.tiles[0]) for index, view in enumerate(views)]
    for other in seen[1:]:
        assert (seen[0] - other).abs().median() < 1
        assert ((seen[0][0] > 125) == (other[0] > 125)).float().mean() > 0.97
    assert ask_for_dataset(opened(mosaics), CONFIG).images.record(1).spacing == (0.3, 0.3)
    given = GivenImages.of([mosaics.parent / "coarse.tif"], CONFIG)
    assert make_view(given.record(0), CONFIG).extent == (90, 90)


def test_views_are_whole_numbers():
    record = ImageRecord("a.tif", 1, 100, 300, spacing=(0.3, 0.1))  # 0.3 / 0.1 is 2.9999999999999996
    assert make_view(record, DataConfig(gsd=0.1, crop=512)).extent == (300, 300)
    same = ImageRecord("a.tif", 1, 333, 777, spacing=(0.1 + 1e-9, 0.1 - 1e-9))
    assert make_view(same, DataConfig(gsd=0.1, crop=4096)).extent == same.extent


def test_headers_are_read_only_where_a_setting_asks(mosaics, monkeypatch):
    def refused(self, path):
        raise AssertionError("nobody has asked")

    monkeypatch.setattr(Scaling, "spacing", refused)
    assert opened(mosaics, replace(CONFIG, gsd=0)).record(0).spacing is None
    with pytest.raises(AssertionError):
        opened(mosaics)


def test_images_without_resolution_are_refused_together(mosaics, tmp_path):
    for name in ("plain", "other"):
        Image.new("RGB", (60, 60)).save(tmp_path / f"{name}.png")
    with mosaics.open("a") as file:
        file.write("plain.png,3,3,20,20,crown\nother.png,3,3,20,20,crown\n")
    with pytest.raises(UserError) as caught:
        opened(mosaics)
    told = "\n".join(caught.value.faults)
    assert "plain.png" in told
    assert "other.png" in told
    assert told.count("data.unscaled=keep") == 2
    assert "data.on_error=skip" in told
    with pytest.raises(UserError) as caught:
        ask_for_files([tmp_path], (1,), CONFIG)
    assert len(caught.value.faults) == 1, "one message of all images"
    assert "2 images have no resolution for data.gsd=0.2" in str(caught.value)
    assert "no georeference; --set data.unscaled=keep" in str(caught.value)
    for given in ([tmp_path / "plain.png"], [np.zeros((9, 9, 3), np.uint8)]):
        with pytest.raises(UserError, match="no resolution"):
            GivenImages.of(given, CONFIG)
    found = check(str(mosaics), DataConfig(gsd=0.2))
    assert [fault["fault"].partition(":")[0] for fault in found["faults"]] == [
        "no resolution for data.gsd=0.2"
    ] * 2


def test_images_without_resolution_are_left_out_or_kept(mosaics, tmp_path):
    Image.new("RGB", (60, 70)).save(tmp_path / "plain.png")
    with mosaics.open("a") as file:
        file.write("plain.png,3,3,20,20,crown\n")
    skipping, keeping = replace(CONFIG, on_error="skip"), replace(CONFIG, unscaled="keep")
    assert len(opened(mosaics, skipping)) == 3
    asked = ask_for_files([tmp_path], (1,), skipping)
    assert len(asked.images) == 3
    assert list(asked.spoiled) == [(tmp_path / "plain.png").as_posix()]
    dataset = opened(mosaics, keeping)
    record = dataset.record(3)
    assert (record.name, record.spacing) == ("plain.png", None)
    assert make_view(record, keeping).extent == (70, 60)
    assert any("data.unscaled=keep" in note and "plain.png" in note for note in dataset.notes)
    asked = ask_for_files([tmp_path], (1,), keeping)
    assert len(asked.images) == 4
    assert [asked.images.record(index).spacing is None for index in range(4)] == [False, False, False, True]
    assert len(asked.notes) == 1
    assert len(GivenImages.of([np.zeros((9, 9, 3), np.uint8)], keeping)) == 1


def test_lying_photos_keep_their_rows_and_columns(tmp_path, monkeypatch):
    """An image that is taken as it lies in its file has the spacing of rows that are columns when it is shown."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.jpg", exif=exif)
    write_text(tmp_path / "a.csv", "image_path,xmin,ymin,xmax,ymax,label\na.jpg,1,1,30,20,x\n")
    monkeypatch.setattr(headers.Scaling, "spacing", lambda self, path: (0.1, 0.3))
    for exif_setting, expected in (("upright", (0.1, 0.3)), ("stored", (0.3, 0.1))):
        dataset = opened(tmp_path / "a.csv", replace(CONFIG, exif=exif_setting))
        assert dataset.record(0).spacing == expected


def test_digits_have_no_resolution():
    with pytest.raises(UserError, match="those of digits do not"):
        opened(Path("digits"))


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"data.gsd": 0.2, "data.mpp": 0.5}, "data.gsd and data.mpp"), ({"data.gsd": 0.2, "data.resize": 300}, "data.gsd and data.resize"),
     ({"data.mpp": 0.5, "data.resize": 300}, "data.mpp and data.resize"), ({"data.gsd": -1.0}, "data.gsd must be 0, or from 0.0001")],
)  # fmt: skip
def test_settings_that_contradict_each_other(settings, named):
    (fault,) = range_faults(override(RunConfig(), settings))
    assert fault.startswith(named)


@pytest.mark.parametrize(("own", "gsd"), [("north", 0.05), ("turned", 0.1)])
def test_what_is_found_lies_in_the_pixels_of_the_image(tmp_path, own, gsd):
    """Squares that are seen twice as large are found where they were planted."""
    path = write_scene(tmp_path / "a.tif", GROUNDS[own])
    config = replace(FINDING, data=replace(FINDING.data, gsd=gsd, crop=256))
    predict([path], tmp_path / "out", ("csv",), config=config)
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    found = sorted((x, y, x + width, y + height) for x, y, width, height in (row["bbox"] for row in rows))
    expected = sorted(tuple(box[:4]) for box in planted())
    assert len(found) == len(expected) > 10
    assert np.abs(np.array(found) - np.array(expected)).max() < 0.6


def test_one_equals_many_and_predicts_in_the_pixels_of_the_image(mosaics, tmp_path, capfd):
    settings = (
        SMALL | TASKS["detect"] | {"data.crop": 64, "data.scale_min": 0.4, "decode.score_threshold": 0.0}
    )
    del settings["data.path"]
    told = {}
    for plan in ("dp=1", "dp=2"):
        told[plan] = run(
            capfd,
            "train",
            mosaics,
            "--plan",
            plan,
            "--out",
            tmp_path / plan,
            "--json",
            *sets(settings, plan=plan),
            "--set",
            "data.gsd=0.2",
        )
    assert told["dp=1"]["weights_sha256"] == told["dp=2"]["weights_sha256"]
    config = load_config(tmp_path / "dp=1" / "config.yaml")
    assert config.data.gsd == 0.2, "the run remembers it"
    rows = {}
    for plan in ("dp=1", "dp=2"):
        out = tmp_path / f"found-{plan}"
        main(
            [
                "predict",
                str(tmp_path / "dp=1"),
                str(mosaics.parent / "fine.tif"),
                "--plan",
                plan,
                "--out",
                str(out),
                "--quiet",
            ]
        )
        rows[plan] = json.loads((out / "predictions.json").read_text())
    assert rows["dp=1"] == rows["dp=2"]
    right = max(left + width for left, _, width, _ in (row["bbox"] for row in rows["dp=1"]))
    assert 90 < right <= 180, "boxes are in pixels of 0.1 m"
