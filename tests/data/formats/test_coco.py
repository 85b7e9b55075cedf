from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from support.datasets import CONFIG, annotation, coco, faults_of, guesses, open_masks, opened, write_coco
from ziggurat.data.formats import find_faults
from ziggurat.data.formats.validate import OVERHANG
from ziggurat.errors import UserError
from ziggurat.tasks.opening import recognise_tasks
from ziggurat.tasks.registry import tasks_of


def test_boxes_labels_and_ids(tmp_path: Path) -> None:
    content = coco(
        annotation(1), annotation(2, image_id=8, category_id=1, area=7.5), annotation(3, bbox=[0, 0, 40, 30])
    )
    dataset = opened(write_coco(tmp_path, content))
    assert dataset.classes == ("cat", "dog")
    assert dataset.category_ids == (1, 5)
    assert [dataset.record(i).image_id for i in range(2)] == [3, 8]
    assert dataset.objects(0).boxes_xyxy.tolist() == [[1, 2, 11, 22], [0, 0, 40, 30]]
    assert dataset.objects(0).labels.tolist() == [1, 1]
    assert dataset.objects(1).labels.tolist() == [0]
    assert dataset.areas(1).tolist() == [7.5]
    assert dataset.areas(0).tolist() == [200, 1200]
    assert not faults_of(tmp_path)


def test_crowds(tmp_path: Path) -> None:
    dataset = opened(write_coco(tmp_path, coco(annotation(1), annotation(2, iscrowd=1))))
    assert len(dataset.objects(0)) == 1
    assert dataset.crowd(0).tolist() == [False, True]


def test_a_class_declared_twice_counts_once(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "dog"}, {"id": 5, "name": "dog"}, {"id": 7, "name": "cat"}]
    dataset = opened(write_coco(tmp_path, coco(annotation(), categories=categories)))
    assert (dataset.classes, dataset.category_ids) == (("dog", "cat"), (5, 7))
    assert dataset.objects(0).labels.tolist() == [0]


def test_ids_that_are_words(tmp_path: Path) -> None:
    images = [{"id": "x", "file_name": "a.png"}, {"id": "y", "file_name": "b.png"}]
    dataset = opened(write_coco(tmp_path, coco(annotation(image_id="y"), images=images)))
    assert [dataset.record(i).image_id for i in range(2)] == [1, 2]
    assert [len(dataset.objects(i)) for i in range(2)] == [0, 1]
    assert (dataset.record(0).height, dataset.record(0).width) == (30, 40), "from the image's header"


