"""Masks as COG, OME-Zarr, polygons and QuPath's GeoJSON: read back by rasterio, rio-cogeo, zarr and pyogrio."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
import zarr
from PIL import Image
from rasterio.features import rasterize
from rio_cogeo.cogeo import cog_validate

from support.georeferenced import GROUNDS
from ziggurat.data.readers.image_files import inspect_images
from ziggurat.data.readers.layout import AS_THEY_ARE
from ziggurat.data.readers.registry import reader_of
from ziggurat.data.readers.zarr_arrays import ZarrReader
from ziggurat.errors import UserError
from ziggurat.inference.outputs import mask_rasters, ome_zarr
from ziggurat.inference.outputs.base import ImageResults, Target
from ziggurat.inference.outputs.registry import check_formats
from ziggurat.inference.outputs.sources import ImageSource
from ziggurat.inference.outputs.writing import Outputs
from ziggurat.visualize.colors import class_color

GROUND = GROUNDS["turned"]
CLASSES = ("background", "oak", "pine")
FORMATS = ("gpkg", "mask", "ome-zarr", "qupath")


def labels() -> np.ndarray:
    """Return areas, one of them with a hole, one that touches another at a corner."""
    mask = np.zeros((150, 140), np.uint8)
    mask[10:60, 20:90] = 1
    mask[20:40, 30:60] = 0
    mask[25:30, 40:50] = 2
    mask[100:120, 10:30] = 2
    mask[120:140, 30:60] = 2
    return mask


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    pixels = np.random.default_rng(0).integers(1, 255, (3, 150, 140)).astype(np.uint8)
    pixels[:, 130:, :15] = 0
    with rasterio.open(
        folder / "ortho.tif", "w", driver="GTiff", height=150, width=140, count=3, dtype="uint8", nodata=0, photometric="rgb",
        crs=GROUND.crs, transform=GROUND.transform,
    ) as file:  # fmt: skip
        file.write(pixels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_rasters, "BLOCK", 64)
        patch.setattr(mask_rasters, "_TILED", mask_rasters._TILED | {"blockxsize": 64, "blockysize": 64})
        patch.setattr(mask_rasters, "_COG", mask_rasters._COG | {"BLOCKSIZE": "128"})
        patch.setattr(ome_zarr, "CHUNK", 64)
        write_all([folder / "ortho.tif"], folder / "out")
    return folder / "out"


def write_all(images: list[Path], out: Path, formats: tuple[str, ...] = FORMATS) -> list[Path]:
    """Write the labels of images in some formats, as `predict` does."""
    (out / "masks").mkdir(parents=True)
    files = inspect_images(images, 1 << 30, AS_THEY_ARE)
    outputs, rows = Outputs(formats, Target(out, CLASSES, (1, 2, 3), "masks")), []
    outputs.check(files)
    for index, image in enumerate(images):
        mask = out / "masks" / f"{image.stem}.png"
        Image.fromarray(labels()).save(mask)
        rows.append(
            [{"image_id": index + 1, "file_name": image.name, "mask": str(mask), "pixels": {"oak": 1}}]
        )
        outputs.image(files, index, image.stem, rows[-1])
    return outputs.write(files, [image.stem for image in images], rows)


def test_a_mask_is_a_cog_with_place_colours_and_nodata(written):
    file = written / "masks" / "ortho.tif"
    is_valid, errors, warnings = cog_validate(file, strict=True)
    assert (is_valid, errors, warnings) == (True, [], [])
    with rasterio.open(file) as raster:
        expected = labels()
        expected[130:, :15] = 255
        assert (raster.read(1) == expected).all()
        assert (raster.nodata, raster.crs.to_string()) == (255, GROUND.crs)
        assert np.allclose(raster.transform, GROUND.transform, rtol=0, atol=1e-9)
        assert [raster.colormap(1)[label][:3] for label in range(3)] == [
            class_color(label) for label in range(3)
        ]
        assert (raster.overviews(1), raster.block_shapes) == ([2], [(128, 128)])
    assert sorted(path.name for path in (written / "masks").iterdir()) == ["ortho.png", "ortho.tif"]


def test_polygons_cover_what_the_mask_does(written):
    meta, _, geometry, columns = pyogrio.raw.read(written / "predictions.gpkg")
    names = dict(zip(meta["fields"], columns, strict=True))
    inverse = ~GROUND.transform
    shapes = [
        shapely.transform(one, lambda ground: np.array([inverse @ tuple(corner) for corner in ground])) for one in shapely.from_wkb(geometry)
    ]  # fmt: skip
    assert sorted(names["class"]) == ["oak", "pine", "pine", "pine"]
    drawn = rasterize(
        [(shape, CLASSES.index(name)) for shape, name in zip(shapes, names["class"], strict=True)],
        out_shape=(150, 140),
    )
    assert (drawn == labels()).all()
    assert np.isnan(names["score"]).all()


def test_qupath_has_pixels_names_and_colours(written):
    content = json.loads((written / "qupath" / "ortho.geojson").read_text())
    assert {one["properties"]["objectType"] for one in content["features"]} == {"annotation"}
    drawn = rasterize(
        [(one["geometry"], CLASSES.index(one["properties"]["classification"]["name"])) for one in content["features"]], out_shape=(150, 140)
    )  # fmt: skip
    assert (drawn == labels()).all()
    for one in content["features"]:
        said = one["properties"]["classification"]
        assert tuple(said["color"]) == class_color(CLASSES.index(said["name"]))


def test_labels_of_ome_zarr(written):
    root = zarr.open_group(written / "ome-zarr" / "ortho.zarr", mode="r")
    assert dict(root["labels"].attrs) == {"labels": ["classes"]}
    group = root["labels/classes"]
    image = group.attrs["multiscales"][0]
    assert [axis["name"] for axis in image["axes"]] == ["y", "x"]
    for level, one in enumerate(image["datasets"]):
        assert (group[one["path"]][:] == labels()[:: 2**level, :: 2**level]).all()
        assert one["coordinateTransformations"] == [{"type": "scale", "scale": [2.0**level] * 2}]
    assert [group[one["path"]].shape for one in image["datasets"]] == [(150, 140), (75, 70), (38, 35)]
    assert [one["class"] for one in group.attrs["image-label"]["properties"]] == list(CLASSES)
    path = written / "ome-zarr" / "ortho.zarr" / "labels" / "classes"
    assert isinstance(reader_of(path), ZarrReader)
    with ZarrReader().open(path, None) as opened:
        assert opened.info.levels == ((150, 140), (75, 70), (38, 35))


def test_images_without_a_place_have_masks_and_pixels(tmp_path):
    Image.fromarray(labels()).save(tmp_path / "a.png")
    write_all([tmp_path / "a.png"], tmp_path / "out", ("mask", "qupath", "ome-zarr"))
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(tmp_path / "out" / "masks" / "a.tif") as raster,
    ):
        assert (raster.read(1) == labels()).all()
    with pytest.raises(UserError, match="no georeference"):
        write_all([tmp_path / "a.png"], tmp_path / "more", ("gpkg",))


def test_boxes_have_no_masks():
    with pytest.raises(UserError) as caught:
        check_formats(["mask", "ome-zarr", "qupath"], "boxes")
    assert len(caught.value.faults) == 2


def test_what_is_written_again_replaces_what_was_there(written, tmp_path):
    again = write_all([written.parent / "ortho.tif"], tmp_path / "out")
    source = ImageSource(inspect_images([written.parent / "ortho.tif"], 1 << 30, AS_THEY_ARE), 0)
    before = {path: path.read_bytes() for path in sorted((tmp_path / "out").rglob("*")) if path.is_file()}
    outputs = Outputs(FORMATS, Target(tmp_path / "out", CLASSES, (1, 2, 3), "masks"))
    row = {
        "image_id": 1,
        "file_name": "ortho.tif",
        "mask": str(tmp_path / "out" / "masks" / "ortho.png"),
        "pixels": {},
    }
    outputs.image(source.images, 0, "ortho", [row])
    assert outputs.write(source.images, ["ortho"], [[row]]) == again
    assert {
        path: path.read_bytes() for path in sorted((tmp_path / "out").rglob("*")) if path.is_file()
    } == before
    assert ImageResults(source, "ortho", [row]).georeference is not None
