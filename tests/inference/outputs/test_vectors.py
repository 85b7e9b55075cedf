"""Boxes on the ground: planted in pixels, written, read back by pyogrio, and mapped to pixels by rasterio."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio
import pyogrio.raw
import pytest
import shapely
from rasterio.shutil import copy
from rasterio.warp import transform as warp

from support.georeferenced import CONFIG, GROUNDS, SCENES, corners, planted, predict, write_scene
from support.ranks import run_ranks
from ziggurat.config import DecodeConfig
from ziggurat.data.readers.opened import Georeference
from ziggurat.errors import UserError
from ziggurat.inference.outputs import vectors
from ziggurat.inference.outputs.shapes import Shape, binary, box_binaries, box_ring, on_ground

FORMATS = ("coco", "csv", "gpkg", "geojson", "shp")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folder of results of each way to lie on the ground."""
    folder, results = tmp_path_factory.mktemp("grounds"), {}
    for name, ground in GROUNDS.items():
        out = folder / f"out-{name}"
        result = predict([write_scene(folder / f"{name}.tif", ground)], out, FORMATS)
        assert [Path(file).name for file in result["files"]] == [
            f"predictions.{end}" for end in ("gpkg", "geojson", "shp")
        ]
        results[name] = out
    return results


def read(file: Path, layer: str | None = None) -> tuple[str, np.ndarray, dict[str, list[object]]]:
    """Return the CRS, the polygons and the columns of a file."""
    meta, _, geometry, columns = pyogrio.raw.read(file, layer=layer)
    return meta["crs"], shapely.from_wkb(geometry), dict(zip(meta["fields"], map(list, columns), strict=True))


@pytest.mark.parametrize("name", GROUNDS)
@pytest.mark.parametrize("format", ["gpkg", "geojson", "shp"])
def test_boxes_come_back_to_their_pixels(found, name, format):
    ground = GROUNDS[name]
    crs, polygons, columns = read(found[name] / f"predictions.{format}")
    places = {}
    for polygon, label in zip(polygons, columns["class"], strict=True):
        x, y = polygon.exterior.xy
        if format == "geojson":
            assert crs == "EPSG:4326"
            assert polygon.exterior.is_ccw
            x, y = warp("EPSG:4326", ground.crs, x, y)
        pixels = np.array([~ground.transform @ corner for corner in zip(x, y, strict=True)])
        left, top, right, bottom = corners(pixels)
        places[round(left), round(top), round(right), round(bottom), SCENES.classes.index(label)] = pixels
    assert set(places) == planted()
    for (left, top, right, bottom, _), pixels in places.items():
        expected = {(left, top), (left, bottom), (right, top), (right, bottom)}
        assert {(round(x), round(y)) for x, y in pixels} == expected
        assert np.abs(pixels - np.round(pixels)).max() < 1e-6
    if format != "geojson":
        assert crs == ground.crs
    rows = json.loads((found[name] / "predictions.json").read_text())
    assert sorted(columns["score"]) == sorted(row["score"] for row in rows)
    assert set(columns["class_id"]) == set(SCENES.category_ids)
    assert set(columns["image"]) == {rows[0]["file_name"]}


def test_images_of_several_crs_have_a_layer_each(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "CHUNK", 7)
    images = [write_scene(tmp_path / f"{name}.tif", GROUNDS[name]) for name in ("north", "south")]
    images += [write_scene(tmp_path / "z.tif", GROUNDS["north"], 1)]
    predict(images, tmp_path / "out", FORMATS)
    first, second = ("predictions", "predictions_2")
    assert [name for name, _ in pyogrio.list_layers(tmp_path / "out" / "predictions.gpkg")] == [first, second]
    sizes = len(planted(0)) + len(planted(1)), len(planted(0))
    for number, layer in enumerate((first, second)):
        for file, name in (
            (tmp_path / "out" / "predictions.gpkg", layer),
            (tmp_path / "out" / f"{layer}.shp", None),
        ):
            crs, polygons, _ = read(file, name)
            assert (crs, len(polygons)) == (GROUNDS[("north", "south")[number]].crs, sizes[number])
    assert len(read(tmp_path / "out" / "predictions.geojson")[1]) == sum(sizes)
    again = predict(images, tmp_path / "again", FORMATS)
    for file in sorted((tmp_path / "out").iterdir()):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name
    assert len(again["files"]) == 4
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS)
def test_many_boxes_have_the_bytes_of_each(ground):
    random = np.random.default_rng(0)
    rows = [
        {"bbox": box}
        for box in (random.uniform(0, 1e4, (50, 4)) * 10.0 ** random.integers(-6, 4, (50, 1))).tolist()
    ]
    place = Georeference(tuple(ground.transform)[:6], ground.crs)
    each = [binary(on_ground(Shape([box_ring(row["bbox"])], None, None), place)) for row in rows]
    assert box_binaries(rows, place) == each
    assert box_binaries([], place) == []


