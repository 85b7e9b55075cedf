"""YOLO, against examples worked by hand: an image of 40 x 30 pixels."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.datasets import CONFIG, faults_of, opened, write_image, write_text
from ziggurat.config import DigitsConfig
from ziggurat.data.formats import find_faults
from ziggurat.errors import UserError
from ziggurat.tasks.opening import open_dataset, recognise_tasks
from ziggurat.tasks.registry import tasks_of

NAMES = "names: [cat, dog]\n"
BOX = "1 0.5 0.5 0.25 0.5\n"  # x 15 to 25, y 7.5 to 22.5


def write(folder: Path, labels: str, yaml: str = "train: images\n" + NAMES) -> Path:
    write_image(folder / "images" / "a.png")
    write_image(folder / "images" / "b.png")
    write_text(folder / "data.yaml", yaml)
    return write_text(folder / "labels" / "a.txt", labels)


def test_boxes_and_images_without_a_label_file(tmp_path: Path) -> None:
    write(tmp_path, BOX + "\n0 0.25 0.5 0.5 1\n")
    dataset = opened(tmp_path)
    assert (dataset.classes, dataset.category_ids) == (("cat", "dog"), (1, 2))
    assert dataset.objects(0).boxes_xyxy.tolist() == [[15, 7.5, 25, 22.5], [0, 0, 20, 30]]
    assert dataset.objects(0).labels.tolist() == [1, 0]
    assert [(dataset.record(i).name, len(dataset.objects(i))) for i in (0, 1)] == [
        ("images/a.png", 2),
        ("images/b.png", 0),
    ]
    faults, summary = find_faults(str(tmp_path), CONFIG)
    assert (faults, summary.format, tasks_of(summary.kinds), summary.annotations) == (
        [],
        "yolo",
        ("detect",),
        2,
    )


def test_polygons_are_boxes_and_masks(tmp_path: Path) -> None:
    write(tmp_path, "1 0.25 0.2 0.75 0.2 0.75 0.8 0.25 0.8\n")
    assert opened(tmp_path).objects(0).boxes_xyxy.tolist() == [[10, 6, 30, 24]]
    assert recognise_tasks(str(tmp_path), CONFIG) == ("detect", "segment")
    dataset = open_dataset(str(tmp_path), "train", "segment", CONFIG, DigitsConfig())
    assert hasattr(dataset, "mask")
    assert dataset.classes == ("background", "cat", "dog")
    mask = dataset.mask(0)
    assert mask.shape == (30, 40)
    assert (mask[6:24, 10:30] == 2).all()
    assert int((mask == 2).sum()) == 18 * 20
    assert not dataset.mask(1).any()
    assert tasks_of(find_faults(str(tmp_path), CONFIG)[1].kinds) == ("detect", "segment")


def test_a_box_among_polygons_has_no_mask(tmp_path: Path) -> None:
    file = write(tmp_path, "1 0.25 0.2 0.75 0.2 0.75 0.8\n" + BOX)
    with pytest.raises(UserError, match=r"a\.txt, 2: object without outline"):
        open_dataset(str(tmp_path), "train", "segment", CONFIG, DigitsConfig())
    assert tasks_of(find_faults(str(tmp_path), CONFIG)[1].kinds) == ("detect",)
    assert file.is_file()


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0 0.5 0.5 0.2", "wrong number of values: a line is 'class x y width height', or"),
        ("0 0.5 0.5 0.2 0.2 0.7", "wrong number of values"),
        ("0 0.1 0.1 0.2 0.2 0.7 0.1 0.3", "wrong number of values"),
        (
            "-1 1.5 x 0 -0.1",
            "wrong numbers: the class must be a whole number from 0, got -1; x must be in 0 to 1, got 1.5; "
            "y must be in 0 to 1, got x; width must be positive, got 0; height must be in 0 to 1, got -0.1",
        ),
        ("0.5 0.5 0.5 0.2 0.2", "wrong numbers: the class must be a whole number from 0, got 0.5"),
        ("nan 0.5 0.5 0.2 0.2", "wrong numbers: the class"),
        ("inf 0.5 nan 0.2 0.2", "wrong numbers: the class must be a whole number from 0, got inf; y must be"),
        ("0 0.1 0.1 0.2 1.2 0.7 0.1", "wrong numbers: y2 must be in 0 to 1, got 1.2"),
        ("2 0.5 0.5 0.2 0.2", "unknown class: 2, there are 2 names (0 to 1)"),
        ("1 0.9 0.5 0.8 0.2", "box outside the image"),
        ("1 0.1 0.1 0.1 0.2 0.1 0.3", "box without area"),
    ],
)
def test_each_wrong_line_is_found(tmp_path: Path, line: str, fault: str) -> None:
    file = write(tmp_path, BOX + line + "\n")
    (found,) = faults_of(tmp_path)
    assert (found.file, found.id) == (str(file), 2)
    assert found.fault.startswith(fault)
    with pytest.raises(UserError) as raised:
        opened(tmp_path)
    assert f"{file}, 2: {fault}" in str(raised.value)


def test_every_line_is_listed(tmp_path: Path) -> None:
    file = write(tmp_path, "x\n0 0 0\n" + BOX + "9 0.5 0.5 0.1 0.1\n")
    assert [(fault.file, fault.id) for fault in faults_of(tmp_path)] == [(str(file), n) for n in (1, 2, 4)]


def test_labels_without_image_and_broken_images(tmp_path: Path) -> None:
    write(tmp_path, BOX)
    orphan = write_text(tmp_path / "labels" / "c.txt", BOX)
    write_text(tmp_path / "labels" / "classes.txt", "cat\n")
    (tmp_path / "images" / "b.png").write_bytes(b"x")
    found = {(fault.file, fault.kind) for fault in faults_of(tmp_path)}
    assert found == {
        (str(orphan), "label file without image"),
        (str(tmp_path / "images" / "b.png"), "undecodable image"),
    }


@pytest.mark.parametrize(
    ("yaml", "kind"),
    [
        ("train: images\nnc: 3\nnames: [cat, dog]\n", "wrong number of classes"),
        ("train: images\nnames: {1: cat, 2: dog}\n", "unreadable names"),
        ("train: images\nnames: [yes, no]\n", "unreadable names"),
        ("train: images\nnames: [dog, dog]\n", "duplicate class name"),
        ("train: images\nnc: 2\n", "no class names"),
    ],
)
def test_names_that_cannot_be_used(tmp_path: Path, yaml: str, kind: str) -> None:
    write(tmp_path, BOX, yaml)
    assert (str(tmp_path / "data.yaml"), kind) in [(fault.file, fault.kind) for fault in faults_of(tmp_path)]
    with pytest.raises(UserError, match=kind):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("yaml", "fault"),
    [
        ("train: [\n", "data.yaml is not YAML"),
        ("train: pictures\n" + NAMES, "train: there is no folder or list 'pictures'"),
        ("train: images\nval: 7\n" + NAMES, "val must be a path or a list of paths, got 7"),
        ("train: ../secret\n" + NAMES, "path leaves the data set: '../secret'"),
        ("path: ..\ntrain: secret\n" + NAMES, "path leaves the data set: 'secret'"),
    ],
)
def test_splits_that_cannot_be_used(tmp_path: Path, yaml: str, fault: str) -> None:
    write(tmp_path / "set", BOX, yaml)
    (tmp_path / "secret").mkdir()
    with pytest.raises(UserError) as raised:
        opened(tmp_path / "set")
    assert fault in str(raised.value)


def two_splits(folder: Path, train: str, val: str) -> None:
    for name in (train, val):
        write_image(folder / name / "a.png")
        write_text(folder / name.replace("images", "labels") / "a.txt", BOX)


@pytest.mark.parametrize(
    ("train", "val", "yaml"),
    [
        ("images/train", "images/val", "train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n"),
        ("images/train", "images/val", "path: .\ntrain: [images/train]\nval: [images/val]\n" + NAMES),
        ("train/images", "valid/images", "train: ../train/images\nval: ../valid/images\n" + NAMES),
        ("set/images/train", "set/images/val", "path: set\ntrain: images/train\nval: images/val\n" + NAMES),
        ("images/train", "images/val", NAMES),
        ("train/images", "valid/images", NAMES),
        ("images/train", "images/val", None),
    ],
)
def test_layouts(tmp_path: Path, train: str, val: str, yaml: str | None) -> None:
    two_splits(tmp_path, train, val)
    if yaml is None:
        write_text(tmp_path / "classes.txt", "cat\ndog\n")
    else:
        write_text(tmp_path / "data.yaml", yaml)
    places = [tmp_path] if yaml is None or "train" not in yaml else [tmp_path, tmp_path / "data.yaml"]
    for place in places:
        for split, name in (("train", train), ("val", val)):
            dataset = opened(place, split)  # type: ignore[arg-type] # train or val
            assert dataset.path(0).resolve() == tmp_path / name / "a.png"
            assert dataset.objects(0).boxes_xyxy.tolist() == [[15, 7.5, 25, 22.5]]
            assert dataset.image(0).shape == (3, 30, 40)
        assert not faults_of(place)


def test_lists_of_images(tmp_path: Path) -> None:
    write(tmp_path, BOX, "train: train.txt\n" + NAMES)
    lines = f"./images/a.png\n\n{tmp_path}/images/b.png\n"
    file = write_text(tmp_path / "train.txt", lines)
    dataset = opened(tmp_path)
    assert [dataset.record(i).name for i in (0, 1)] == ["images/a.png", "images/b.png"]
    write_text(file, lines + "images/c.png\n../../d.png\n/etc/passwd\n")
    found = [(fault.file, fault.id, fault.kind) for fault in faults_of(tmp_path)]
    assert found == [
        (str(file), 4, "missing image"),
        (str(file), 5, "path leaves the data set"),
        (str(file), 6, "path leaves the data set"),
    ]


def test_no_names_at_all(tmp_path: Path) -> None:
    write(tmp_path, BOX)
    (tmp_path / "data.yaml").unlink()
    (fault,) = faults_of(tmp_path)
    assert (fault.file, fault.kind) == (str(tmp_path), "no class names")


def test_val_has_the_labels_of_given_classes(tmp_path: Path) -> None:
    write(tmp_path, BOX, "train: images\nval: images\n" + NAMES)
    assert opened(tmp_path, "val", classes=("dog", "bird")).objects(0).labels.tolist() == [0]
    with pytest.raises(UserError, match="'dog' is not a class of the training data"):
        opened(tmp_path, "val", classes=("cat",))


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (1, 3), (17, 3), (4, 2)])
def test_the_box_of_a_line_with_keypoints(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Without ``kpt_shape`` some of these lines would pass for polygons."""
    points = " ".join(["0.9", "0.95", "2"][place % shape[1]] for place in range(shape[0] * shape[1]))
    yaml = f"train: images\nkpt_shape: {list(shape)}\n" + NAMES
    write(tmp_path, f"{BOX.strip()} {points}\n{BOX}", yaml)
    dataset = opened(tmp_path)
    assert dataset.objects(0).boxes_xyxy.tolist() == [[15, 7.5, 25, 22.5]] * 2
    assert dataset.notes[0].startswith("keypoints are not read")
    assert recognise_tasks(str(tmp_path), CONFIG) == ("detect",)


