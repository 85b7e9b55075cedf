"""How far pixels lie apart on the ground and under microscopes, as headers of every kind say it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image
from rasterio.transform import Affine

from support.georeferenced import GROUNDS, Ground, write_scene
from ziggurat.config import DataConfig
from ziggurat.data.readers import spacing
from ziggurat.data.readers.opened import Georeference
from ziggurat.data.readers.spacing import Scaling, UnscaledError, ground_spacing
from ziggurat.errors import UserError

METRES = Scaling("data.gsd", 0.2)
MICRONS = Scaling("data.mpp", 0.5)

# Metres of a degree of the WGS 84 ellipsoid at latitude 48.1 (radii of curvature M and N cos of the latitude)
E2 = 0.00669437999014
SINE = math.sin(math.radians(48.1))
MERIDIAN = math.radians(1) * 6378137 * (1 - E2) / (1 - E2 * SINE**2) ** 1.5
PARALLEL = math.radians(1) * 6378137 / math.sqrt(1 - E2 * SINE**2) * math.cos(math.radians(48.1))


def place(crs: str, *transform: float) -> Georeference:
    a, b, c, d, e, f = transform
    return Georeference((a, b, c, d, e, f), crs)


@pytest.mark.parametrize(
    ("georeference", "rows", "columns"),
    [
        (place("EPSG:32632", 0.1, 0, 500000, 0, -0.1, 5600000), 0.1, 0.1),
        (place("EPSG:32632", 0.3, 0, 500000, 0, -0.2, 5600000), 0.2, 0.3),
        (place("EPSG:32632", 0.3, 0, 500000, 0, 0.2, 5600000), 0.2, 0.3),  # the south on top
        (place("EPSG:32632", 0, 0.3, 500000, 0.2, 0, 5600000), 0.3, 0.2),  # on its side
        (place("EPSG:32632", 0.12, 0.16, 500000, 0.16, -0.12, 5600000), 0.2, 0.2),  # turned
        (place("EPSG:2263", 0.5, 0, 980000, 0, -0.5, 200000), 0.5 * 0.3048006096, 0.5 * 0.3048006096),  # feet
        (place("EPSG:32632+5783", 0.1, 0, 500000, 0, -0.1, 5600000), 0.1, 0.1),  # with heights
        (place('LOCAL_CS["site",UNIT["metre",1]]', 0.05, 0, 0, 0, -0.05, 0), 0.05, 0.05),
        (place("EPSG:4326", 1e-6, 0, 11.5, 0, -1e-6, 48.1), 1e-6 * MERIDIAN, 1e-6 * PARALLEL),
    ],
)  # fmt: skip
def test_metres_of_a_pixel(georeference, rows, columns):
    assert ground_spacing(georeference, (10, 20)) == pytest.approx((rows, columns), rel=1e-5)


def test_web_mercator_is_no_true_length():
    rows, columns = ground_spacing(place("EPSG:3857", 0.6, 0, 1150000, 0, -0.6, 8400000), (10, 10))  # Oslo
    assert columns == pytest.approx(0.6 * math.cos(math.radians(60)), rel=0.01)
    assert rows == pytest.approx(columns, rel=0.01)


def test_grids_of_countries_are_taken_at_their_word():
    """At the edge of a zone of UTM the scale is 1.0004: pixels of 0.1 m stay pixels of 0.1 m, and are not resampled."""
    assert ground_spacing(place("EPSG:32632", 0.1, 0, 780000, 0, -0.1, 5600000), (8, 8)) == (0.1, 0.1)


@pytest.mark.parametrize(
    ("georeference", "why"),
    [
        (place("", 0.1, 0, 0, 0, -0.1, 0), "does not name the CRS"),
        (place("EPSG:4326", 1, 0, 10, 0, -1, 480), "not lie on Earth"),
        (place("EPSG:4978", 1, 0, 10, 0, -1, 48), "no lengths"),
        (place("EPSG:32632", 0, 0, 10, 0, 0, 48), "without a size"),
        (place("nowhere", 1, 0, 10, 0, -1, 48), "not known"),
    ],
)
def test_what_has_no_lengths(georeference, why):
    with pytest.raises(UnscaledError, match=why):
        ground_spacing(georeference, (8, 8))


def test_the_package_is_named(monkeypatch):
    def missing(module, extra, what):
        raise UserError(f"{what} needs the package {module}")

    monkeypatch.setattr(spacing, "extra_package", missing)
    spacing._ground_of.cache_clear()
    with pytest.raises(UserError, match=r"data\.gsd needs the package pyproj") as caught:
        ground_spacing(place("EPSG:32632", 1, 0, 0, 0, -1, 0), (8, 8))
    assert not isinstance(caught.value, UnscaledError), "this is no fault of the image"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("north", (0.1, 0.1)), ("south", (0.5, 0.5)), ("south_up", (0.402, 0.402)), ("turned", (0.2, 0.2)),
     ("degrees", (1e-6 * MERIDIAN, 1e-6 * PARALLEL))],
)  # fmt: skip
def test_files_say_metres(tmp_path, name, expected):
    path = write_scene(tmp_path / "a.tif", GROUNDS[name])
    assert METRES.spacing(path) == pytest.approx(expected, rel=0.01)
    with pytest.raises(UnscaledError, match=r"data\.gsd is for such images"):
        MICRONS.spacing(path)


def test_a_crs_that_only_gdal_puts_together(tmp_path):
    crs = "+proj=tmerc +lat_0=0 +lon_0=9.5 +k=1 +x_0=123456 +y_0=0 +ellps=GRS80 +units=m"
    path = write_scene(tmp_path / "a.tif", Ground(crs, Affine(0.25, 0, 130000, 0, -0.25, 5600000)))
    assert METRES.spacing(path) == (0.25, 0.25)


def write_ome(path: Path) -> Path:
    pixels = np.zeros((40, 60), np.uint8)
    axes = {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(path, pixels, ome=True, metadata=axes)
    return path


def test_files_say_microns(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif")
    assert MICRONS.spacing(path) == (0.5, 0.25)
    with pytest.raises(UnscaledError, match=r"says microns.*data\.mpp is for such images"):
        METRES.spacing(path)


def test_files_say_nothing(tmp_path):
    Image.new("RGB", (9, 8)).save(tmp_path / "a.png")
    for scaling in (METRES, MICRONS):
        with pytest.raises(UnscaledError):
            scaling.spacing(tmp_path / "a.png")
    with rasterio.open(
        tmp_path / "b.tif", "w", driver="GTiff", count=1, height=8, width=8, dtype="uint8",
        transform=Affine(0.1, 0, 0, 0, -0.1, 0),
    ) as file:  # fmt: skip
        file.write(np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(UnscaledError, match="CRS"):
        METRES.spacing(tmp_path / "b.tif")


@pytest.mark.parametrize("wanted", [0.1 / 33, 500.0])
def test_a_slip_of_the_unit_is_refused(tmp_path, wanted):
    path = write_scene(tmp_path / "a.tif", GROUNDS["north"])
    with pytest.raises(UnscaledError, match="check the unit"):
        Scaling("data.gsd", wanted).spacing(path)


def test_no_header_is_asked_without_need():
    assert Scaling.of(DataConfig()) is None
    assert Scaling.of(DataConfig(gsd=0.2)) == METRES
    assert Scaling.of(DataConfig(mpp=0.5, unscaled="keep")) == Scaling("data.mpp", 0.5, keeps_unscaled=True)