def test_features_are_held_up_to_a_number_and_to_a_size(tmp_path, monkeypatch):
    """Layers hold the same features, in the same order, however they are divided."""
    image = write_scene(tmp_path / "a.tif", GROUNDS["north"])
    written = []
    for number, size in ((200_000, 1 << 26), (7, 1 << 26), (200_000, 200)):
        monkeypatch.setattr(vectors, "CHUNK", number)
        monkeypatch.setattr(vectors, "CHUNK_BYTES", size)
        predict([image], tmp_path / f"{number}-{size}", ("gpkg",))
        _, _, geometry, columns = pyogrio.raw.read(tmp_path / f"{number}-{size}" / "predictions.gpkg")
        written.append([geometry.tolist(), *(column.tolist() for column in columns)])
    assert len(written[0][0]) > 20
    assert written[0] == written[1] == written[2]


def test_nothing_found_is_a_layer_of_nothing(tmp_path):
    image = write_scene(tmp_path / "a.tif", GROUNDS["north"])
    nothing = replace(CONFIG, decode=DecodeConfig(max_detections=0))
    predict([image], tmp_path / "out", FORMATS, config=nothing)
    for end in ("gpkg", "shp", "geojson"):
        assert len(read(tmp_path / "out" / f"predictions.{end}")[1]) == 0
    assert read(tmp_path / "out" / "predictions.gpkg")[0] == "EPSG:32632"


@pytest.mark.parametrize("format", ["gpkg", "geojson", "shp"])
def test_images_without_a_place_are_refused_before_anything_is_computed(tmp_path, format):
    images = [
        write_scene(tmp_path / "here.tif", GROUNDS["north"]),
        write_scene(tmp_path / "nowhere.tif", None),
    ]
    with pytest.raises(UserError, match="no georeference") as caught:
        predict(images, tmp_path / "out", (format,))
    assert len(caught.value.faults) == 1
    assert "nowhere.tif" in str(caught.value)
    assert "qupath" in str(caught.value)
    assert not (tmp_path / "out").exists()


def _predict(workers, images, out):
    return predict(images, out, FORMATS, workers)["files"]


def test_several_workers_write_the_same_bytes(found, tmp_path):
    image = found["turned"].parent / "turned.tif"
    run_ranks(_predict, 2, args=([image], tmp_path / "out"))
    for file in found["turned"].iterdir():
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes(), file.name


def test_a_prediction_that_ended_while_files_were_written_goes_on(found, tmp_path, monkeypatch):
    image = found["turned"].parent / "turned.tif"
    with monkeypatch.context() as patch:
        patch.setattr(vectors.Shapefile, "close", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict([image], tmp_path / "out", FORMATS)
    assert not (tmp_path / "out" / "predictions.shp").exists()
    result = predict([image], tmp_path / "out", FORMATS, resume=True)
    assert result["resumed"]
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == sorted(path.name for path in found["turned"].iterdir())
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (found["turned"] / name).read_bytes(), name


def test_one_crs_in_two_spellings_is_one_layer(tmp_path):
    image = write_scene(tmp_path / "a.tif", GROUNDS["north"])
    copy(image, tmp_path / "b.vrt", driver="VRT")
    predict([image, tmp_path / "b.vrt"], tmp_path / "out", ("gpkg",))
    ((name, _),) = pyogrio.list_layers(tmp_path / "out" / "predictions.gpkg")
    crs, polygons, columns = read(tmp_path / "out" / "predictions.gpkg", name)
    assert (crs, len(polygons)) == ("EPSG:32632", 2 * len(planted()))
    assert len(set(columns["image"])) == 2
