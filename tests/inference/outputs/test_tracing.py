"""Areas of masks that are traced row by row: those of GDAL, which holds all of them at once."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from rasterio.features import rasterize, shapes

from ziggurat.inference.outputs.tracing import trace_areas


def polygons(
    labels: np.ndarray, rows: int, skipped: tuple[int, ...] = ()
) -> list[tuple[int, shapely.Polygon]]:
    bands = [labels[top : top + rows] for top in range(0, len(labels), rows)]
    return [
        (area.label, shapely.Polygon(area.rings[0], area.rings[1:])) for area in trace_areas(bands, skipped)
    ]


def in_order(found: list[tuple[int, shapely.Polygon]]) -> list[tuple[int, str]]:
    return sorted((label, shapely.normalize(one).wkt) for label, one in found)


@pytest.mark.parametrize("seed", range(60))
def test_areas_are_those_of_the_whole_mask(seed):
    random = np.random.default_rng(seed)
    rows, columns = random.integers(1, 14, 2)
    labels = random.integers(0, random.integers(2, 5), (rows, columns)).astype(np.uint8)
    if seed % 2:
        labels = np.kron(labels, np.ones((2, 3), np.uint8))
    found = polygons(labels, int(random.integers(1, 6)))
    assert all(one.is_valid for _, one in found)
    assert (rasterize([(one, label + 1) for label, one in found], out_shape=labels.shape) == labels + 1).all()
    expected = [(int(value), shapely.geometry.shape(one)) for one, value in shapes(labels, connectivity=4)]
    assert in_order(found) == in_order(expected)
    some = polygons(labels, 3, skipped=(0, 2))
    assert in_order(some) == in_order([one for one in expected if one[0] not in (0, 2)])


def test_a_hole_that_touches_the_border_by_a_corner():
    """The walk around the area passes there twice; two holes that touch each other, too."""
    picture = ["......", ".####.", ".#.#..", ".##.#.", ".####.", "......"]
    labels = np.array([[letter == "#" for letter in line] for line in picture]).astype(np.uint8)
    ((_, one),) = polygons(labels, 1, skipped=(0,))
    assert one.is_valid
    assert (one.area, len(one.interiors)) == (labels.sum(), 2)
    assert (rasterize([one], out_shape=labels.shape) == labels).all()


def test_a_spiral_is_one_area():
    labels = np.zeros((41, 41), np.uint8)
    for inset in range(0, 20, 2):
        labels[inset, inset : 41 - inset] = labels[inset : 41 - inset, 40 - inset] = 1
        labels[40 - inset, inset : 41 - inset] = labels[inset + 2 : 41 - inset, inset] = 1
        labels[inset + 2, inset : inset + 3] = 1
    expected = [(int(value), shapely.geometry.shape(one)) for one, value in shapes(labels, connectivity=4)]
    assert in_order(polygons(labels, 7)) == in_order(expected)


def test_areas_leave_as_soon_as_they_have_ended():
    given = []

    def bands():
        for number in range(50):
            given.append(number)
            band = np.zeros((10, 30), np.uint8)
            band[2:5, 3:9] = 1 + number
            yield band

    for number, area in enumerate(trace_areas(bands(), skipped=(0,))):
        assert area.label == 1 + number
        assert len(given) == number + 1
        top = 10 * number
        assert area.rings == [[(3, top + 2), (9, top + 2), (9, top + 5), (3, top + 5), (3, top + 2)]]
    assert number == 49
    assert list(trace_areas([])) == []
