"""Finding images by names that other machines have written: in every layout the right file, or a fault that says which."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.datasets import CONFIG, annotation, coco, faults_of, guesses, opened, write_image
from ziggurat.cli.main import main
from ziggurat.data.formats import find_faults
from ziggurat.data.formats.finding import parts_of

AS_OTHERS_WRITE = {
    "windows": lambda path: path.replace("/", "\\"),
    "windows, absolute": lambda path: "C:\\Users\\me\\My set\\" + path.replace("/", "\\"),
    "windows, a share": lambda path: "\\\\server\\share\\" + path.replace("/", "\\"),
    "upwards": lambda path: "../../media/" + path,
    "upwards on windows": lambda path: "..\\..\\media\\upload\\4\\" + path.replace("/", "\\"),
    "another home": lambda path: "/home/me/set/" + path,
    "a server's folder": lambda path: "/label-studio/data/media/upload/4/" + path,
    "a url": lambda path: "https://example.org/bucket/" + path.replace(" ", "%20") + "?X-Sig=1%2F2&a=b#c",
    "a bucket": lambda path: "s3://bucket/set/" + path,
    "a file url": lambda path: "file:///D:/set/" + path,
    "label studio's local files": lambda path: "/data/local-files/?d=" + path.replace(" ", "%20"),
    "a dot before": lambda path: "./" + path,
    "doubled separators": lambda path: path.replace("/", "//"),
    "the name alone": lambda path: path.rpartition("/")[2],
    "another case": lambda path: path.upper(),
}  # fmt: skip


def write_set(folder: Path, name: str, *images: str) -> Path:
    """Write a COCO file that names one image, and images where they are."""
    content = coco(annotation(), images=[{"id": 3, "file_name": name}])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "boxes.json").write_text(json.dumps(content))
    for image in images:
        write_image(folder / image)
    return folder


@pytest.mark.parametrize("place", ["images/a 1.png", "pictures/night/a 1.png", "a 1.png"])
@pytest.mark.parametrize("writing", AS_OTHERS_WRITE)
def test_a_path_of_another_machine(tmp_path: Path, writing: str, place: str) -> None:
    name = AS_OTHERS_WRITE[writing](place)
    write_set(tmp_path, name, place, "other.png")
    assert opened(tmp_path).path(0) == tmp_path / place
    faults, summary = find_faults(str(tmp_path), CONFIG)
    assert faults == []
    guessed = not any((folder / name).is_file() for folder in (tmp_path, tmp_path / "images"))
    assert [note.startswith("an image was found") for note in guesses(summary.notes)] == [True] * guessed


@pytest.mark.parametrize(
    ("name", "images", "found"),
    [
        ("C:\\set\\night\\a.png", ["day/a.png", "night/a.png"], "night/a.png"),  # the longest end
        ("server/b/night/a.png", ["a/night/a.png", "b/night/a.png"], "b/night/a.png"),
        ("a.png", ["day/a.png", "night/a.png"], None),  # no guess between two
        ("noon/a.png", ["day/a.png", "night/a.png"], None),
        ("a.png", ["a.png", "images/a.png"], "a.png"),  # as it is written goes first
        ("x/a.png", ["a.png", "images/a.png"], None),
        ("a.png", ["val/inner/a.png"], None),  # another split's
        ("a.png", ["Test/a.png"], None),
        ("a.png", ["photos/a.png", "valid/b/a.png"], "photos/a.png"),
        ("a.png", [".cache/a.png"], None),
        ("a.png", ["deep/er/and/deeper/A.PNG"], "deep/er/and/deeper/A.PNG"),
    ],
)
def test_which_file_it_is(tmp_path: Path, name: str, images: list[str], found: str | None) -> None:
    write_set(tmp_path, name, *images)
    if found is not None:
        assert opened(tmp_path).path(0) == tmp_path / found
        return
    (fault,) = faults_of(tmp_path)
    assert fault.kind in ("missing image", "ambiguous image")
    if fault.kind == "ambiguous image":
        assert all(image in fault.fault for image in images)


def test_nothing_is_taken_from_outside_unless_it_is_named(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", "../raw/a.png")
    image = write_image(tmp_path / "raw" / "deep" / "a.png")
    (fault,) = faults_of(folder)
    assert fault.kind in ("path leaves the data set", "missing image")
    assert "data.images" in fault.fault
    faults, _ = find_faults(str(folder), replace(CONFIG, images=str(tmp_path / "raw")))
    assert faults == []
    assert image.is_file()


def test_a_folder_of_images_that_is_not_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_set(tmp_path / "set", "a.png", "a.png")
    assert main(["check", str(folder), "--set", "data.images=nowhere"]) == 2
    assert "data.images must be a folder: there is none at nowhere" in capfd.readouterr().err


def test_a_list_of_yolo(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\ntrain: train.txt\n")
    (tmp_path / "train.txt").write_text("data/images/train/a.png\nC:\\x\\images\\train\\b.png\n")
    for name in ("a", "b"):
        write_image(tmp_path / "images" / "train" / f"{name}.png")
        (tmp_path / "labels" / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels" / "train" / f"{name}.txt").write_text("1 0.5 0.5 0.2 0.4\n")
    dataset = opened(tmp_path)
    assert [len(dataset.objects(index).boxes_xyxy) for index in range(len(dataset))] == [1, 1]
    assert len(guesses(dataset.notes)) == 1
    assert "(2 times, such as" in dataset.notes[0]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_parts_lead_nowhere_upwards(name: str) -> None:
    try:
        parts = parts_of(name)
    except ValueError:
        pytest.fail(f"{name!r} must be answered")
    assert all(part not in ("", ".", "..") and "/" not in part for part in parts)
