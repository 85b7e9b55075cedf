"""GeoTIFFs as GDAL writes them: what our reader says and reads of them is what rasterio does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ziggurat.data.extents import Region
from ziggurat.data.readers.opened import OpenedImage
from ziggurat.data.readers.registry import READERS

rasterio = pytest.importorskip("rasterio", reason="the extra geo is not installed")
pyproj = pytest.importorskip("pyproj", reason="the extra geo is not installed")

ROWS, COLUMNS = 150, 130
AFFINES = {
    "north-up": (0.5, 0, 300000, 0, -0.5, 5000000),
    "south-up": (2.0, 0, 100, 0, 3.0, 200),
    "turned": (0.4, 0.3, 500000, 0.3, -0.4, 4000000),
    "degrees": (1e-5, 0, 11.5, 0, -1e-5, 48.25),
}


def written(path: Path, samples: np.ndarray, **options: Any) -> Path:
    """Write bands, ``(C, H, W)``, by GDAL."""
    names, overviews = options.pop("names", None), options.pop("overviews", [])
    transform = rasterio.Affine(*options.pop("affine", AFFINES["north-up"]))
    bands, rows, columns = samples.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=rows, width=columns, count=bands, dtype=samples.dtype, transform=transform,
        crs=options.pop("crs", "EPSG:32633"), **options,
    ) as dataset:  # fmt: skip
        dataset.write(samples)
        if names:
            dataset.descriptions = names
        if overviews:
            dataset.build_overviews(overviews, rasterio.enums.Resampling.nearest)
    return path


def noise(bands: int, dtype: str) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, (bands, ROWS, COLUMNS)).astype(dtype)


def opened(path: Path) -> OpenedImage:
    """Open a file by our reader of TIFFs."""
    with READERS["tiff"].open(path, None) as image:
        return image


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:3857", "EPSG:32733"])
@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("anchor", ["AREA", "POINT"])
def test_the_place(tmp_path: Path, affine: str, crs: str, anchor: str) -> None:
    path = written(tmp_path / "a.tif", noise(1, "uint8"), affine=AFFINES[affine], crs=crs)
    if anchor == "POINT":
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(AREA_OR_POINT="Point")
    place = opened(path).info.georeference
    assert place is not None
    with rasterio.open(path) as dataset:
        np.testing.assert_allclose(place.transform, tuple(dataset.transform)[:6], rtol=1e-12)
        assert pyproj.CRS.from_wkt(place.crs) == pyproj.CRS.from_user_input(dataset.crs)


@pytest.mark.parametrize("compress", ["none", "deflate", "lzw", "zstd", "packbits", "lerc"])
@pytest.mark.parametrize(
    ("dtype", "bands", "predictor"),
    [
        ("uint16", 4, 2),
        ("float32", 1, 3),
        ("uint8", 3, 2),
        ("int16", 12, 1),
        ("float64", 2, 3),
        ("uint8", 1, 1),
    ],
)
def test_samples_levels_and_nodata(
    tmp_path: Path, compress: str, dtype: str, bands: int, predictor: int
) -> None:
    options = {"predictor": predictor} if compress in ("deflate", "lzw", "zstd") else {}
    if compress == "lerc" and bands > 1:
        options["interleave"] = "band"
    names = [f"band {number}" for number in range(bands)]
    path = written(
        tmp_path / "a.tif", noise(bands, dtype), compress=compress, tiled=True, blockxsize=32, blockysize=16, nodata=7,
        overviews=[2, 4], names=names, **options,
    )  # fmt: skip
    image = opened(path)
    assert image.info.nodata == 7
    assert image.info.names == tuple(names)
    assert image.info.levels == ((150, 130), (75, 65), (38, 33))
    for level in range(3):
        more = {} if level == 0 else {"overview_level": level - 1}
        with rasterio.open(path, **more) as dataset:
            expected = dataset.read()
        found = image.read(Region.whole(image.info.levels[level]), level)
        np.testing.assert_array_equal(found, expected)
        part = Region((9, 5), (20, 21))
        np.testing.assert_array_equal(image.read(part, level), expected[part.last_dims])


@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_what_was_never_written_holds_nodata(tmp_path: Path, interleave: str) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=ROWS, width=COLUMNS, count=2, dtype="int16", nodata=-9, sparse_ok=True,
        tiled=True, blockxsize=32, blockysize=32, interleave=interleave, crs="EPSG:4326", transform=rasterio.Affine(*AFFINES["degrees"]),
    ) as dataset:  # fmt: skip
        dataset.write(np.full((2, 32, 32), 5, dtype="int16"), window=rasterio.windows.Window(64, 32, 32, 32))
    found = opened(path).read(Region.whole((ROWS, COLUMNS)))
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(found, dataset.read())
    assert set(np.unique(found)) == {-9, 5}


def test_a_mask_is_no_page(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", noise(3, "uint8"), photometric="RGB")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.full((ROWS, COLUMNS), 255, dtype=np.uint8))
    info = opened(path).info
    assert (info.pages, info.bands, info.levels) == (1, 3, ((ROWS, COLUMNS),))