@pytest.mark.parametrize(
    ("content", "id", "kind"),
    [
        (coco(annotation(4, bbox=[1, 2, 0, 5])), 4, "box without area"),
        (coco(annotation(4, bbox=[1, 2, -3, 5])), 4, "box without area"),
        (coco(annotation(4, bbox=[35, 2, 10, 5])), 4, "box outside the image"),
        (coco(annotation(4, bbox=[1, -3, 10, 5])), 4, "box outside the image"),
        (coco(annotation(4, bbox=[1, 2, float("nan"), 5])), 4, "box not finite"),
        (coco(annotation(4, bbox=[1, 2, float("inf"), 5])), 4, "box not finite"),
        (coco(annotation(4, bbox=[1, 2, 10**400, 5])), 4, "unreadable box"),
        (coco(annotation(4, bbox=[1, 2, 5])), 4, "unreadable box"),
        (coco(annotation(4, bbox=["1", 2, 5, 5])), 4, "unreadable box"),
        (coco(annotation(4, bbox=None)), 4, "unreadable box"),
        (coco(annotation(4, category_id=9)), 4, "unknown category"),
        (coco(annotation(4, category_id=[9])), 4, "unknown category"),
        (coco(annotation(4, image_id=9)), 4, "unknown image"),
        (coco(annotation(4), annotation(4, bbox=[2, 2, 10, 20])), 4, "duplicate annotation id"),
        (coco("x", annotation()), None, "unreadable annotation"),
        (
            coco(annotation(), images=[*coco()["images"], {"id": 3, "file_name": "c.png"}]),
            3,
            "duplicate image id",
        ),
        (
            coco(annotation(), images=[*coco()["images"], {"id": 4, "file_name": "a.png"}]),
            4,
            "duplicate image",
        ),
        (
            coco(annotation(), images=[*coco()["images"], {"file_name": "c.png"}]),
            None,
            "unreadable image entry",
        ),
        (coco(annotation(), images=[*coco()["images"], {"id": 4, "file_name": "c.png"}]), 4, "missing image"),
        (
            coco(annotation(), images=[*coco()["images"], {"id": 4, "file_name": "c\0"}]),
            4,
            "missing image",
        ),
        (
            coco(annotation(), images=[*coco()["images"], {"id": 4, "file_name": "../outside.png"}]),
            4,
            "path leaves the data set",
        ),
        (
            coco(annotation(), images=[*coco()["images"], {"id": 4, "file_name": "/etc/passwd"}]),
            4,
            "path leaves the data set",
        ),
        (
            coco(annotation(), categories=[*coco()["categories"], {"id": 5, "name": "x"}]),
            5,
            "duplicate category id",
        ),
        (coco(annotation(), categories=[*coco()["categories"], {"id": "z"}]), None, "unreadable category"),
        (coco(annotation(), categories=[{"id": 5, "name": "\ud800"}]), None, "not text"),
        (
            coco(
                annotation(),
                images=[
                    {"id": 3, "file_name": "a.png", "height": 1e300, "width": 10**30},
                    {"id": 10**40, "file_name": "a.png"},
                ],
            ),
            10**40,
            "duplicate image",
        ),
        (coco(), None, "empty annotation file"),
        (coco(images=[]), None, "empty annotation file"),
        ({"images": []}, None, "not COCO"),
        ([1, 2], None, "not COCO"),
    ],
)
def test_each_fault_is_found(tmp_path: Path, content: Any, id: int | None, kind: str) -> None:
    folder = tmp_path / "set"
    file = write_coco(folder, content)
    found = faults_of(file)
    assert [(fault.file, fault.id, fault.kind) for fault in found] == [(str(file), id, kind)]
    if kind not in ("duplicate annotation id", "duplicate image"):
        with pytest.raises(UserError, match=kind) as raised:
            opened(file)
        assert str(file) in str(raised.value)
    else:
        assert len(opened(file)) >= 2, "this fault does no harm to training"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty annotation file"),
        (b" \n", "empty annotation file"),
        (b"{", "not JSON"),
        (b'{"images": [' + b"[" * 100_000, "not JSON"),
        (b"\xff\xfe\x00{", "not text"),
        (b"7" * 5000, "not JSON"),
    ],
)
def test_what_is_not_json(tmp_path: Path, content: bytes, kind: str) -> None:
    file = tmp_path / "train.json"
    file.write_bytes(content)
    assert [fault.kind for fault in faults_of(file)] == [kind]
    with pytest.raises(UserError, match=kind):
        opened(tmp_path)


def test_one_pixel_outside_is_rounding(tmp_path: Path) -> None:
    file = write_coco(tmp_path, coco(annotation(1, bbox=[-1, 0, 42, 31])))
    assert not faults_of(file)
    dataset = opened(file)
    assert dataset.objects(0).boxes_xyxy.tolist() == [[0, 0, 40, 30]], "what is trained on lies in the image"
    assert dataset.all_objects(0).boxes_xyxy.tolist() == [[-1, 0, 41, 31]], "the metric sees what is written"
    assert guesses(dataset.notes) == [f"{OVERHANG} (a.png, 1)"]


@pytest.mark.parametrize("box", [[60, 5, 10, 10], [5, 5, float("nan"), 10], [5, 5, 0, 10]])
def test_what_is_a_fault_is_not_rounding(tmp_path: Path, box: list[float]) -> None:
    file = write_coco(tmp_path, coco(annotation(1, bbox=box)))
    faults, summary = find_faults(str(file), CONFIG)
    assert faults
    assert not [note for note in summary.notes if OVERHANG in note]


def test_a_box_in_an_image_that_is_missing_is_not_rounding(tmp_path: Path) -> None:
    file = write_coco(tmp_path, coco(annotation(1, bbox=[5, 5, 10, 10])))
    (tmp_path / "a.png").unlink()
    faults, summary = find_faults(str(file), CONFIG)
    assert [fault.kind for fault in faults] == ["missing image"]
    assert not [note for note in summary.notes if OVERHANG in note]


