"""Folders of images and masks, and VOC's SegmentationClass, against torchvision's VOCSegmentation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import VOCSegmentation

from support.datasets import (
    CONFIG,
    corners,
    faults_of,
    open_masks,
    opened,
    voc,
    write_image,
    write_mask,
    write_text,
)
from ziggurat.config import DigitsConfig
from ziggurat.data.formats import find_faults
from ziggurat.data.formats.palette import VOC_CLASSES
from ziggurat.errors import UserError
from ziggurat.tasks.opening import open_dataset, recognise_tasks
from ziggurat.tasks.registry import tasks_of

NAMED = replace(CONFIG, classes="background,road,tree")


def values(*found: int) -> np.ndarray:
    """A mask of 30 rows and 40 columns, 0 but for its first pixels."""
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[0, : len(found)] = found
    return mask


def write_pair(folder: Path, name: str = "a", pixels: np.ndarray | None = None, split: str = "") -> Path:
    write_image(folder / "images" / split / f"{name}.png")
    return write_mask(folder / "masks" / split / f"{name}.png", values(1, 2) if pixels is None else pixels)


@pytest.mark.parametrize("kind", ["L", "P", "I;16", "1"])
def test_values_of_every_mode(tmp_path: Path, kind: str) -> None:
    pixels = values(1, 0, 1) if kind == "1" else values(1, 2, 255)
    write_image(tmp_path / "images" / "a.png")
    stored = {"L": pixels, "P": pixels, "I;16": pixels.astype(np.uint16), "1": pixels.astype(bool)}[kind]
    write_mask(tmp_path / "masks" / "a.png", stored, kind)
    with Image.open(tmp_path / "masks" / "a.png") as image:
        assert image.mode == kind
    dataset = open_masks(tmp_path, config=NAMED)
    assert dataset.classes == ("background", "road", "tree")
    assert np.array_equal(dataset.mask(0).numpy(), pixels)
    faults, summary = find_faults(str(tmp_path), NAMED)
    assert (faults, summary.format, tasks_of(summary.kinds)) == ([], "masks", ("segment",))
    assert (summary.annotations, summary.classes) == (1, dataset.classes)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "road 128 64 128\ntraffic sign 220 220 0\n"),
        ("classes.txt", "road,128,64,128\ntraffic sign, 220, 220, 0\n"),
        (
            "classes.json",
            '[{"name": "road", "color": [128, 64, 128]}, {"name": "traffic sign", "color": [220, 220, 0]}]',
        ),
    ],
)
def test_colors(tmp_path: Path, name: str, content: str) -> None:
    pixels = np.full((30, 40, 3), (128, 64, 128), dtype=np.uint8)
    pixels[3, 4] = (220, 220, 0)
    pixels[5, 6] = 255
    write_pair(tmp_path, pixels=pixels)
    write_text(tmp_path / name, content)
    dataset = open_masks(tmp_path)
    assert dataset.classes == ("road", "traffic sign")
    mask = dataset.mask(0)
    assert (int(mask[3, 4]), int(mask[5, 6]), int(mask.sum())) == (1, 255, 256)
    with_alpha = np.dstack([pixels, np.full((30, 40), 9, np.uint8)])
    write_pair(tmp_path, pixels=with_alpha)
    assert open_masks(tmp_path).mask(0).equal(mask)
    Image.fromarray(pixels).quantize(3).save(tmp_path / "masks" / "a.png")
    assert open_masks(tmp_path).mask(0).equal(mask), "a palette image is read by its colors"
    assert not faults_of(tmp_path)


@pytest.mark.parametrize(("classes", "file"), [
    ("background,object=255", ""),
    ("", "background 0 0 0\nobject 255 255 255\n"),
])  # fmt: skip
def test_black_and_white_masks(tmp_path: Path, classes: str, file: str) -> None:
    write_pair(tmp_path, pixels=values(255, 255))
    if file:
        write_text(tmp_path / "classes.txt", file)
    dataset = open_masks(tmp_path, config=replace(CONFIG, classes=classes))
    assert dataset.classes == ("background", "object")
    assert int(dataset.mask(0).sum()) == 2


def test_black_and_white_masks_whose_white_would_be_ignored(tmp_path: Path) -> None:
    write_pair(tmp_path, pixels=values(255, 255))
    with pytest.raises(UserError, match=r"--set data\.classes=background,object=255"):
        open_masks(tmp_path, config=replace(CONFIG, classes="background,object"))


def test_another_ignored_value(tmp_path: Path) -> None:
    write_pair(tmp_path, pixels=values(1, 2))
    config = replace(NAMED, ignore=0)
    mask = open_masks(tmp_path, config=config).mask(0)
    assert (mask[0, :3].tolist(), int(mask[9, 9])) == ([1, 2, 255], 255)


@pytest.mark.parametrize("content", ["background\nroad\ntree\n", None])
def test_classes_beside_the_masks_and_labels_of_given_classes(tmp_path: Path, content: str | None) -> None:
    write_pair(tmp_path)
    if content is None:
        write_text(tmp_path / "masks" / "classes.json", json.dumps(["background", "road", "tree"]))
    else:
        write_text(tmp_path / "classes.txt", content)
    known = ("tree", "background", "sea", "road")
    dataset = open_masks(tmp_path, classes=known)
    assert dataset.classes == known
    assert dataset.mask(0)[0, :3].tolist() == [3, 0, 1]
    with pytest.raises(UserError, match="'tree' of the masks is not a class of the training data"):
        open_masks(tmp_path, classes=("background", "road"))


def test_classes_of_a_model_where_the_masks_have_none(tmp_path: Path) -> None:
    write_pair(tmp_path)
    assert open_masks(tmp_path, classes=("a", "b", "c")).mask(0)[0, :3].tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (
            values(1, 2, 3, 255),
            r"found the values 0, 1, 2, 3, 255; .*--set data.classes=background,1,2,3, or",
        ),
        (values(255), r"found the values 0, 255; .*--set data.classes=background,object=255"),
        (np.full((30, 40, 3), (9, 0, 0), np.uint8), r"found the values \(9, 0, 0\); write classes.txt"),
        (np.full((30, 40, 3), 2, np.uint8), r"found the values 2; .*--set data.classes=background,1,2"),
    ],
)
def test_no_classes(tmp_path: Path, pixels: np.ndarray, message: str) -> None:
    write_pair(tmp_path, pixels=pixels)
    with pytest.raises(UserError, match=message):
        open_masks(tmp_path)
    (fault,) = faults_of(tmp_path)
    assert (fault.file, fault.kind) == (str(tmp_path / "masks"), "no classes")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classes.txt", "a\nb 1 2 3\n", "classes without a color: a"),
        ("classes.txt", "a 1 2 3\nb 1 2 3\n", "duplicate color: b"),
        ("classes.txt", "a 1 2 300\n", "unreadable color: a"),
        ("classes.txt", "a\na\n", "a name of its own: got a twice"),
        ("classes.txt", "".join(f"c{n}\n" for n in range(256)), "255 classes at most: got 256"),
        ("classes.json", "{", "not JSON"),
        ("classes.json", '{"a": 1}', "unreadable classes: it must be a list"),
        ("classes.json", '[{"name": "a", "color": "red"}]', "unreadable classes"),
        ("", "a,b=70000", "unreadable class: it must be name or name=value, got 'b=70000'"),
        ("", "a,,b", "unreadable class"),
        ("", "a,b=0", "a value of its own: got 0 twice"),
    ],
)
def test_classes_that_cannot_be_used(tmp_path: Path, name: str, content: str, message: str) -> None:
    write_pair(tmp_path)
    if name:
        write_text(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        open_masks(tmp_path, config=CONFIG if name else replace(CONFIG, classes=content))


def test_every_mask_with_an_unknown_class_is_listed(tmp_path: Path) -> None:
    good = [write_pair(tmp_path, f"good{number}") for number in range(3)]
    bad = [write_pair(tmp_path, name, values(1, 7, 7, 9)) for name in ("bad0", "bad1")]
    found = find_faults(str(tmp_path), NAMED)[0]
    assert [fault.file for fault in found] == list(map(str, bad))
    assert all(
        f.fault.startswith("unknown class: 7 (2 pixels), 9 (1 pixels); the 3 classes have the values 0 to 2")
        for f in found
    )
    with pytest.raises(UserError, match=r"bad0\.png: unknown class: 7"):
        open_masks(tmp_path, config=NAMED)
    assert good


def test_a_mask_is_judged_when_it_is_read(tmp_path: Path) -> None:
    for number in range(9):
        write_pair(tmp_path, str(number))
    dataset = open_masks(tmp_path, config=NAMED)
    write_mask(tmp_path / "masks" / "5.png", values(4))
    with pytest.raises(UserError, match=r"5\.png: unknown class: 4 \(1 pixels\)"):
        dataset.mask(5)
    write_mask(tmp_path / "masks" / "5.png", values(1)[:, :20])
    with pytest.raises(
        UserError, match=r"5\.png: size mismatch: the mask has 20 x 30 pixels, its image .* 40 x 30"
    ):
        dataset.mask(5)


def test_unknown_colors(tmp_path: Path) -> None:
    pixels = np.zeros((30, 40, 3), dtype=np.uint8)
    pixels[0, :2] = (1, 2, 3)
    file = write_pair(tmp_path, pixels=pixels)
    (fault,) = find_faults(str(tmp_path), NAMED)[0]
    assert fault.fault.startswith(
        "unknown color: (0, 0, 0) (1198 pixels), (1, 2, 3) (2 pixels); the classes have no"
    )
    write_text(tmp_path / "classes.txt", "black 0 0 0\nred 255 0 0\n")
    (fault,) = faults_of(tmp_path)
    assert fault.file == str(file)
    assert fault.fault.startswith("unknown color: (1, 2, 3) (2 pixels); the palette has 2 colors")
    with pytest.raises(UserError, match="unknown color"):
        open_masks(tmp_path)


def test_values_beyond_eight_bits(tmp_path: Path) -> None:
    pixels = values(1).astype(np.uint16)
    pixels[1, 1] = 4000
    write_pair(tmp_path, pixels=pixels)
    (fault,) = find_faults(str(tmp_path), NAMED)[0]
    assert fault.fault.startswith("unknown class: 4000 (1 pixels)")


def test_every_image_and_mask_without_its_other_half_is_listed(tmp_path: Path) -> None:
    write_pair(tmp_path)
    image, mask = (
        write_image(tmp_path / "images" / "b.png"),
        write_mask(tmp_path / "masks" / "c.png", values(1)),
    )
    expected = {(str(image), "image without a mask"), (str(mask), "mask without an image")}
    assert {(fault.file, fault.kind) for fault in find_faults(str(tmp_path), NAMED)[0]} == expected
    with pytest.raises(UserError) as raised:
        open_masks(tmp_path, config=NAMED)
    assert all(f"{file}: {kind}" in str(raised.value) for file, kind in expected)


@pytest.mark.parametrize("turned", [False, True])
def test_masks_of_another_size(tmp_path: Path, turned: bool) -> None:
    pixels = values(1).T.copy() if turned else values(1)[:20]
    file = write_pair(tmp_path, pixels=pixels)
    (fault,) = find_faults(str(tmp_path), NAMED)[0]
    assert (fault.file, fault.kind) == (str(file), "size mismatch")
    assert ("turn the image upright" in fault.fault) == turned
    with pytest.raises(UserError, match="size mismatch"):
        open_masks(tmp_path, config=NAMED)


def test_a_turned_image_has_a_mask_of_its_upright_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write_pair(tmp_path, pixels=values(1, 2).T.copy())
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "a.png", exif=exif)
    dataset = open_masks(tmp_path, config=NAMED)
    assert dataset.mask(0).shape == dataset.image(0).shape[1:] == (40, 30)


@pytest.mark.parametrize(("content", "kind"), [(b"x", "undecodable mask"), (None, "undecodable mask")])
def test_masks_that_cannot_be_decoded(tmp_path: Path, content: bytes | None, kind: str) -> None:
    file = write_pair(tmp_path, pixels=np.random.default_rng(0).integers(0, 3, (30, 40)).astype(np.uint8))
    file.write_bytes(file.read_bytes()[:150] if content is None else content)
    assert [(fault.file, fault.kind) for fault in find_faults(str(tmp_path), NAMED)[0]] == [(str(file), kind)]
    with pytest.raises(UserError, match=kind):
        open_masks(tmp_path, config=NAMED)


def test_jpeg_masks_and_float_masks(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png")
    file = write_mask(tmp_path / "masks" / "a.jpg", values(1))
    (fault,) = find_faults(str(tmp_path), NAMED)[0]
    assert (fault.file, fault.kind) == (str(file), "inexact mask")
    file.unlink()
    write_mask(tmp_path / "masks" / "a.tif", values(1).astype(np.float32) + 0.5)
    with pytest.raises(UserError, match=r"no whole numbers, such as [01]\.5"):
        open_masks(tmp_path, config=NAMED)


def test_large_masks_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path)
    with pytest.raises(UserError, match=r"more than data\.max_pixels=1000"):
        open_masks(tmp_path, config=replace(NAMED, max_pixels=1000))


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{s}/a.png", "masks/{s}/a.png"),
        ("{s}/images/a.png", "{s}/masks/a.png"),
        ("img/{s}/a.jpg", "labels/{s}/a_mask.png"),
        ("Images/{s}/a.jpg", "GT/{s}/a_gt.png"),
        ("images/{s}/a_img.jpg", "annotations/{s}/a-label.png"),
        ("img_dir/{s}/city/a.png", "ann_dir/{s}/city/a.png"),
    ],
)
def test_layouts(tmp_path: Path, images: str, masks: str) -> None:
    for number, split in enumerate(("train", "val")):
        write_image(tmp_path / images.format(s=split))
        write_mask(tmp_path / masks.format(s=split), values(number + 1))
    write_text(tmp_path / "classes.txt", "background\nroad\ntree\n")
    for number, split in enumerate(("train", "val")):
        dataset = open_masks(tmp_path, split)  # type: ignore[arg-type] # train or val
        assert int(dataset.mask(0)[0, 0]) == number + 1
        assert dataset.image(0).shape == (3, 30, 40)
    assert not faults_of(tmp_path)
    assert recognise_tasks(str(tmp_path), CONFIG) == ("segment",)


def test_without_splits(tmp_path: Path) -> None:
    write_pair(tmp_path)
    assert len(open_masks(tmp_path, config=NAMED)) == 1
    assert open_dataset(str(tmp_path), "val", "segment", NAMED, DigitsConfig()) is None


def write_voc(folder: Path) -> Path:
    root = folder / "VOCdevkit" / "VOC2012"
    generator = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        write_image(root / "JPEGImages" / f"{name}.jpg")
        pixels = generator.choice([0, 1, 7, 20, 255], size=(30, 40)).astype(np.uint8)
        write_mask(root / "SegmentationClass" / f"{name}.png", pixels, "P")
    write_text(root / "ImageSets" / "Segmentation" / "train.txt", "c\na\n")
    write_text(root / "ImageSets" / "Segmentation" / "val.txt", "b\n")
    return root


@pytest.mark.parametrize("split", ["train", "val"])
def test_voc_is_as_torchvision_reads_it(tmp_path: Path, split: str) -> None:
    root = write_voc(tmp_path)
    reference = VOCSegmentation(str(tmp_path), "2012", split)
    dataset = open_masks(root, split)  # type: ignore[arg-type] # train or val
    assert dataset.classes == VOC_CLASSES
    assert len(dataset) == len(reference)
    masks = {Path(reference.masks[i]).stem: np.asarray(reference[i][1]) for i in range(len(reference))}
    for index in range(len(dataset)):
        assert np.array_equal(dataset.mask(index).numpy(), masks[Path(dataset.record(index).name).stem])
    assert not faults_of(root)


def test_voc_serves_two_tasks(tmp_path: Path) -> None:
    root = write_voc(tmp_path)
    for name in ("a", "b", "c"):
        write_text(
            root / "Annotations" / f"{name}.xml", voc(("dog", corners(1, 2, 11, 22)), filename=f"{name}.jpg")
        )
    write_text(root / "ImageSets" / "Main" / "train.txt", "a\nb\n")
    assert recognise_tasks(str(root), CONFIG) == ("detect", "segment")
    assert (len(opened(root)), len(open_masks(root))) == (2, 2)
    write_mask(root / "SegmentationClass" / "a.png", values(99))
    write_text(root / "Annotations" / "b.xml", voc(("dog", corners(9, 2, 1, 22)), filename="b.jpg"))
    faults, summary = find_faults(str(root), CONFIG)
    assert [fault.kind for fault in faults] == ["box without area", "unknown class"]
    assert (tasks_of(summary.kinds), summary.annotations) == (("detect", "segment"), 2)


def test_a_listed_image_that_is_not_there(tmp_path: Path) -> None:
    root = write_voc(tmp_path)
    file = write_text(root / "ImageSets" / "Segmentation" / "train.txt", "c\n../x\n")
    (fault,) = faults_of(root)
    assert (fault.file, fault.id, fault.kind) == (str(file), 2, "missing image")
