"""What becomes of a mask's areas as polygons: of hand-made masks each corner is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from PIL import Image
from rasterio.features import rasterize

from ziggurat.cli.main import main
from ziggurat.data.readers.image_files import inspect_images
from ziggurat.data.readers.layout import AS_THEY_ARE
from ziggurat.errors import UserError
from ziggurat.inference.outputs.base import Target
from ziggurat.inference.outputs.polygons import PolygonRules
from ziggurat.inference.outputs.registry import check_polygons
from ziggurat.inference.outputs.writing import Outputs

CLASSES = ("background", "gland", "tumour")


def polygons(labels: np.ndarray, folder, **rules) -> list[tuple[str, shapely.Polygon]]:
    """Return the class and polygon of each area, as QuPath would read them."""
    (folder / "masks").mkdir(parents=True)
    mask = folder / "masks" / "a.png"
    Image.fromarray(labels).save(mask)
    images = inspect_images([mask], 1 << 30, AS_THEY_ARE)
    target = Target(folder, CLASSES, (1, 2, 3), "masks", PolygonRules.of(rules))
    outputs = Outputs(("qupath",), target)
    row = {"image_id": 1, "file_name": "a.png", "mask": str(mask), "pixels": {}}
    outputs.image(images, 0, "a", [row])
    outputs.write(images, ["a"], [[row]])
    content = json.loads((folder / "qupath" / "a.geojson").read_text())
    return [
        (one["properties"]["classification"]["name"], shapely.geometry.shape(one["geometry"]))
        for one in content["features"]
    ]


def scene() -> np.ndarray:
    """A gland of 300 pixels with holes of 4 and 12, one of which holds a tumour; a spot of 6; two glands that touch at a corner."""
    labels = np.zeros((60, 60), np.uint8)
    labels[5:25, 5:20] = 1
    labels[8:10, 8:10] = 0
    labels[14:17, 8:12] = 2
    labels[40:42, 3:6] = 2
    labels[30:40, 30:40] = labels[40:50, 40:50] = 1
    return labels


def test_areas_have_their_holes_and_touch_at_no_corner(tmp_path):
    found = polygons(scene(), tmp_path)
    assert sorted((name, one.area, len(one.interiors)) for name, one in found) == [
        ("gland", 100.0, 0), ("gland", 100.0, 0), ("gland", 284.0, 2), ("tumour", 6.0, 0), ("tumour", 12.0, 0),
    ]  # fmt: skip
    assert all(one.is_valid for _, one in found)
    drawn = rasterize([(one, CLASSES.index(name)) for name, one in found], out_shape=(60, 60))
    assert (drawn == scene()).all()


def test_small_areas_and_holes_go(tmp_path):
    def sizes(folder, **rules):
        return sorted(
            (name, one.area, len(one.interiors)) for name, one in polygons(scene(), folder, **rules)
        )

    assert sizes(tmp_path / "a", min_area=7) == [
        ("gland", 100.0, 0),
        ("gland", 100.0, 0),
        ("gland", 284.0, 2),
        ("tumour", 12.0, 0),
    ]
    assert sizes(tmp_path / "b", min_area="12.5", min_hole=4.5) == [
        ("gland", 100.0, 0),
        ("gland", 100.0, 0),
        ("gland", 288.0, 1),
    ]
    assert sizes(tmp_path / "c", min_area=285) == []
    assert sizes(tmp_path / "d", min_area=284, min_hole=100) == [("gland", 300.0, 0)]


def test_simplified_borders_stay_near(tmp_path):
    rows, columns = np.mgrid[:200, :200]
    disc = ((rows - 100) ** 2 + (columns - 100) ** 2 < 80**2) & (
        (rows - 100) ** 2 + (columns - 90) ** 2 > 30**2
    )
    ((_, exact),) = polygons(disc.astype(np.uint8), tmp_path / "exact")
    for tolerance in (1.0, 3.0):
        ((_, one),) = polygons(disc.astype(np.uint8), tmp_path / str(tolerance), simplify=tolerance)
        assert one.is_valid
        assert len(one.interiors) == 1
        assert len(one.exterior.coords) < len(exact.exterior.coords) / 4
        assert one.hausdorff_distance(exact) <= 2 * tolerance + 1e-9
        assert one.area == pytest.approx(exact.area, rel=0.03)


def test_foolish_rules_are_refused():
    with pytest.raises(UserError) as caught:
        PolygonRules.of({"minarea": 3, "min_hole": "-1", "simplify": "much", "min_area": "inf"})
    assert caught.value.faults == [
        "--polygons has no 'minarea': did you mean 'min_area'?",
        "--polygons takes numbers of pixels, 0 or more: got min_hole=-1",
        "--polygons takes numbers of pixels, 0 or more: got simplify=much",
        "--polygons takes numbers of pixels, 0 or more: got min_area=inf",
    ]
    rules = PolygonRules(min_area=3)
    check_polygons(rules, ("csv", "gpkg"), "masks")
    check_polygons(PolygonRules(), ("csv",), "boxes")
    with pytest.raises(UserError, match="is for formats of polygons: add one"):
        check_polygons(rules, ("mask", "csv"))
    with pytest.raises(UserError, match="this task's results lie on boxes"):
        check_polygons(rules, ("gpkg",), "boxes")


def test_the_command_checks_rules_first(capsys):
    assert (
        main(["predict", "no-run", "no-image.png", "--format", "gpkg", "--polygons", "min_area=3,simplify"])
        == 2
    )
    assert "got simplify=" in capsys.readouterr().err
