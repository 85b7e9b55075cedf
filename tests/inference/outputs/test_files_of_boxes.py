"""Boxes as YOLO's texts, crops and QuPath's detections."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from support.georeferenced import GROUNDS, SCENES, planted, predict, write_scene
from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.formats.opening import open_split
from ziggurat.visualize.colors import class_color


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    images = [write_scene(folder / "north.tif", GROUNDS["north"]), write_scene(folder / "plain.png", None, 1)]
    result = predict(images, folder / "out", ("yolo", "crops", "qupath"))
    assert [path.removeprefix(f"{folder}/out/") for path in result["files"]] == [
        "labels",
        "classes.txt",
        "crops",
        "qupath",
    ]
    return folder / "out"


def test_yolo_is_read_as_a_data_set(found, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").symlink_to(found / "labels")
    (tmp_path / "classes.txt").symlink_to(found / "classes.txt")
    for name in ("north.tif", "plain.png"):
        (tmp_path / "images" / name).symlink_to(found.parent / name)
    dataset = open_split(str(tmp_path), "train", ("boxes",), DataConfig(), DigitsConfig())
    assert dataset.classes == SCENES.classes
    for scene in range(2):
        objects = dataset.objects(scene)
        boxes = objects.boxes_xyxy.double().round(decimals=3).tolist()
        assert {(*box, label) for box, label in zip(boxes, objects.labels.tolist(), strict=True)} == planted(
            scene
        )


def test_crops_are_the_pixels_of_boxes(found):
    rows = json.loads((found / "predictions.json").read_text())
    pixels = [SCENES.image(scene).permute(1, 2, 0).numpy() for scene in range(2)]
    crops = list((found / "crops").rglob("*.png"))
    assert len(crops) == len(rows)
    for scene, stem in enumerate(("north", "plain")):
        mine = [row for row in rows if row["image_id"] == scene + 1]
        for number, row in enumerate(mine, 1):
            x, y, width, height = map(int, row["bbox"])
            crop = np.asarray(Image.open(found / "crops" / row["category"] / f"{stem}_{number}.png"))
            assert (crop == pixels[scene][y : y + height, x : x + width]).all()


def test_qupath_has_detections_in_pixels(found):
    for scene, stem in enumerate(("north", "plain")):
        content = json.loads((found / "qupath" / f"{stem}.geojson").read_text())
        boxes = set()
        for one in content["features"]:
            corners = np.array(one["geometry"]["coordinates"][0])
            said = one["properties"]["classification"]
            label = SCENES.classes.index(said["name"])
            assert (one["type"], one["properties"]["objectType"]) == ("Feature", "detection")
            assert tuple(said["color"]) == class_color(label)
            assert 0 < one["properties"]["measurements"]["score"] <= 1
            boxes.add((*corners.min(axis=0), *corners.max(axis=0), label))
        assert boxes == planted(scene)