def test_size_mismatch_and_undecodable_image(tmp_path: Path) -> None:
    file = write_coco(tmp_path, coco(annotation(), images=[
        {"id": 1, "file_name": "a.png", "width": 30, "height": 40},
        {"id": 3, "file_name": "b.png", "width": 40, "height": 30},
    ]))  # fmt: skip
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:60])
    first, second = faults_of(file)
    assert (first.file, first.id) == (str(file), 1)
    assert first.fault.startswith(
        "size mismatch: the image 'a.png' has 40 x 30 pixels, the annotation says 30 x 40"
    )
    assert (second.file, second.id, second.kind) == (str(tmp_path / "b.png"), 3, "undecodable image")


def test_all_faults_in_one_message(tmp_path: Path) -> None:
    flat = [annotation(id, bbox=[1, 1, 0, 5]) for id in range(1, 11)]
    file = write_coco(tmp_path, coco(*flat, annotation(20, category_id=9)))
    with pytest.raises(UserError) as raised:
        opened(tmp_path)
    assert len(raised.value.faults) == 5
    message = str(raised.value)
    assert f"7 more of 'box without area': run 'ziggurat check {tmp_path}' to see them all" in message
    assert f"{file}, 20: unknown category" in message


def test_missing_image_names_the_nearest(tmp_path: Path) -> None:
    content = coco(annotation(), images=[{"id": 3, "file_name": "field_01.jpg"}])
    file = write_coco(tmp_path, content)
    (tmp_path / "a.png").rename(tmp_path / "field_01.png")
    (fault,) = faults_of(file)
    assert fault.fault.startswith("missing image: there is no 'field_01.jpg'; did you mean 'field_01.png'?")


SQUARE = [[2, 3, 12, 3, 12, 9, 2, 9]]


def test_outlines_are_masks(tmp_path: Path) -> None:
    crowd = {"size": [30, 40], "counts": [0, 30 * 5, 30 * 35]}  # the first five columns
    content = coco(
        annotation(1, segmentation=SQUARE),
        annotation(2, category_id=1, segmentation=[[4, 4, 8, 4, 8, 8, 4, 8]]),
        annotation(3, iscrowd=1, segmentation=crowd),
    )
    file = write_coco(tmp_path, content)
    dataset = open_masks(file)
    assert (dataset.classes, dataset.category_ids) == (("background", "cat", "dog"), (0, 1, 5))
    expected = torch.zeros(30, 40, dtype=torch.uint8)
    expected[:, :5] = 255
    expected[3:9, 2:12] = 2
    expected[4:8, 4:8] = 1
    assert dataset.mask(0).equal(expected)
    assert not dataset.mask(1).any()
    assert (
        recognise_tasks(str(file), CONFIG)
        == tasks_of(find_faults(str(file), CONFIG)[1].kinds)
        == ("detect", "segment")
    )
    known = open_masks(file, classes=("background", "dog", "bird", "cat"))
    assert (known.category_ids, known.mask(0).unique().tolist()) == ((0, 5, 3, 1), [0, 1, 3, 255])


def test_a_category_of_the_background_is_label_0(tmp_path: Path) -> None:
    categories = [{"id": 5, "name": "background"}, {"id": 7, "name": "cat"}]
    annotations = [annotation(1, segmentation=SQUARE), annotation(2, category_id=7, segmentation=SQUARE)]
    dataset = open_masks(write_coco(tmp_path, coco(*annotations, categories=categories)))
    assert dataset.classes == ("background", "cat")
    assert dataset.mask(0).unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("segmentation", "kind"),
    [
        ([[1, 2, 3, 4]], "unreadable outline"),
        ({"size": [30, 40], "counts": [3]}, "unreadable outline"),
        ([[1, 2, 3, 4, 1e6, 3]], "unreadable outline"),
        ([], "object without outline"),
    ],
)
def test_outlines_that_cannot_be_drawn(tmp_path: Path, segmentation: Any, kind: str) -> None:
    content = coco(annotation(1, segmentation=SQUARE), annotation(4, segmentation=segmentation))
    file = write_coco(tmp_path, content)
    with pytest.raises(UserError, match=f"train.json, 4: {kind}"):
        open_masks(file)
    assert len(opened(file).objects(0)) == 2, "boxes are not harmed"
    faults, summary = find_faults(str(file), CONFIG)
    assert [(fault.id, fault.kind) for fault in faults] == ([(4, kind)] if segmentation else [])
    assert tasks_of(summary.kinds) == (("detect", "segment") if segmentation else ("detect",))


