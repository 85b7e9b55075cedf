"""What file managers, notebooks and archives leave behind changes no data set, in any layout and at any place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.datasets import CONFIG, write_image
from support.layouts import EVERY_LAYOUT
from ziggurat.config import DigitsConfig
from ziggurat.data.files import walk_files
from ziggurat.data.formats import find_faults, open_split, recognise_annotations
from ziggurat.data.readers.image_files import expand_paths


def litter(folder: Path) -> None:
    """Leave behind in every folder what is found there in the wild: of each file a copy and a stub, and folders of copies."""
    for here in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        files = [path for path in here.iterdir() if path.is_file()]
        for file in files:
            (here / f"._{file.name}").write_bytes(b"\x00\x05\x16\x07 of a Mac")
            shutil.copy(file, here / f".{file.stem}-1{file.suffix}")
            for junk in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".Trash-1000"):
                (here / junk / file.stem).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, here / junk / f"{file.stem}-checkpoint{file.suffix}")
                shutil.copy(file, here / junk / file.stem / file.name)
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (here / name).write_bytes(b"\x00\x01")
        (here / ".ipynb_checkpoints").mkdir(exist_ok=True)


def said_of(folder: Path) -> object:
    """Return all that is read of a data set."""
    faults, summary = find_faults(str(folder), CONFIG)
    kinds = recognise_annotations(str(folder), CONFIG)
    splits = {}
    for split in ("train", "val"):
        dataset = open_split(str(folder), split, kinds, CONFIG, DigitsConfig())  # type: ignore[arg-type] # train or val
        assert dataset is not None
        splits[split] = (dataset.classes, [dataset.record(index) for index in range(len(dataset))])
    return faults, summary, kinds, splits


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_what_is_left_behind_is_no_part_of_a_data_set(tmp_path: Path, layout: Callable[[Path], None]) -> None:
    layout(tmp_path)
    clean = said_of(tmp_path)
    litter(tmp_path)
    assert said_of(tmp_path) == clean


def test_images_of_a_folder_that_is_named(tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    litter(tmp_path)
    assert expand_paths([str(tmp_path)]) == [image]
    assert expand_paths([str(tmp_path / "**" / "*.png")]) == [image]
    hidden = tmp_path / ".a-1.png"
    assert expand_paths([str(hidden)]) == [hidden], "what is named is taken"


def test_a_hidden_place_of_a_data_set_is_no_hidden_data_set(tmp_path: Path) -> None:
    folder = tmp_path / ".cache" / "set"
    EVERY_LAYOUT[-1](folder)
    assert find_faults(str(folder), CONFIG)[0] == []


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    image = write_image(tmp_path / "inner" / "a.png")
    (tmp_path / "inner" / "up").symlink_to(tmp_path)
    assert list(walk_files(tmp_path, (".png",))) == [image]
