"""Where TIFFs lie on the ground, with EPSG codes and without, is where rasterio says that they lie."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import rasterio

from support.georeferenced import GROUNDS
from ziggurat.data.readers.places import info_of

CRSS = (
    "EPSG:32632", "EPSG:4326", "EPSG:27700", "ESRI:102008", "+proj=laea +lat_0=50 +lon_0=10 +ellps=GRS80 +units=m",
    "+proj=tmerc +lat_0=1 +lon_0=10.3 +k=0.9998 +x_0=7 +datum=WGS84 +units=us-ft",
)  # fmt: skip


@pytest.mark.parametrize("point", ["Area", "Point"])
@pytest.mark.parametrize("crs", CRSS)
def test_transform_and_crs(tmp_path, crs, point):
    for name in ("north", "turned", "south_up"):
        path = tmp_path / f"{name}.tif"
        shape = {"width": 20, "height": 10, "count": 1, "dtype": "uint8"}
        with rasterio.open(
            path, "w", driver="GTiff", crs=crs, transform=GROUNDS[name].transform, **shape
        ) as file:
            file.write(np.zeros((1, 10, 20), np.uint8))
            file.update_tags(AREA_OR_POINT=point)
        with rasterio.open(path) as file:
            transform, wkt = file.transform, file.crs.to_wkt()
        place = info_of(path).georeference
        assert np.allclose(place.transform, transform[:6], rtol=0, atol=1e-9)
        assert pyproj.CRS(place.crs) == pyproj.CRS(wkt)
