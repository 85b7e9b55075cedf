"""Photos that their EXIF turns: whatever size the annotations say, the pixels under a box are those of the object."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from support.datasets import CONFIG, write_mask, write_text
from ziggurat.commands.check import check
from ziggurat.config import DigitsConfig
from ziggurat.data.file_dataset import FileDataset
from ziggurat.data.readers.images import read_header, read_image, unturned
from ziggurat.data.readers.layout import AS_THEY_ARE
from ziggurat.errors import UserError
from ziggurat.tasks.opening import open_dataset

WIDTH, HEIGHT = 60, 30  # as the photo lies in its file
TURNED = (5, 6, 7, 8)


def photo(path: Path, orientation: int, seed: int = 0) -> Image.Image:
    """Write a photo that lies in its file, with a note by which it is turned; return it as it lies."""
    pixels = np.random.default_rng(seed).integers(0, 99, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif.tobytes())
    return image


def paint(path: Path, orientation: int, frame: str, box: list[int]) -> None:
    """Write a photo with a white box that is where annotations of a frame have it."""
    lying = photo(path, orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = lying
    if frame == "upright":
        lying.getexif()[0x0112] = orientation
        seen = ImageOps.exif_transpose(lying)
    x, y, width, height = box
    seen.paste((255, 255, 255), (x, y, x + width, y + height))
    if frame == "upright":  # turned back by what undoes the turn
        back = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
        seen.getexif()[0x0112] = back
        seen = ImageOps.exif_transpose(seen)
    seen.save(path, exif=exif.tobytes())


def coco_of(folder: Path, boxes: dict[str, list[int]], size: tuple[int, int]) -> None:
    height, width = size
    images = [{"id": n, "file_name": name, "height": height, "width": width} for n, name in enumerate(boxes)]
    annotations = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": box} for n, box in enumerate(boxes.values()) if box
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    write_text(folder / "train.json", json.dumps(content))


def opened(folder: Path, exif: str = "auto", **settings: str) -> FileDataset:
    config = dataclasses.replace(CONFIG, exif=exif, **settings)
    dataset = open_dataset(str(folder), "train", "detect", config, DigitsConfig())
    assert isinstance(dataset, FileDataset)
    return dataset


def assert_white(dataset: FileDataset, index: int) -> None:
    """Assert that what lies in the box is white, and nothing else is."""
    image, record = dataset.image(index), dataset.record(index)
    assert image.shape[1:] == record.extent
    ((x1, y1, x2, y2),) = dataset.objects(index).boxes_xyxy.int().tolist()
    assert (image[:, y1:y2, x1:x2] == 255).all()
    assert int((image == 255).sum()) == 3 * (y2 - y1) * (x2 - x1)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(
    ("frame", "box"),
    [("upright", [4, 40, 10, 15]), ("stored", [40, 4, 15, 10])],  # each fits in its own frame only
)
def test_boxes_that_fit_in_one_frame_say_which(
    tmp_path: Path, orientation: int, frame: str, box: list[int]
) -> None:
    paint(tmp_path / "a.png", orientation, frame, box)
    coco_of(tmp_path, {"a.png": box}, (HEIGHT, WIDTH))
    assert check(str(tmp_path), CONFIG)["ok"]
    dataset = opened(tmp_path)
    assert dataset.record(0).extent == ((WIDTH, HEIGHT) if frame == "upright" else (HEIGHT, WIDTH))
    assert_white(dataset, 0)
    (note,) = dataset.notes
    assert f"data.exif={'stored' if frame == 'upright' else 'upright'}" in note


@pytest.mark.parametrize("frame", ["upright", "stored"])
def test_one_box_that_fits_in_one_frame_speaks_for_all(tmp_path: Path, frame: str) -> None:
    telling, silent = ([4, 40, 9, 15] if frame == "upright" else [40, 4, 15, 9]), [3, 2, 20, 10]
    paint(tmp_path / "a.png", 6, frame, silent)
    paint(tmp_path / "b.png", 6, frame, telling)
    coco_of(tmp_path, {"a.png": silent, "b.png": telling}, (HEIGHT, WIDTH))
    dataset = opened(tmp_path)
    assert_white(dataset, 0)
    assert_white(dataset, 1)
    assert "(2 times, such as a.png)" in dataset.notes[0]


@pytest.mark.parametrize("frame", ["upright", "stored"])
def test_where_no_box_says_it_the_user_does(tmp_path: Path, frame: str) -> None:
    paint(tmp_path / "a.png", 8, frame, [3, 2, 20, 10])
    coco_of(tmp_path, {"a.png": [3, 2, 20, 10]}, (HEIGHT, WIDTH))
    with pytest.raises(UserError, match=r"EXIF.*--set data\.exif=upright or --set data\.exif=stored"):
        opened(tmp_path)
    assert_white(opened(tmp_path, frame), 0)


def test_boxes_that_disagree_leave_the_silent_ones_open(tmp_path: Path) -> None:
    boxes = {"a.png": [4, 40, 9, 15], "b.png": [40, 4, 15, 9], "c.png": [3, 2, 20, 10]}
    for (name, box), frame in zip(boxes.items(), ["upright", "stored", "stored"], strict=True):
        paint(tmp_path / name, 6, frame, box)
    coco_of(tmp_path, boxes, (HEIGHT, WIDTH))
    with pytest.raises(UserError, match=r"'c\.png'.*EXIF"):
        opened(tmp_path)
    dataset = opened(tmp_path, on_error="skip")
    assert len(dataset) == 2
    assert_white(dataset, 0)
    assert_white(dataset, 1)


def test_upright_sizes_need_no_guess(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", 6, "upright", [4, 40, 9, 15])
    coco_of(tmp_path, {"a.png": [4, 40, 9, 15]}, (WIDTH, HEIGHT))
    dataset = opened(tmp_path)
    assert_white(dataset, 0)
    assert not dataset.notes


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_orientations_that_keep_the_size_are_applied(tmp_path: Path, orientation: int) -> None:
    paint(tmp_path / "a.png", orientation, "upright", [40, 4, 15, 9])
    coco_of(tmp_path, {"a.png": [40, 4, 15, 9]}, (HEIGHT, WIDTH))
    assert_white(opened(tmp_path), 0)


@pytest.mark.parametrize(("exif", "frame"), [("auto", "upright"), ("auto", "stored"), ("stored", "stored")])
def test_annotations_without_sizes(tmp_path: Path, exif: str, frame: str) -> None:
    """They are for the upright photo, unless boxes fit in the lying one only, or the user says so."""
    silent = [3, 2, 20, 10]
    telling = [4, 40, 9, 15] if frame == "upright" else silent if exif == "stored" else [40, 4, 15, 9]
    lines = ["image_path,xmin,ymin,xmax,ymax,label"]
    for name, box in (("a.png", silent), ("b.png", telling)):
        paint(tmp_path / name, 6, frame, box)
        x, y, width, height = box
        lines.append(f"{name},{x},{y},{x + width},{y + height},cat")
    write_text(tmp_path / "train.csv", "\n".join(lines) + "\n")
    dataset = opened(tmp_path, exif)
    assert_white(dataset, 0)
    assert_white(dataset, 1)
    assert len(dataset.notes) == (frame == "stored")


def test_other_sizes_are_no_matter_of_exif(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 6)
    coco_of(tmp_path, {"a.png": [3, 2, 20, 10]}, (HEIGHT, WIDTH + 1))
    with pytest.raises(UserError, match="has 30 x 60 pixels, the annotation says 61 x 30"):
        opened(tmp_path)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")  # sizes that are exchanged by mistake
    coco_of(tmp_path, {"a.png": [3, 2, 20, 10]}, (WIDTH, HEIGHT))
    with pytest.raises(UserError, match="has 60 x 30 pixels, the annotation says 30 x 60"):
        opened(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "tif", "webp"])
def test_every_format_that_has_the_note(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    photo(path, 6)
    header = read_header(path, 1 << 20, AS_THEY_ARE)
    assert (header.extent, header.is_turned) == ((WIDTH, HEIGHT), True)
    assert read_image(path, 1 << 20).shape == (3, WIDTH, HEIGHT)
    coco_of(tmp_path, {path.name: [40, 4, 15, 9]}, (HEIGHT, WIDTH))
    assert opened(tmp_path).image(0).shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_unturned_undoes_what_pillow_does(tmp_path: Path, orientation: int) -> None:
    lying = photo(tmp_path / "a.png", orientation)
    image = read_image(tmp_path / "a.png", 1 << 20)
    if orientation >= 5:
        image = unturned(image, orientation)
        assert torch.equal(image, torch.from_numpy(np.array(lying)).permute(2, 0, 1))
    assert image.shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", TURNED)
def test_a_mask_of_the_lying_size_is_of_the_lying_photo(tmp_path: Path, orientation: int) -> None:
    lying = photo(tmp_path / "images" / "a.png", orientation)
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    labels[:, 40:] = 1
    write_mask(tmp_path / "masks" / "a.png", labels)
    write_text(tmp_path / "masks" / "classes.txt", "ground\ntree\n")
    dataset = open_dataset(str(tmp_path), "train", "segment", CONFIG, DigitsConfig())
    assert dataset is not None
    assert torch.equal(dataset.image(0), torch.from_numpy(np.array(lying)).permute(2, 0, 1))
    assert dataset.mask(0).shape == dataset.image(0).shape[1:]  # type: ignore[attr-defined]  # a data set of this task has it
    assert check(str(tmp_path), CONFIG)["ok"]


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_png_is_not_decoded_for_its_header(tmp_path: Path, place: str) -> None:
    """A cut one has a header still; what lies behind the pixels is read where there is anything."""
    path = tmp_path / "a.png"
    photo(path, 6)
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    chunk = content[start : start + 12 + int.from_bytes(content[start : start + 4], "big")]
    assert content.index(b"IDAT") > start
    if place == "before":
        path.write_bytes(content[: content.index(b"IDAT") + 40])
    else:
        rest = content.replace(chunk, b"")
        path.write_bytes(rest.replace(rest[-12:], chunk + rest[-12:]))
    assert read_header(path, 1 << 20, AS_THEY_ARE).orientation == 6
