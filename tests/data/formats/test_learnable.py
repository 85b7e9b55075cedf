"""A data set that would train a model on nothing is refused, whatever its format is, and however nothing has come about."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ziggurat
from support.datasets import coco, write_image, write_mask
from ziggurat.cli.main import main
from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.batch import Objects
from ziggurat.data.dataset import Dataset, ImageRecord
from ziggurat.data.formats import find_faults
from ziggurat.data.formats.learnable import check_learnable
from ziggurat.data.formats.own import register_data
from ziggurat.errors import UserError
from ziggurat.tasks.opening import open_dataset
from ziggurat.tasks.registry import find_task

OBJECT = (
    "<object><name>cat</name><difficult>{difficult}</difficult><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax>"
    "</bndbox></object>"
)


def voc(objects: str, folder: Path) -> None:
    for name in "ab":
        write_image(folder / "JPEGImages" / f"{name}.png")
        (folder / "Annotations").mkdir(exist_ok=True)
        text = f"<annotation><filename>{name}.png</filename><size><width>40</width><height>30</height></size>{objects}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(text)


def yolo(text: str | None, folder: Path) -> None:
    (folder / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train\n")
    (folder / "labels" / "train").mkdir(parents=True)
    for name in "ab":
        write_image(folder / "images" / "train" / f"{name}.png")
        if text is not None:
            (folder / "labels" / "train" / f"{name}.txt").write_text(text)


def csv(rows: str, folder: Path) -> None:
    for name in "ab":
        write_image(folder / f"{name}.png")
    (folder / "boxes.csv").write_text(f"image,xmin,ymin,xmax,ymax,label\n{rows}")


def coco_file(annotations: list[dict[str, Any]], replaced: dict[str, Any], folder: Path) -> None:
    for name in "ab":
        write_image(folder / f"{name}.png")
    (folder / "boxes.json").write_text(json.dumps(coco(*annotations, **replaced)))


def masks(value: int, classes: str, folder: Path) -> None:
    (folder / "classes.txt").write_text(classes)
    for name in "ab":
        write_image(folder / "images" / "train" / f"{name}.png")
        write_mask(folder / "masks" / "train" / f"{name}.png", np.full((30, 40), value, np.uint8))


def labelme(shapes: list[dict[str, Any]], folder: Path) -> None:
    for name in "ab":
        write_image(folder / f"{name}.png")
        content = {"imagePath": f"{name}.png", "imageHeight": 30, "imageWidth": 40, "shapes": shapes}
        (folder / f"{name}.json").write_text(
            json.dumps({"version": "5.0", "imageData": None, "flags": {}, **content})
        )


def class_folders(files: list[str], folder: Path) -> None:
    for name in ("cats", "dogs"):
        (folder / "train" / name).mkdir(parents=True)
    for file in files:
        write_image(folder / "train" / file)


def one_folder(folder: Path) -> None:
    write_image(folder / "train" / "images" / "a.png")
    write_image(folder / "train" / "images" / "b.png")


OUTSIDE = {"id": 1, "image_id": 3, "category_id": 1, "bbox": [100, 100, 5, 5]}
CROWD = {"id": 1, "image_id": 3, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 1}
POINT = {"label": "cat", "points": [[1, 2]], "shape_type": "point", "group_id": None, "flags": {}}
NOTHING: dict[str, tuple[Callable[[Path], None], str, str, str]] = {
    "only what is difficult": (partial(voc, OBJECT.format(difficult=1)), "detect", "stop", "crowds .iscrowd. or difficult"),
    "VOC without objects": (partial(voc, ""), "detect", "stop", "there is no box in any image"),
    "empty texts of YOLO": (partial(yolo, ""), "detect", "stop", "there is no box in any image"),
    "no texts of YOLO": (partial(yolo, None), "detect", "stop", "there is no box in any image"),
    "nothing sound in YOLO": (partial(yolo, "7 0.5 0.5 0.2 0.2\n"), "detect", "skip", "no box in any image; left out by"),
    "zeros": (partial(csv, "a.png,0,0,0,0,cat\nb.png,0,0,0,0,cat\n"), "detect", "stop", "there is no box in any image"),
    "pandas' nan": (partial(csv, "a.png,nan,nan,nan,nan,nan\nb.png,,,,,\n"), "detect", "stop", "there is no box in any image"),
    "a header": (partial(csv, ""), "detect", "stop", "names no image"),
    "COCO without annotations": (partial(coco_file, [], {}), "detect", "stop", "there is no box in any image"),
    "COCO without images": (partial(coco_file, [], {"images": []}), "detect", "stop", "names no image"),
    "only crowds": (partial(coco_file, [CROWD], {}), "detect", "stop", "all 1 annotations are crowds"),
    "only boxes elsewhere": (partial(coco_file, [OUTSIDE], {}), "detect", "skip", "no box in any image; left out by"),
    "labelme without shapes": (partial(labelme, []), "detect", "stop", "there is no box in any image"),
    "only points of labelme": (partial(labelme, [POINT]), "detect", "stop", "there is no box in any image"),
    "every pixel ignored": (partial(masks, 255, "a\nb\n"), "segment", "stop", "no pixel of the 2 images of .* takes part"),
    "one class of masks": (partial(masks, 0, "a\n"), "segment", "stop", "has the class a only, and masks need 2"),
    "empty class folders": (partial(class_folders, []), "classify", "stop", "empty class folder"),
    "a folder that is no class": (one_folder, "classify", "stop", "has the class images only, and labels need 2.* the folder above"),
}  # fmt: skip


def trained_on(path: str, task: str, on_error: Any = "stop") -> Dataset | None:
    """Open a data set as a run does that is to be trained on it."""
    dataset = open_dataset(path, "train", task, DataConfig(on_error=on_error), DigitsConfig())
    check_learnable(dataset, find_task(task).annotations, path)
    return dataset


@pytest.mark.parametrize("case", NOTHING)
def test_nothing_to_train_on(tmp_path: Path, case: str) -> None:
    make, task, on_error, message = NOTHING[case]
    folder = tmp_path / "set"
    folder.mkdir()
    make(folder)
    with pytest.raises(UserError, match=message):
        trained_on(str(folder), task, on_error)


@pytest.mark.parametrize("make", [one_folder, partial(masks, 0, "a\n")])
def test_check_says_it_too(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    faults, summary = find_faults(str(tmp_path), DataConfig())
    assert faults == []  # it may be measured on, and written in other formats
    assert [note for note in summary.notes if note.startswith("nothing to tell apart")]


@pytest.mark.parametrize("ignore", [255, 7])
def test_check_tells_of_masks_without_a_pixel_that_takes_part(
    tmp_path: Path, ignore: int, capsys: Any
) -> None:
    """All of them are a fault, by the words of a run; some are noted, as a run takes them."""
    config = DataConfig(ignore=ignore)
    masks(ignore, "a\nb\n", tmp_path)
    faults, _ = find_faults(str(tmp_path), config)
    with pytest.raises(UserError) as caught:
        check_learnable(
            open_dataset(str(tmp_path), "train", "segment", config, DigitsConfig()), ("masks",), str(tmp_path)
        )
    assert [fault.fault for fault in faults] == caught.value.faults
    assert main(["check", str(tmp_path), "--set", f"data.ignore={ignore}"]) == 1
    assert "no pixel of the 2 images" in capsys.readouterr().out
    write_mask(tmp_path / "masks" / "train" / "b.png", np.eye(30, 40, dtype=np.uint8))
    faults, summary = find_faults(str(tmp_path), config)
    assert faults == []
    (note,) = summary.notes
    assert note.startswith("a mask of which no pixel takes part")
    assert note.endswith(f"({tmp_path / 'masks' / 'train' / 'a.png'})")


def test_masks_of_validation_may_be_of_no_class(tmp_path: Path) -> None:
    masks(0, "a\nb\n", tmp_path)
    write_image(tmp_path / "images" / "val" / "c.png")
    write_mask(tmp_path / "masks" / "val" / "c.png", np.full((30, 40), 255, np.uint8))
    faults, summary = find_faults(str(tmp_path), DataConfig())
    assert faults == []
    assert [note for note in summary.notes if "c.png" in note]


def test_classes_are_said_only_where_there_are_some(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "masks"
    write_image(tmp_path / "images" / "a.png")
    write_mask(folder / "a.png", np.eye(30, 40, dtype=np.uint8))
    assert main(["check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "no classes; " in said
    assert "classes: ;" not in said
    assert main(["check", str(tmp_path), "--set", "data.classes=a,b"]) == 0
    assert "classes: a, b; " in capsys.readouterr().out


def test_a_run_is_refused_before_it_begins(tmp_path: Path) -> None:
    one_folder(tmp_path / "set")
    with pytest.raises(UserError, match="nothing to tell apart"):
        ziggurat.train(tmp_path / "set", {"plan": "dp=1", "device": "cpu"}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Empty:
    """A data set of a program, without objects but in its last image."""

    classes, category_ids = ("cat",), (1,)

    def __init__(self, last: int) -> None:
        self.last = last

    def __len__(self) -> int:
        return 5

    def record(self, index: int) -> ImageRecord:
        return ImageRecord(str(index), index + 1, 8, 8)

    def image(self, index: int) -> torch.Tensor:
        return torch.zeros(3, 8, 8, dtype=torch.uint8)

    def objects(self, index: int) -> Objects:
        count = self.last if index == 4 else 0
        return Objects(torch.tensor([[0.0, 0, 8, 8]])[:count], torch.zeros(count, dtype=torch.int64))


def test_a_data_set_of_a_program() -> None:
    name = register_data("Empty", Empty(1))
    assert trained_on(name, "detect") is not None
    name = register_data("Empty", Empty(0))
    with pytest.raises(UserError, match="no object of the 5 images of own:Empty takes part"):
        trained_on(name, "detect")