def test_boxes_serve_no_segmentation(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="was recognised as coco, which serves detect here; give --task detect"
    ):
        open_masks(write_coco(tmp_path))


RUNS = {"size": [30, 40], "counts": [3 * 30 + 2, 7, 23, 7, 1200 - (3 * 30 + 2 + 7 + 23 + 7)]}


@pytest.mark.parametrize(
    ("segmentation", "box"),
    [
        ([[2, 3, 12, 3, 12, 9, 2, 9]], [2, 3, 12, 9]),
        ([[2, 3, 12, 3, 12, 9], [20, 20.5, 30, 21, 25, 29]], [2, 3, 30, 29]),
        (RUNS, [3, 2, 5, 9]),
    ],
)
@pytest.mark.parametrize("bbox", ["absent", None, []])
def test_an_annotation_without_a_box_has_the_box_around_its_outline(
    tmp_path: Path, segmentation: Any, box: list[float], bbox: Any
) -> None:
    entry = annotation(segmentation=segmentation, bbox=bbox)
    if bbox == "absent":
        del entry["bbox"]
    dataset = opened(write_coco(tmp_path, coco(entry)))
    assert dataset.objects(0).boxes_xyxy.tolist() == [box]
    assert len(guesses(dataset.notes)) == 1


@pytest.mark.parametrize(
    "segmentation", [None, [], "x", [["a"]], [[1, 2, 3]], [3], {"size": [30, 40], "counts": [5]}, {}]
)
def test_neither_box_nor_outline(tmp_path: Path, segmentation: Any) -> None:
    entry = annotation(segmentation=segmentation)
    del entry["bbox"]
    assert "unreadable box" in [fault.kind for fault in faults_of(write_coco(tmp_path, coco(entry)))]


@pytest.mark.parametrize("written", [str, float, lambda id: f"{id}", lambda id: id])
@pytest.mark.parametrize("key", ["images", "annotations", "categories", "image_id", "category_id"])
def test_ids_are_the_same_however_they_are_written(tmp_path: Path, key: str, written: Any) -> None:
    content = coco(annotation(), annotation(2, image_id=8, bbox=[0, 0, 5, 5]))
    for one in content[key] if key in content else content["annotations"]:
        place = "id" if key in content else key
        one[place] = written(one[place])
    dataset = opened(write_coco(tmp_path, content))
    assert [dataset.record(index).image_id for index in (0, 1)] == [3, 8]
    assert dataset.category_ids == (1, 5)
    assert [len(dataset.objects(index)) for index in (0, 1)] == [1, 1]


def test_nothing_but_crowds_is_nothing_to_train_on(tmp_path: Path) -> None:
    file = write_coco(tmp_path, coco(annotation(iscrowd=1), annotation(2, iscrowd=1, bbox=[0, 0, 5, 5])))
    with pytest.raises(UserError, match=r"all 2 annotations are crowds \(iscrowd\)"):
        opened(file)


@pytest.mark.parametrize(
    ("other", "is_doubled"),
    [({}, True), ({"bbox": [1, 2, 10, 20.5]}, False), ({"category_id": 1}, False), ({"image_id": 8}, False), ({"iscrowd": 1}, False)],
)  # fmt: skip
def test_an_annotation_that_is_there_twice_is_said(
    tmp_path: Path, other: dict[str, Any], is_doubled: bool
) -> None:
    file = write_coco(tmp_path, coco(annotation(), annotation(2, **other)))
    assert [(fault.id, fault.kind) for fault in faults_of(file)] == [(2, "doubled annotation")] * is_doubled
    assert len(guesses(opened(file).notes)) == is_doubled
