"""Every layout that is recognised, and what is said of the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.datasets import (
    CONFIG,
    annotation,
    coco,
    faults_of,
    opened,
    write_coco,
    write_image,
)
from support.layouts import ROW, WITH_BOXES, XML, named_csv, vocs_own, write
from ziggurat.config import DigitsConfig
from ziggurat.data.formats.recognise import format_of, recognise
from ziggurat.errors import UserError
from ziggurat.tasks.opening import open_dataset


@pytest.mark.parametrize("layout", WITH_BOXES)
def test_layouts_with_two_splits(tmp_path: Path, layout: Callable[[Path], None]) -> None:
    layout(tmp_path)
    for split in ("train", "val"):
        dataset = opened(tmp_path, split)  # type: ignore[arg-type] # train or val
        assert dataset.objects(0).boxes_xyxy.tolist() == [[1, 2, 11, 22]]
        assert dataset.classes[int(dataset.objects(0).labels[0])] == "dog"
        assert dataset.image(0).shape == (3, 30, 40)
    assert opened(tmp_path, "train").path(0) != opened(tmp_path, "val").path(0) or layout is named_csv
    assert not faults_of(tmp_path)


def test_one_annotation_file_is_the_train_split(tmp_path: Path) -> None:
    write_coco(tmp_path, name="boxes.json")
    assert set(recognise(tmp_path).splits["boxes"]) == {"train"}
    assert open_dataset(str(tmp_path), "val", "detect", CONFIG, DigitsConfig()) is None
    assert len(opened(tmp_path)) == 2


def test_a_file_serves_as_both_splits(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    assert opened(file, "val").objects(0).boxes_xyxy.tolist() == opened(file).objects(0).boxes_xyxy.tolist()


def test_only_a_val_split(tmp_path: Path) -> None:
    write_coco(tmp_path, name="val.json")
    assert len(opened(tmp_path, "val")) == 2
    with pytest.raises(UserError, match="has no train split: only val was found"):
        opened(tmp_path)


def test_format_is_seen_in_the_content(tmp_path: Path) -> None:
    for content, expected in [
        (json.dumps(coco()), "coco"),
        (XML, "voc"),
        (ROW, "csv"),
        ("{}", None),
        ("", None),
    ]:
        write(tmp_path / "annotations.txt", content)
        assert format_of(tmp_path / "annotations.txt") == expected


def test_format_is_seen_at_the_end_of_a_long_file(tmp_path: Path) -> None:
    content = {"licenses": ["x" * 200_000], "info": {}, "annotations": []}
    write(tmp_path / "a.json", json.dumps(content))
    assert format_of(tmp_path / "a.json") == "coco"


def test_several_annotation_files(tmp_path: Path) -> None:
    write_coco(tmp_path, name="one.json")
    write_coco(tmp_path, name="two.json")
    with pytest.raises(UserError, match=r"several annotation files \(one\.json, two\.json\)"):
        recognise(tmp_path)


def test_nothing_recognised(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write(tmp_path / "notes.json", "{}")
    with pytest.raises(UserError, match=r"no data set is recognised in the folder .*looked for\n"):
        recognise(tmp_path)


def test_a_file_of_no_known_format(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "hello")
    with pytest.raises(
        UserError, match=r"notes\.txt is of no known format: it must be COCO JSON, VOC XML, YOLO's data.yaml"
    ):
        recognise(tmp_path / "notes.txt")


def test_a_data_set_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "trees" / "train.csv", ROW)
    with pytest.raises(UserError, match="did you mean 'trees'"):
        recognise(tmp_path / "tree")
    with pytest.raises(UserError, match=r"the folder .*nowhere does not exist"):
        recognise(tmp_path / "nowhere" / "tree")


def test_a_list_that_leads_out_of_the_data_set(tmp_path: Path) -> None:
    vocs_own(tmp_path)
    write(tmp_path / "ImageSets" / "Main" / "val.txt", "../../secret\n")
    with pytest.raises(UserError, match=r"val\.txt must name files of its data set: got '\.\./\.\./secret'"):
        recognise(tmp_path)


def test_images_may_lie_beside_the_splits_folder(tmp_path: Path) -> None:
    content = coco(annotation(), images=[{"id": 3, "file_name": "../pictures/a.png"}])
    write(tmp_path / "train" / "boxes.json", json.dumps(content))
    write_image(tmp_path / "pictures" / "a.png")
    assert opened(tmp_path).path(0) == tmp_path / "pictures" / "a.png"
