"""Class folders, against torchvision's ImageFolder."""

from __future__ import annotations

from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from support.datasets import CONFIG, faults_of, open_labels, opened, write_image, write_text
from ziggurat.data.formats import find_faults
from ziggurat.data.formats.imagefolder import SUFFIXES
from ziggurat.errors import UserError
from ziggurat.tasks.opening import recognise_tasks
from ziggurat.tasks.registry import tasks_of

FILES = [
    "dog/b.png",
    "dog/a.JPG",
    "dog/deep/c.png",
    "Cat/1.png",
    "Cat/10.bmp",
    "Cat/2.png",
    "ant/x.webp",
    "dog/notes.txt",
]


def write(folder: Path, files: list[str]) -> Path:
    for name in files:
        if name.endswith("txt"):
            write_text(folder / name, "x")
        else:
            write_image(folder / name)
    return folder


def test_the_suffixes_are_torchvisions() -> None:
    assert set(SUFFIXES) == set(IMG_EXTENSIONS)


@pytest.mark.parametrize("layout", ["", "train", "training"])
def test_the_same_classes_and_samples_as_torchvision(tmp_path: Path, layout: str) -> None:
    reference = ImageFolder(str(write(tmp_path / layout, FILES)))
    dataset = open_labels(tmp_path)
    assert list(dataset.classes) == reference.classes
    assert dataset.category_ids == (1, 2, 3)
    own = [(str(dataset.path(index)), dataset.label(index)) for index in range(len(dataset))]
    assert own == reference.samples
    assert (dataset.record(0).height, dataset.record(0).width) == (30, 40)
    assert dataset.image(0).shape == (3, 30, 40)


def test_a_val_split_with_fewer_classes(tmp_path: Path) -> None:
    write(tmp_path / "train", FILES)
    write(tmp_path / "val", ["dog/z.png"])
    dataset = open_labels(tmp_path, "val")
    assert (dataset.classes, dataset.label(0)) == (("Cat", "ant", "dog"), 2)
    faults, summary = find_faults(str(tmp_path), CONFIG)
    assert (faults, summary.format, tasks_of(summary.kinds)) == ([], "imagefolder", ("classify",))
    assert summary.splits == {
        "train": {"images": 7, "annotations": 7},
        "val": {"images": 1, "annotations": 1},
    }
    assert recognise_tasks(str(tmp_path), CONFIG) == ("classify",)


def test_a_class_that_training_does_not_know(tmp_path: Path) -> None:
    write(tmp_path / "train", FILES)
    write(tmp_path / "val", ["dgo/z.png", "dgo/y.png"])
    (fault,) = faults_of(tmp_path)
    assert (fault.file, fault.kind) == (str(tmp_path / "val" / "dgo" / "y.png"), "unknown category")
    with pytest.raises(UserError, match="'dgo' is not a class of the training data; did you mean 'dog'"):
        open_labels(tmp_path, "val")
    with pytest.raises(UserError, match="'Cat' is not a class of the training data"):
        open_labels(tmp_path, "train", classes=("dog", "ant"))
    assert open_labels(tmp_path, "train", classes=("dog", "ant", "Cat")).label(0) == 2


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_empty_class_is_listed(tmp_path: Path, split: str) -> None:
    write(tmp_path / "train", FILES)
    write(tmp_path / "val", FILES)
    for name in ("bee", "yak"):
        (tmp_path / split / name).mkdir()
    found = [(fault.file, fault.fault.partition(" holds")[0]) for fault in faults_of(tmp_path)]
    expected = [(str(tmp_path / split / name), f"empty class folder: '{name}'") for name in ("bee", "yak")]
    assert [one for one in found if "empty" in one[1]] == expected
    with pytest.raises(UserError) as raised:
        open_labels(tmp_path, split)  # type: ignore[arg-type] # train or val
    assert all(f"{file}: {fault}" in str(raised.value) for file, fault in expected)


def test_no_class_folders(tmp_path: Path) -> None:
    write(tmp_path / "train", ["a.png"])
    kinds = {(fault.file, fault.kind) for fault in faults_of(tmp_path)}
    assert kinds == {(str(tmp_path / "train"), "no class folders")}
    with pytest.raises(UserError, match="no class folders"):
        open_labels(tmp_path)


def test_a_broken_image_is_found_by_the_check_and_named_when_it_is_read(tmp_path: Path) -> None:
    write(tmp_path / "train", FILES)
    broken = tmp_path / "train" / "Cat" / "1.png"
    broken.write_bytes(b"x")
    (fault,) = faults_of(tmp_path)
    assert (fault.file, fault.kind) == (str(broken), "undecodable image")
    for read in (open_labels(tmp_path).image, open_labels(tmp_path).record):
        with pytest.raises(UserError, match=r"1\.png"):
            read(0)


def test_a_task_that_it_does_not_serve(tmp_path: Path) -> None:
    write(tmp_path / "train", FILES)
    with pytest.raises(
        UserError, match="was recognised as imagefolder, which serves classify here; give --task classify"
    ):
        opened(tmp_path)
