"""Polygons over georeferenced images: drawn in pixels, brought to the ground by rasterio, and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from pyogrio.raw import write
from rasterio.features import rasterize
from rasterio.shutil import copy
from rasterio.warp import transform as warp

from support.georeferenced import GROUNDS, Ground, planted, predict, write_scene
from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.dataset import notes_of
from ziggurat.data.formats.opening import open_split, recognise_annotations
from ziggurat.data.formats.vectors import NO_AREA, NO_FEATURE, NO_IMAGE, NO_MOSAIC, NO_PLACE
from ziggurat.errors import UserError

HOLED = shapely.Polygon(
    [(10, 10), (60, 12), (55, 70), (12, 60)],
    [[(20, 20), (30, 20), (30, 30), (20, 30)], [(40, 40), (50, 40), (50, 50), (40, 50)]],
)


def on_ground(shape: shapely.Geometry, ground: Ground, crs: str) -> shapely.Geometry:
    """Return a shape of pixels in another CRS, by rasterio."""

    def bring(corners: np.ndarray) -> np.ndarray:
        x, y = zip(*(ground.transform @ tuple(corner) for corner in corners), strict=True)
        return np.stack(warp(ground.crs, crs, x, y), axis=1)

    return shapely.transform(shape, bring)


def write_layer(
    file: Path,
    shapes: list[shapely.Geometry],
    columns: dict[str, list[object]],
    crs: str,
    layer: str = "trees",
) -> None:
    """Write shapes with columns."""
    kinds = {shape.geom_type for shape in shapes}
    write(
        file, shapely.to_wkb(np.array(shapes)), [np.array(values, dtype=type(values[0]) if isinstance(values[0], int) else object) for values in columns.values()],
        np.array(list(columns), dtype=object), layer=layer, geometry_type=kinds.pop() if len(kinds) == 1 else "Unknown", crs=crs,
    )  # fmt: skip


def opened(path: Path, split: str = "train", kinds: tuple[str, ...] = ("boxes",), **settings: object):
    return open_split(str(path), split, kinds, DataConfig(**settings), DigitsConfig())


def boxes_of(dataset, index: int = 0) -> set[tuple[object, ...]]:
    objects = dataset.objects(index)
    places = objects.boxes_xyxy.double().round(decimals=3).tolist()
    return {
        (*box, dataset.classes[label]) for box, label in zip(places, objects.labels.tolist(), strict=True)
    }


BOXES = {(5.0, 8.0, 25.0, 38.0, "oak"), (60.0, 20.0, 110.0, 80.0, "pine")}


@pytest.mark.parametrize("name", GROUNDS)
@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp"])
def test_boxes_in_the_crs_of_the_images_and_in_degrees(tmp_path, name, suffix):
    ground = GROUNDS[name]
    write_scene(tmp_path / "ortho.tif", ground)
    crs = "EPSG:4326" if suffix == ".geojson" else ground.crs
    boxes = sorted(BOXES)
    shapes = [on_ground(shapely.box(*box[:4]), ground, crs) for box in boxes]
    write_layer(tmp_path / f"crowns{suffix}", shapes, {"id": [4, 5], "label": [box[4] for box in boxes]}, crs)
    for path in (tmp_path, tmp_path / f"crowns{suffix}"):
        assert recognise_annotations(str(path), DataConfig()) == ("boxes", "outlines")
        dataset = opened(path)
        assert [dataset.record(index).name for index in range(len(dataset))] == ["ortho.tif"]
        assert boxes_of(dataset) == BOXES
        assert notes_of(dataset) == ()


def test_what_is_predicted_is_read_as_annotations(tmp_path):
    image = write_scene(tmp_path / "ortho.tif", GROUNDS["turned"])
    predict([image], tmp_path / "out", ("gpkg", "geojson"))
    for end in ("gpkg", "geojson"):
        dataset = opened(tmp_path / "out" / f"predictions.{end}", images=str(tmp_path))
        names = ("dark", "bright")
        assert boxes_of(dataset) == {(*box, names[label]) for *box, label in planted()}


def test_masks_have_holes_and_are_cut_to_the_image(tmp_path):
    ground = GROUNDS["turned"]
    write_scene(tmp_path / "ortho.tif", ground)
    shapes = [HOLED, shapely.box(100, 60, 130, 85)]
    columns = {"type": ["a", "b"]}
    write_layer(
        tmp_path / "areas.gpkg", [on_ground(one, ground, ground.crs) for one in shapes], columns, ground.crs
    )
    dataset = opened(tmp_path, kinds=("outlines",))
    expected = rasterize([(shapes[0], 1), (shapes[1], 2)], out_shape=(90, 120))
    mask = dataset.mask(0).numpy()
    assert dataset.classes == ("background", "a", "b")
    inner = shapely.unary_union([shape.boundary for shape in shapes]).buffer(1.5)
    border = rasterize([(inner, 1)], out_shape=(90, 120), all_touched=True) == 1
    assert (mask == expected)[~border].all()
    assert (mask[22:28, 22:28] == 0).all()
    assert (mask[:, 110:] == 2).any()
    assert notes_of(dataset) == ("the column 'type' is taken for the class (areas.gpkg, layer trees)",)


def test_what_is_left_out_is_counted(tmp_path):
    ground = GROUNDS["north"]
    for name in ("a.tif", "b.tif"):
        write_scene(tmp_path / name, ground if name == "a.tif" else GROUNDS["south"])
    write_scene(tmp_path / "nowhere.tif", None)
    shapes = [shapely.box(5, 5, 20, 20), shapely.box(500, 5, 520, 20), shapely.box(600, 5, 620, 20), shapely.Point(3, 3),
              shapely.box(119, 20, 140, 40)]  # fmt: skip
    write_layer(
        tmp_path / "x.gpkg",
        [on_ground(one, ground, ground.crs) for one in shapes],
        {"label": list("aaaaa")},
        ground.crs,
    )
    dataset = opened(tmp_path)
    assert len(dataset) == 1
    assert boxes_of(dataset) == {(5.0, 5.0, 20.0, 20.0, "a")}
    notes = notes_of(dataset)
    for what, count in (
        (NO_IMAGE, "3 times"),
        (NO_FEATURE, "b.tif"),
        (NO_PLACE, "nowhere.tif"),
        (NO_AREA, "feature 4"),
    ):
        (note,) = (note for note in notes if note.startswith(what))
        assert count in note


def test_which_column_is_the_class(tmp_path):
    ground = GROUNDS["north"]
    write_scene(tmp_path / "a.tif", ground)
    shape = [on_ground(shapely.box(5, 5, 20, 20), ground, ground.crs)]

    def classes(
        columns: dict[str, list[object]], **settings: object
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        (tmp_path / "x.gpkg").unlink(missing_ok=True)
        write_layer(tmp_path / "x.gpkg", shape, columns, ground.crs)
        dataset = opened(tmp_path, **settings)
        return dataset.classes, notes_of(dataset)

    assert classes({"note": ["n"], "Class": ["oak"]})[0] == ("oak",)
    assert classes({"class_id": [7], "note": ["n"]})[0] == ("7",)
    assert classes({"remark": ["elm"], "id": [1]}) == (
        ("elm",), ("the column 'remark' is taken for the class (x.gpkg, layer trees)",),
    )  # fmt: skip
    found, notes = classes({"id": [1]})
    assert (found, "the name of the layer is the class" in notes[0]) == (("trees",), True)
    assert classes({"label": ["oak"], "genus": ["quercus"]}, label_column="genus") == (("quercus",), ())
    with pytest.raises(UserError, match=r"data\.label_column must be a column"):
        classes({"label": ["oak"], "genus": ["quercus"]}, label_column="genes")


def test_splits_are_files_and_each_has_the_images_with_its_features(tmp_path):
    for split, name in (("train", "north"), ("val", "south")):
        ground = GROUNDS[name]
        write_scene(tmp_path / f"{name}.tif", ground)
        shape = [on_ground(shapely.box(5, 5, 20, 20), ground, ground.crs)]
        write_layer(tmp_path / f"{split}.gpkg", shape, {"label": ["a"]}, ground.crs)
    for split, name in (("train", "north.tif"), ("val", "south.tif")):
        dataset = opened(tmp_path, split)
        assert [dataset.record(index).name for index in range(len(dataset))] == [name]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<OGRVRTDataSource/>", "does not begin as a .gpkg file does"),
        (b"SQLite format 3\0 and then nothing", "cannot read the annotation file"),
        (b"", "does not begin"),
    ],
)
def test_files_that_are_something_else_give_one_message(tmp_path, content, said):
    (tmp_path / "x.gpkg").write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        opened(tmp_path)
    assert len(caught.value.faults) == 1


def test_a_mosaic_counts_where_its_parts_do_not_lie_beside_it(tmp_path):
    ground = GROUNDS["north"]
    (tmp_path / "parts").mkdir()
    write_scene(tmp_path / "parts" / "a.tif", ground)
    copy(tmp_path / "parts" / "a.tif", tmp_path / "all.vrt", driver="VRT")
    write_layer(
        tmp_path / "x.gpkg",
        [on_ground(shapely.box(5, 5, 20, 20), ground, ground.crs)],
        {"label": ["a"]},
        ground.crs,
    )
    assert opened(tmp_path).record(0).name == "all.vrt"
    write_scene(tmp_path / "a.tif", ground)
    dataset = opened(tmp_path)
    assert [dataset.record(index).name for index in range(len(dataset))] == ["a.tif"]
    assert notes_of(dataset) == (f"{NO_MOSAIC} (all.vrt)",)


def test_a_layer_that_lies_elsewhere_says_where(tmp_path):
    write_scene(tmp_path / "a.tif", GROUNDS["north"])
    write_layer(tmp_path / "x.gpkg", [shapely.box(5, 5, 20, 20)], {"label": ["a"]}, "EPSG:4326")
    with pytest.raises(
        UserError,
        match=r"no feature lies on one of the 1 images: layer trees lies in 5, 5, 20, 20 \(EPSG:4326\)",
    ):
        opened(tmp_path)


def test_text_in_another_encoding_gives_one_message(tmp_path):
    ground = GROUNDS["north"]
    write_scene(tmp_path / "a.tif", ground)
    write_layer(
        tmp_path / "x.shp",
        [on_ground(shapely.box(5, 5, 20, 20), ground, ground.crs)],
        {"label": ["Häher"]},
        ground.crs,
    )
    assert opened(tmp_path).classes == ("Häher",)
    table = tmp_path / "x.dbf"
    table.write_bytes(table.read_bytes().replace("Häher".encode(), "Häher ".encode("latin-1")))
    with pytest.raises(UserError, match="save it as UTF-8"):
        opened(tmp_path)


def test_annotations_of_other_formats_beside_a_layer_are_meant(tmp_path):
    write_scene(tmp_path / "a.tif", GROUNDS["north"])
    (tmp_path / "train.csv").write_text("image_path,xmin,ymin,xmax,ymax,label\na.tif,1,2,30,40,oak\n")
    write_layer(tmp_path / "x.gpkg", [shapely.box(5, 5, 20, 20)], {"label": ["a"]}, "EPSG:32632")
    assert opened(tmp_path).classes == ("oak",)


def test_images_are_missing(tmp_path):
    write_layer(tmp_path / "x.gpkg", [shapely.box(5, 5, 20, 20)], {"label": ["a"]}, "EPSG:32632")
    with pytest.raises(UserError, match=r"data\.images=FOLDER"):
        opened(tmp_path)
