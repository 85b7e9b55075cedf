"""Probabilities of all classes: those of the network at each pixel, whatever the tiles, workers and kills."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rio_cogeo.cogeo import cog_validate
from torch import nn

from support.georeferenced import CONFIG as SQUARES
from support.georeferenced import GROUNDS
from support.georeferenced import predict as predict_squares
from support.killed_predictions import WRITE, files_of
from support.ranks import run_ranks
from ziggurat.config import DataConfig, ModelConfig, RunConfig
from ziggurat.errors import UserError
from ziggurat.inference import journal, tiles
from ziggurat.inference.outputs import probabilities
from ziggurat.inference.outputs.label_files import open_labels
from ziggurat.inference.predict import predict_files
from ziggurat.inference.predictor import Predictor
from ziggurat.models.build import build_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.tasks.classification.task import ClassificationTask
from ziggurat.tasks.segmentation import probabilities as sheets_of_tiles
from ziggurat.tasks.segmentation.task import SegmentationTask

CLASSES = ("background", "oak / young", "pine")
GROUND = GROUNDS["north"]
EXTENT = (150, 170)
CONFIG = RunConfig(task="segment", dtype="fp32", data=DataConfig(crop=64, tile_overlap=0.25))


class Colours(nn.Module):
    """Each pixel's logits are its colours: what tiles show is what the whole image shows."""

    task = "segment"
    size_multiple = 32
    mean = (0.0, 0.0, 0.0)
    std = (0.25, 0.25, 0.25)
    num_classes = 3
    level_names = ()

    def forward(self, images_BCHW):
        return {"logits": images_BCHW}


class MeanColours(Colours):
    """An image's logits are its mean colours."""

    task = "classify"

    def forward(self, images_BCHW):
        return {"logits": images_BCHW.mean(dim=(2, 3))}


def predict(workers, paths, out, formats=("mask", "probabilities"), config=CONFIG, **options):
    model, task = (
        (Colours(), SegmentationTask) if config.task == "segment" else (MeanColours(), ClassificationTask)
    )
    predictor = Predictor.of_model(model, config, make_mesh(workers), CLASSES, task(model, config))
    return predict_files(predictor, (1, 2, 3), paths, out, formats=formats, pictures="none", **options)


def predict_until(workers, paths, out, where, number):
    """Go on, and die after some writes of the journal or of a raster on each worker."""
    left, add = [number + workers.rank], probabilities._Raster.add

    def count(kind):
        left[0] -= kind == where
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(file, data):
        count("journal")
        WRITE(file, data)

    def take(self, region, values):
        count("raster")
        add(self, region, values)

    journal._write, probabilities._Raster.add = write, take
    return predict(workers, paths, out, resume=True)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(tiles.BATCH_PIXELS, "cpu", 2 * 64 * 64)
    monkeypatch.setattr(probabilities, "BLOCK", 64)
    monkeypatch.setattr(probabilities, "_COG", probabilities._COG | {"BLOCKSIZE": "128"})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An orthophoto without data in one corner, and a picture of no place."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(1, 255, (3, *EXTENT)).astype(np.uint8)
    pixels[:, 130:, :15] = 0
    place = {"crs": GROUND.crs, "transform": GROUND.transform, "nodata": 0}
    shape = {"height": EXTENT[0], "width": EXTENT[1], "count": 3, "dtype": "uint8", "photometric": "rgb"}
    with rasterio.open(folder / "ortho.tif", "w", driver="GTiff", **place, **shape) as file:
        file.write(pixels)
    Image.fromarray(pixels[:, :70, :50].transpose(1, 2, 0).copy()).save(folder / "small.png")
    return folder


def expected_of(path):
    """Return each pixel's probabilities as bytes, shape ``(3, H, W)``, from all of the image at once."""
    image = torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1).float() / 255 / 0.25
    return (image.softmax(dim=0) * 254).round().to(torch.uint8).numpy()


def test_bands_are_the_classes_probabilities(images, tmp_path):
    result = predict(Workers(), [images], tmp_path / "out")
    assert str(tmp_path / "out" / "probabilities") in result["files"]
    file = tmp_path / "out" / "probabilities" / "ortho.tif"
    assert cog_validate(file, strict=True) == (True, [], [])
    expected = expected_of(images / "ortho.tif")
    expected[:, 130:, :15] = 255
    with rasterio.open(file) as raster:
        found = raster.read()
        assert raster.descriptions == CLASSES
        assert raster.scales == (1 / 254,) * 3
        assert (raster.nodata, raster.crs.to_string()) == (255, GROUND.crs)
        assert np.allclose(raster.transform, GROUND.transform, rtol=0, atol=1e-9)
        assert raster.overviews(1) == [2]
    assert (found == expected).all()
    with rasterio.open(tmp_path / "out" / "masks" / "ortho.tif") as raster:
        labels = raster.read(1)
    chosen = np.take_along_axis(found, np.minimum(labels, 2)[None].astype(int), axis=0)[0]
    assert (chosen == found.max(axis=0)).all()
    with open_labels(file.with_name("small.tif")) as raster:
        assert (raster.read() == expected_of(images / "small.png")).all()
    assert sorted(path.name for path in file.parent.iterdir()) == ["ortho.tif", "small.tif"]


