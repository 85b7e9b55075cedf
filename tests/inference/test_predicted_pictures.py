"""How large the pictures of a prediction are, and that an overview needs no whole image."""

import numpy as np
import pytest
import torch
from PIL import Image

from support.fake_detector import BrightSquares, FindSquares, Squares
from ziggurat.config import DataConfig, DecodeConfig, RunConfig
from ziggurat.data.extents import cut_out
from ziggurat.inference import pictures
from ziggurat.inference.pictures import picture_extent, read_picture
from ziggurat.inference.predict import predict_files
from ziggurat.inference.predictor import Predictor

SIZE = (333, 650)
CONFIG = RunConfig(dtype="fp32", data=DataConfig(crop=64, tile_overlap=0.5), decode=DecodeConfig())


class InParts(Squares):
    def image(self, index):
        raise AssertionError("a whole image is decoded")

    def window(self, index, region):
        return cut_out(super()._scene(index)[0], region)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("band", [1, 3 * 650, 1 << 22])
@pytest.mark.parametrize("side", [60, 100, 325, 649])
def test_an_overview_is_made_of_means(side, band, monkeypatch):
    monkeypatch.setattr(pictures, "OVERVIEW_SIDE", side)
    monkeypatch.setattr(pictures, "BAND_PIXELS", band)
    images = (InParts if band < 10_000 else Squares)([SIZE], per_image=200)
    extent = picture_extent(SIZE, "overview")
    found = read_picture(images, 0, extent)
    pixels = Squares([SIZE], per_image=200).image(0).numpy().astype(np.float64)
    factor = -(-650 // side)
    assert max(extent) <= side
    assert found.shape == (3, *extent)
    for row in range(0, extent[0], 7):
        for column in range(extent[1]):
            cell = pixels[:, row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            mean = cell.mean(axis=(1, 2))
            assert np.abs(found[:, row, column].numpy() - mean).max() <= 0.5 + 1e-4


def test_an_image_that_is_small_is_its_own_overview():
    assert picture_extent((2048, 100), "overview") == (2048, 100)
    assert picture_extent((2049, 100), "overview") == (1025, 50)
    assert picture_extent((2049, 100), "none") is None
    assert torch.equal(read_picture(Squares([(64, 64)]), 0, (64, 64)), Squares([(64, 64)]).image(0))


@pytest.mark.parametrize(
    ("kind", "size"), [("auto", (325, 167)), ("full", (650, 333)), ("overview", (325, 167)), ("none", None)]
)
def test_pictures_of_a_prediction(kind, size, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "FULL_PIXELS", 100_000)
    monkeypatch.setattr(pictures, "OVERVIEW_SIDE", 400)
    images = Squares([SIZE])
    Image.fromarray(images.image(0).permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    predictor = Predictor.of_model(BrightSquares(), CONFIG, None, images.classes, FindSquares(CONFIG))
    out = tmp_path / "out"
    result = predict_files(predictor, images.category_ids, [tmp_path / "a.png"], out, pictures=kind)
    assert result["detections"] == len(images.objects(0))
    assert any("--pictures full" in note for note in result["notes"]) == (kind == "auto")
    assert (out / "a.png").exists() == (size is not None)
    if size is None:
        return
    with Image.open(out / "a.png") as picture:
        assert picture.size[0] % size[0] == 0, "a small picture is enlarged"
        scale = picture.size[0] // size[0]
        drawn = np.asarray(picture)[: scale * size[1]] if kind == "full" else None
    if drawn is not None:
        assert drawn.shape[:2] == (scale * size[1], scale * size[0])