@pytest.mark.parametrize(
    ("shape", "line", "kind"),
    [
        ("[3, 2]", BOX.strip() + " 0.1 0.2 0.3 0.4\n", "wrong number of values"),
        ("[3, 2]", "1 0.1 0.1 0.9 0.1 0.9 0.9\n", "wrong number of values"),
        ("[3]", BOX, "unreadable kpt_shape"),
        ("17", BOX, "unreadable kpt_shape"),
        ("[0, 3]", BOX, "unreadable kpt_shape"),
    ],
)
def test_keypoints_that_cannot_be_told(tmp_path: Path, shape: str, line: str, kind: str) -> None:
    write(tmp_path, line, f"train: images\nkpt_shape: {shape}\n" + NAMES)
    assert [fault.kind for fault in faults_of(tmp_path)] == [kind]


def test_a_yaml_file_that_is_named_may_lead_to_its_data_set(tmp_path: Path) -> None:
    write(tmp_path / "datasets" / "pets", BOX)
    file = write_text(tmp_path / "project" / "pets.yaml", "path: ../datasets/pets\ntrain: images\n" + NAMES)
    assert opened(file).path(0) == tmp_path / "datasets" / "pets" / "images" / "a.png"
    with pytest.raises(UserError, match=r"path leaves the data set: .*; name pets\.yaml itself"):
        opened(tmp_path / "project")
    write_text(file, "path: ../datasets/pets\ntrain: ../../secret\n" + NAMES)
    write_image(tmp_path / "secret" / "a.png")
    with pytest.raises(UserError, match="path leaves the data set"):
        opened(file)
