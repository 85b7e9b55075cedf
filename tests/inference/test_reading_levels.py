"""Images that are resized are read region by region, from the level that fits: pyramids of TIFF, COG and slides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import rasterio
import tifffile
import torch
from rasterio.shutil import copy as copy_raster
from torchvision.transforms.v2 import functional

from ziggurat.config import DataConfig
from ziggurat.data.extents import Region
from ziggurat.data.readers import image_files
from ziggurat.data.readers.image_files import inspect_images
from ziggurat.data.views import Piece, make_view
from ziggurat.inference import reading
from ziggurat.inference.asked import Chosen, ask_for_files
from ziggurat.inference.reading import RegionReader, read_tiles

EXTENT = (700, 1024)


def scene(extent: tuple[int, int] = EXTENT) -> np.ndarray:
    rows, columns = np.mgrid[: extent[0], : extent[1]]
    noise = np.random.default_rng(3).integers(0, 60, (3, *extent))
    waves = [90 + 90 * np.sin(rows / (9 + band) + columns / 31) for band in range(3)]
    return (np.stack(waves) + noise).clip(0, 255).astype(np.uint8)


def write_pyramid(path: Path, subifds: bool = True) -> Path:
    """Write a TIFF in tiles with two levels that are twice and four times smaller."""
    pixels = scene().transpose(1, 2, 0)
    options = {"tile": (128, 128), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, subifds=2 if subifds else 0, **options)
        for factor in (2, 4):
            file.write(np.ascontiguousarray(pixels[::factor, ::factor]), subfiletype=1, **options)
    return path


def write_cog(path: Path) -> Path:
    plain = path.with_suffix(".plain.tif")
    shape = {"count": 3, "height": EXTENT[0], "width": EXTENT[1], "dtype": "uint8"}
    shape |= {"crs": "EPSG:32632", "transform": rasterio.Affine(0.1, 0, 500000, 0, -0.1, 5600000)}
    with rasterio.open(plain, "w", driver="GTiff", photometric="rgb", **shape) as file:
        file.write(scene())
    copy_raster(plain, path, driver="COG", blocksize=128, overview_count=2, compress="deflate")
    return path


def write_slide(path: Path) -> Path:
    pixels = scene().transpose(1, 2, 0)
    with tifffile.TiffWriter(path) as file:
        for factor in (1, 4):
            file.write(
                np.ascontiguousarray(pixels[::factor, ::factor]), tile=(256, 256), photometric="rgb", metadata=None,
                description=f"Aperio Image Library v11\n1024x700 (256x256) |MPP = 0.5|AppMag = {20 // factor}",
            )  # fmt: skip
    with openslide.OpenSlide(path) as slide:
        assert slide.level_count == 2
    return path


WRITERS = {"pyramid.tif": write_pyramid, "cog.tif": write_cog, "slide.svs": write_slide}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyramids")
    for name, write in WRITERS.items():
        write(path / name)
    return path


def images_at(path: Path):
    return inspect_images([path], DataConfig().max_pixels)


@pytest.mark.parametrize(
    ("name", "resize", "level"),
    [("pyramid.tif", 350, 1), ("pyramid.tif", 300, 1), ("pyramid.tif", 170, 2), ("pyramid.tif", 690, 0),
     ("cog.tif", 200, 1), ("cog.tif", 90, 2), ("slide.svs", 175, 1), ("slide.svs", 300, 0)],
)  # fmt: skip
def test_regions_are_those_of_the_resized_level(folder, name, resize, level, monkeypatch):
    monkeypatch.setattr(reading, "READ_PIXELS", 1)  # as of an image that is too large to be decoded whole
    images = images_at(folder / name)
    config = DataConfig(crop=64, resize=resize, resize_limit=4000)
    view = make_view(images.record(0), config)
    extent = images.levels(0)[level]
    pixels = images.window(0, Region.whole(extent), level)
    expected = functional.resize(pixels.float(), list(view.extent), antialias=True)
    reader = RegionReader(images, [view])
    whole = reader.read(0, Region.whole(view.extent))
    torch.testing.assert_close(whole, expected, rtol=0, atol=0.02)
    for region in (Region((10, 20), (33, 47)), Region((40, 60), (20, 9)), view.tiles[-1]):
        assert torch.equal(reader.read(0, region), whole[region.last_dims])
    chosen = Chosen(images, (0,))
    assert chosen.levels(0) == images.levels(0)
    assert torch.equal(RegionReader(chosen, [view]).read(0, Region((5, 5), (9, 9))), whole[:, 5:14, 5:14])


def test_a_slide_is_read_at_the_microns_that_are_wanted(folder):
    """A level whose pixels span 2 microns is taken as it is, one of 3 microns is made from it."""
    images = ask_for_files([folder / "slide.svs"], (1,), DataConfig(mpp=2.0)).images
    record = images.record(0)
    assert record.spacing == (0.5, 0.5)
    view = make_view(record, DataConfig(mpp=2.0))
    level = images.window(0, Region.whole(images.levels(0)[1]), 1)
    assert view.extent == tuple(level.shape[1:]) == (175, 256)
    assert torch.equal(RegionReader(images, [view]).read(0, Region.whole(view.extent)), level.float())
    coarser = make_view(record, DataConfig(mpp=3.0))
    found = RegionReader(images, [coarser]).read(0, Region.whole(coarser.extent))
    expected = functional.resize(level.float(), list(coarser.extent), antialias=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


def test_tiles_are_read_in_few_pixels(folder, monkeypatch):
    """The pixels that are read of a file are those of the level, and not many times."""
    read = []

    def counted(path, max_pixels, size, region, *more):
        read.append((more[-1], region.volume))
        return real(path, max_pixels, size, region, *more)

    real = image_files.read_window
    monkeypatch.setattr(image_files, "read_window", counted)
    images = images_at(folder / "pyramid.tif")
    view = make_view(images.record(0), DataConfig(crop=64, tile_overlap=0.4, resize=175, resize_limit=4000))
    monkeypatch.setattr(reading, "REGION_PIXELS", 4 * 64 * 256)
    pieces = [Piece(0, tile) for tile in view.tiles]
    tiles = list(read_tiles(images, [view], pieces))
    whole = RegionReader(images, [view]).read(0, Region.whole(view.extent))
    assert all(torch.equal(tile, whole[one.last_dims]) for tile, one in zip(tiles, view.tiles, strict=True))
    assert {level for level, _ in read} == {2}
    assert sum(pixels for _, pixels in read[:-1]) < 1.3 * 175 * 256


def test_without_antialias_full_resolution_is_read(folder):
    images = images_at(folder / "pyramid.tif")
    view = make_view(images.record(0), DataConfig(crop=512, resize=175, antialias=False))
    expected = functional.resize(images.image(0).float(), list(view.extent), antialias=False)
    found = RegionReader(images, [view]).read(0, Region.whole(view.extent))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
