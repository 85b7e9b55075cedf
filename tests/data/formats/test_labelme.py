"""labelme's files: boxes, outlines, groups, and what is passed over or wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.datasets import CONFIG, faults_of, open_masks, opened, write_image
from ziggurat.data.formats import find_faults, recognise_annotations

BOX = {"label": "dog", "shape_type": "rectangle", "points": [[11, 22], [1, 2]]}
POLYGON = {"label": "cat", "shape_type": "polygon", "points": [[2, 3], [12, 3], [12, 9.5], [2, 9]]}
CIRCLE = {"label": "cat", "shape_type": "circle", "points": [[20, 15], [23, 19]]}


def write(folder: Path, *shapes: Any, name: str = "a", **other: Any) -> Path:
    """Write an image of 40 x 30 pixels and its JSON."""
    write_image(folder / f"{name}.png")
    content = {
        "version": "5.3.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": f"{name}.png",
        "imageData": None,
    }
    content |= {"imageHeight": 30, "imageWidth": 40} | other
    (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_shapes_are_boxes(tmp_path: Path) -> None:
    dataset = opened(write(tmp_path, BOX, POLYGON, CIRCLE))
    assert dataset.classes == ("cat", "dog")
    assert dataset.objects(0).boxes_xyxy.tolist() == [[1, 2, 11, 22], [2, 3, 12, 9.5], [15, 10, 25, 20]]
    assert dataset.objects(0).labels.tolist() == [1, 0, 0]
    assert faults_of(tmp_path) == []
    assert recognise_annotations(str(tmp_path), CONFIG) == ("boxes",)


def test_polygons_are_masks(tmp_path: Path) -> None:
    square = POLYGON | {"points": [[10, 6], [30, 6], [30, 24], [10, 24]]}
    write(tmp_path, square)
    mask = open_masks(tmp_path).mask(0)
    assert (mask[6:24, 10:30] == 1).all()
    assert int((mask == 1).sum()) == 18 * 20


def test_a_group_is_one_object(tmp_path: Path) -> None:
    far = POLYGON | {"points": [[30, 20], [35, 20], [35, 25]], "group_id": 4}
    write(tmp_path, POLYGON | {"group_id": 4}, far, BOX | {"group_id": 4}, POLYGON | {"group_id": 5})
    boxes = opened(tmp_path).objects(0).boxes_xyxy.tolist()
    assert boxes == [[2, 3, 35, 25], [1, 2, 11, 22], [2, 3, 12, 9.5]]


@pytest.mark.parametrize("kind", ["point", "points", "line", "linestrip"])
def test_what_has_no_area_is_passed_over_and_said(tmp_path: Path, kind: str) -> None:
    write(tmp_path, BOX, {"label": "dog", "shape_type": kind, "points": [[1, 1]]})
    faults, summary = find_faults(str(tmp_path), CONFIG)
    assert (faults, summary.annotations) == ([], 1)
    assert f"a shape of type '{kind}' has no area" in summary.notes[0]


@pytest.mark.parametrize(
    "path", ["..\\img\\a.png", "C:\\Users\\me\\a.png", "a.png", "gone.jpg", "", None, "/home/me/set/a.png"]
)
def test_the_image_is_found_by_its_path_or_by_the_files_name(tmp_path: Path, path: str | None) -> None:
    assert opened(write(tmp_path, BOX, imagePath=path)).path(0) == tmp_path / "a.png"


def test_splits(tmp_path: Path) -> None:
    write(tmp_path / "train", BOX)
    write(tmp_path / "val", POLYGON | {"label": "dog"}, BOX, name="b")
    assert [len(opened(tmp_path, split).objects(0)) for split in ("train", "val")] == [1, 2]  # type: ignore[arg-type] # both are


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (BOX | {"points": [[1, 2]]}, "unreadable shape"),
        (BOX | {"points": [[1, 2], [3, "x"]]}, "unreadable shape"),
        (BOX | {"points": None}, "unreadable shape"),
        (BOX | {"points": [[1, 2], [3, 4, 5]]}, "unreadable shape"),
        (POLYGON | {"points": [[1, 2], [3, 4]]}, "unreadable shape"),
        (CIRCLE | {"points": [[1, 2], [3, 4], [5, 6]]}, "unreadable shape"),
        (BOX | {"shape_type": "cuboid"}, "unreadable shape"),
        (BOX | {"label": " "}, "unknown category"),
        (BOX | {"label": None}, "unknown category"),
        ("nonsense", "unknown category"),
        (BOX | {"points": [[1, 2], [1, 9]]}, "box without area"),
        (BOX | {"points": [[1, 2], [90, 9]]}, "box outside the image"),
    ],
)
def test_each_fault_is_found(tmp_path: Path, shape: Any, kind: str) -> None:
    write(tmp_path, BOX, shape)
    assert [fault.kind for fault in faults_of(tmp_path)] == [kind]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"shapes": 3, "imagePath": "a.png"}'])
def test_a_file_that_is_none(tmp_path: Path, content: str) -> None:
    write(tmp_path, BOX)
    (tmp_path / "b.json").write_text(content)
    (fault,) = faults_of(tmp_path)
    assert fault.kind in ("empty annotation file", "not JSON", "not labelme")