def test_masks_are_those_of_a_prediction_without_probabilities(images, tmp_path):
    predict(Workers(), [images], tmp_path / "with")
    predict(Workers(), [images], tmp_path / "without", ("mask",))
    with_them, without = files_of(tmp_path / "with"), files_of(tmp_path / "without")
    rows = [one.pop("predictions.json").decode() for one in (with_them, without)]
    assert rows[0].replace("/with/", "/without/") == rows[1]
    assert without == {name: data for name, data in with_them.items() if "probabilities" not in name}


def test_the_same_files_on_any_number_of_workers_and_after_kills(images, tmp_path):
    out = tmp_path / "1" / "out"
    run_ranks(predict, 1, ([images], out))
    expected = files_of(out)
    assert len(expected) == 7
    kills = (("journal", 2), ("journal", 1), ("raster", 1), ("raster", 3))
    for world, of_world in ((1, kills), (2, kills[:3]), (3, ())):
        out.rename(tmp_path / f"before-{world}")  # rows have the path of the folder
        for where, number in of_world:
            with pytest.raises(RuntimeError, match=r"without a word|failed"):
                run_ranks(predict_until, world, ([images], out, where, number), grace=0.2)
        results = run_ranks(predict_until, world, ([images], out, "", 0))
        assert results[0]["resumed"] == bool(of_world)
        assert files_of(out) == expected


@pytest.mark.parametrize("resize", [9, 100, 400])
def test_a_resized_image_has_its_own_pixels(images, tmp_path, resize, monkeypatch):
    monkeypatch.setattr(sheets_of_tiles, "BAND", 7)
    data = DataConfig(crop=64, resize=resize, tile_overlap=0.25)
    config = RunConfig(task="segment", dtype="fp32", data=data)
    predict(Workers(), [images], tmp_path / "out", config=config)
    for name, extent in (("ortho", EXTENT), ("small", (70, 50))):
        labels = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{name}.png"))
        with open_labels(tmp_path / "out" / "probabilities" / f"{name}.tif") as raster:
            found, seen = raster.read(), raster.dataset_mask() > 0
        assert found.shape == (3, *extent)
        chosen = np.take_along_axis(found, labels[None].astype(int), axis=0)[0]
        assert (chosen == found.max(axis=0))[seen].all()
        assert seen.sum() >= np.prod(extent) - 15 * 20
        assert abs(found.sum(axis=0, dtype=int)[seen] - 254).max() <= 2


def sheets(workers, paths, out, plan):
    """Predict with a network whose layers see far, each image on all workers."""
    config = RunConfig(
        task="segment", model=ModelConfig(name="smp:unet/test_resnet"), dtype="fp32", data=CONFIG.data
    )
    torch.manual_seed(0)
    model = build_model(config.model, num_classes=3)
    predictor = Predictor.of_model(model, config, make_mesh(workers, plan), CLASSES)
    predict_files(predictor, (1, 2, 3), paths, out, formats=("probabilities",), pictures="none")


def test_workers_that_share_images_find_the_same_probabilities(images, tmp_path):
    for world, plan in ((1, ""), (2, "sp=2")):
        run_ranks(sheets, world, ([images / "ortho.tif"], tmp_path / f"{world}", plan))
    found = []
    for world in (1, 2):
        with rasterio.open(tmp_path / f"{world}" / "probabilities" / "ortho.tif") as raster:
            found.append(raster.read().astype(int))
    assert len(np.unique(found[0])) > 10
    assert abs(found[0] - found[1]).max() <= 1  # a step, where rounding differs
    sums = found[0].sum(axis=0)[: EXTENT[0], 15:]
    assert sums.min() >= 254 - 2
    assert sums.max() <= 254 + 2


def test_a_classifier_has_a_table_of_all_classes(images, tmp_path):
    config = RunConfig(task="classify", dtype="fp32", data=DataConfig(crop=64))
    result = predict(Workers(), [images], tmp_path / "out", ("csv", "probabilities"), config)
    assert result["files"] == [str(tmp_path / "out" / "probabilities.csv")]
    with (tmp_path / "out" / "probabilities.csv").open(newline="") as stream:
        header, *lines = csv.reader(stream)
    assert header == ["image_path", *CLASSES]
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [line[0] for line in lines] == [row["file_name"] for row in rows]
    for line, row in zip(lines, rows, strict=True):
        assert list(map(float, line[1:])) == list(row["probabilities"].values())
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert max(row["probabilities"].values()) == row["score"] == row["probabilities"][row["category"]]
    without = predict(Workers(), [images], tmp_path / "without", ("csv",), config)
    assert without["files"] == []
    assert "probabilities" not in json.loads((tmp_path / "without" / "predictions.json").read_text())[0]


def test_what_has_none_is_refused(tmp_path):
    image = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(image)
    with pytest.raises(UserError, match=r"holds results on masks and images: this task's lie on boxes"):
        predict_squares([image], tmp_path / "out", ("probabilities",), config=SQUARES)
    assert not Path(tmp_path / "out").exists()


def test_a_task_of_ones_own_says_that_it_has_none():
    class Own(SegmentationTask):
        name = "own"
        has_probabilities = False

    with pytest.raises(UserError, match="the task own has none"):
        Own(Colours(), CONFIG).with_probabilities()
    task = SegmentationTask(Colours(), CONFIG)
    assert (task.with_probabilities().keeps_probabilities, task.keeps_probabilities) == (True, False)
