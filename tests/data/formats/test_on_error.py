"""``data.on_error``: every kind of fault stops, or is left out; the table has one of each kind and format."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from support.datasets import (
    CONFIG,
    annotation,
    coco,
    corners,
    guesses,
    voc,
    write_coco,
    write_image,
    write_mask,
    write_text,
)
from ziggurat.commands.check import check
from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.dataset import CanLeaveOut, Dataset
from ziggurat.data.decoding import spoiled_images
from ziggurat.data.faults import Fault, Faults, count_left_out, left_out, listing, sentences
from ziggurat.errors import UserError
from ziggurat.tasks.opening import open_dataset

SOUND = annotation(90, image_id=8)
TRIANGLE = [[2, 2, 20, 2, 20, 20]]


class Case(NamedTuple):
    """A fault.

    Attributes:
        write: Writes a data set with it, beside sound images and annotations.
        scope: What it spoils.
        images: Names of those that are left.
        annotations: How many are left.
        task: The one that the data set is opened for.
    """

    write: Callable[[Path], object]
    scope: str
    images: tuple[str, ...] = ("a.png", "b.png")
    annotations: int = 1
    task: str = "detect"


def of_coco(*annotations: dict[str, object], **replaced: object) -> Callable[[Path], object]:
    return lambda folder: write_coco(folder, coco(SOUND, *annotations, **replaced))


def outlined(outline: object) -> Callable[[Path], object]:
    return of_coco(annotation(1, segmentation=outline), annotations=[
        {**SOUND, "segmentation": TRIANGLE}, annotation(1, segmentation=outline),
    ])  # fmt: skip


def with_file(name: str, content: bytes) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        write_coco(folder, coco(SOUND, annotation(1)))
        (folder / name).write_bytes(content)

    return write


def other_size(folder: Path) -> None:
    write_coco(folder, coco(SOUND, annotation(1)))
    write_image(folder / "a.png", 50, 60)


def missing(folder: Path) -> None:
    write_coco(folder, coco(SOUND, annotation(1)))
    (folder / "a.png").unlink()


def deep(folder: Path) -> None:
    write_coco(folder, coco(SOUND, annotation(1)))
    Image.fromarray(np.ones((30, 40), dtype=np.float32)).save(folder / "a.png", format="TIFF")


def of_voc(*contents: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        write_image(folder / "JPEGImages" / "a.png")
        write_image(folder / "JPEGImages" / "b.png")
        sound = voc(("dog", corners(1, 2, 11, 22)), filename="b.png")
        for name, content in zip("ab", [*contents, sound], strict=True):
            write_text(folder / "Annotations" / f"{name}.xml", content)

    return write


def of_yolo(*lines: str, orphan: bool = False) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        for name in ("a.png", "b.png"):
            write_image(folder / "images" / "train" / name)
        write_text(folder / "classes.txt", "dog\n")
        write_text(folder / "labels" / "train" / "a.txt", "".join(f"{line}\n" for line in lines))
        write_text(folder / "labels" / "train" / "b.txt", "0 0.5 0.5 0.25 0.5\n")
        if orphan:
            write_text(folder / "labels" / "train" / "c.txt", "0 0.5 0.5 0.25 0.5\n")

    return write


def of_csv(*lines: str, header: str = "image_path,xmin,ymin,xmax,ymax,label") -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        for name in ("a.png", "b.png"):
            write_image(folder / name)
        write_text(folder / "train.csv", "\n".join([header, *lines]) + "\n")

    return write


def of_masks(spoil: Callable[[Path], object]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        for name in ("a.png", "b.png"):
            write_image(folder / "images" / name)
            write_mask(folder / "masks" / name, np.full((30, 40), 1, dtype=np.uint8))
        write_text(folder / "masks" / "classes.txt", "ground\ntree\n")
        spoil(folder)

    return write


def of_labelme(content: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        shape = {"label": "dog", "shape_type": "rectangle", "points": [[1, 2], [11, 22]]}
        for name in ("a.png", "b.png"):
            write_image(folder / name)
        sound = {"shapes": [shape], "imagePath": "b.png", "imageHeight": 30, "imageWidth": 40}
        write_text(folder / "0.json", json.dumps(sound))
        write_text(folder / "a.json", content)

    return write


BOTH, LEFT = ("a.png", "b.png"), ("b.png",)
SKIPPED = {
    "flat box": Case(of_coco(annotation(1, bbox=[3, 3, 0, 5])), "annotation"),
    "box of no height, as in COCO's train2017": Case(of_coco(annotation(1, bbox=[3, 3, 9, 0])), "annotation"),
    "negative box": Case(of_coco(annotation(1, bbox=[9, 9, -5, -5])), "annotation"),
    "box of no number": Case(of_coco(annotation(1, bbox=[1, 1, float("nan"), 5])), "annotation"),
    "box outside": Case(of_coco(annotation(1, bbox=[30, 3, 30, 5])), "annotation"),
    "box in the last pixel's frame": Case(of_coco(annotation(1, bbox=[40.2, 3, 0.6, 5])), "annotation"),
    "box of three numbers": Case(of_coco(annotation(1, bbox=[1, 2, 3])), "annotation"),
    "category that is not declared": Case(of_coco(annotation(1, category_id=77)), "annotation"),
    "image that is not listed": Case(of_coco(annotation(1, image_id=77)), "annotation"),
    "annotation that is none": Case(lambda f: write_coco(f, coco(SOUND, "x")), "annotation"),  # type: ignore[arg-type]  # a wrong value, or one of a table
    "outline of two points": Case(outlined([[1, 1, 5, 5]]), "annotation", task="segment"),
    "run lengths of another size": Case(outlined({"size": [9, 9], "counts": [81]}), "annotation", task="segment"),
    "image entry without a name": Case(
        of_coco(images=[{"id": 8, "file_name": "b.png"}, {"id": 3}]), "image", LEFT
    ),
    "missing image": Case(missing, "image", LEFT),
    "empty image file": Case(with_file("a.png", b""), "image", LEFT),
    "text for an image": Case(with_file("a.png", b"<html>not found</html>"), "image", LEFT),
    "image of another size": Case(other_size, "image", LEFT),
    "image without a range": Case(deep, "image", LEFT),
    "broken XML": Case(of_voc("<annotation>"), "image", LEFT),
    "XML of something else": Case(of_voc("<html></html>"), "image", LEFT),
    "object without a name": Case(of_voc(voc(("", corners(1, 2, 3, 4)))), "annotation"),
    "corner that is no number": Case(of_voc(voc(("dog", corners(1, 2, "x", 4)))), "annotation"),
    "line of four values": Case(of_yolo("0 0.5 0.5 0.5"), "annotation"),
    "share above one": Case(of_yolo("0 0.5 1.5 0.5 0.5"), "annotation"),
    "class without a name": Case(of_yolo("3 0.5 0.5 0.5 0.5"), "annotation"),
    "labels without an image": Case(of_yolo(orphan=True), "image"),
    "number that is none": Case(of_csv("a.png,1,x,3,4,dog", "b.png,1,2,11,22,dog"), "annotation"),
    "line without a label": Case(of_csv("a.png,1,2,3,4,", "b.png,1,2,11,22,dog"), "annotation"),
    "line without an image": Case(
        of_csv(",1,2,3,4,dog", "b.png,1,2,11,22,dog"), "annotation", LEFT
    ),
    "two labels of one image": Case(
        of_csv("a.png,dog", "b.png,dog", "a.png,cat", header="image_path,label"), "image", LEFT, task="classify"
    ),
    "image without a label": Case(
        of_csv("a.png,", "b.png,dog", header="image_path,label"), "image", LEFT, task="classify"
    ),
    "image without a mask": Case(of_masks(lambda f: (f / "masks" / "a.png").unlink()), "image", LEFT, task="segment"),
    "mask without an image": Case(of_masks(lambda f: (f / "images" / "a.png").unlink()), "image", LEFT, task="segment"),
    "mask of another size": Case(
        of_masks(lambda f: write_mask(f / "masks" / "a.png", np.ones((9, 9), dtype=np.uint8))), "image", LEFT,
        task="segment",
    ),
    "mask with a value of no class": Case(
        of_masks(lambda f: write_mask(f / "masks" / "a.png", np.full((30, 40), 9, dtype=np.uint8))), "image", LEFT,
        task="segment",
    ),
    "broken mask": Case(of_masks(lambda f: (f / "masks" / "a.png").write_bytes(b"x")), "image", LEFT, task="segment"),
    "broken labelme": Case(of_labelme("{"), "image", LEFT),
    "shape of one point": Case(
        of_labelme(
            json.dumps({"imagePath": "a.png", "shapes": [{"label": "dog", "points": [[1, 1]], "shape_type": "rectangle"}]})
        ),
        "annotation",
    ),
}  # fmt: skip


def opened(folder: Path, task: str, on_error: str) -> Dataset:
    config = dataclasses.replace(CONFIG, on_error=on_error)
    dataset = open_dataset(str(folder), "train", task, config, DigitsConfig())
    assert dataset is not None
    return dataset


def count_annotations(dataset: Dataset) -> int:
    if hasattr(dataset, "objects"):
        return sum(len(dataset.objects(index)) for index in range(len(dataset)))
    if hasattr(dataset, "mask"):
        return sum(bool((dataset.mask(index) > 0).any()) for index in range(len(dataset)))
    return len(dataset)


@pytest.mark.parametrize("name", SKIPPED)
def test_each_fault_stops_or_is_left_out(tmp_path: Path, name: str) -> None:
    case = SKIPPED[name]
    case.write(tmp_path)
    with pytest.raises(UserError, match=f"or leave this {case.scope} out: --set data.on_error=skip"):
        opened(tmp_path, case.task, "stop")
    dataset = opened(tmp_path, case.task, "skip")
    assert isinstance(dataset, CanLeaveOut)
    assert [fault.scope for fault in dataset.left_out] == [case.scope]
    names = sorted(Path(dataset.record(index).name).name for index in range(len(dataset)))
    assert tuple(names) == case.images
    assert count_annotations(dataset) == case.annotations
    assert dataset.notes[-1].startswith(f"left out by data.on_error=skip: 1 {case.scope} (")


@pytest.mark.parametrize("name", SKIPPED)
def test_check_says_what_is_left_out(tmp_path: Path, name: str) -> None:
    case = SKIPPED[name]
    case.write(tmp_path)
    stopped = check(str(tmp_path), CONFIG)
    skipped = check(str(tmp_path), dataclasses.replace(CONFIG, on_error="skip"))
    assert (stopped["ok"], skipped["ok"]) == (False, True)
    assert stopped["faults"] == skipped["faults"]
    assert stopped["skipped"] == {"annotations": 0, "images": 0}
    assert skipped["skipped"] == {"annotations": 0, "images": 0, f"{case.scope}s": 1}


SET_FAULTS = {
    "not JSON": (lambda f: write_text(f / "train.json", '{"images": [], "annotations": [], "categories"'), "not JSON"),
    "nothing is left": (
        lambda f: write_coco(f, coco(annotation(1, bbox=[1, 1, 0, 0]))),
        "there is no box in any image; left out by data.on_error=skip: 1 annotation",
    ),
    "no image is left": (
        lambda f: (write_coco(f), (f / "a.png").unlink(), (f / "b.png").unlink()),
        "nothing is left of its 2 images; left out by data.on_error=skip: 2 images",
    ),
    "two images of one id": (
        lambda f: write_coco(f, coco(annotation(), images=[{"id": 3, "file_name": "a.png"}, {"id": 3, "file_name": "b.png"}])),
        "duplicate image id",
    ),
    "crowds only": (lambda f: write_coco(f, coco(annotation(1, iscrowd=1))), "are crowds"),
    "no class names": (
        lambda f: (of_yolo("0 0.5 0.5 0.25 0.5")(f), (f / "classes.txt").unlink()),
        "classes.txt",
    ),
}  # fmt: skip


def difficult_only(folder: Path) -> None:
    of_voc(voc(("dog", corners(1, 2, 11, 22))))(folder)
    for file in (folder / "Annotations").iterdir():
        file.write_text(file.read_text().replace("</name>", "</name><difficult>1</difficult>"))


def zeros_only(folder: Path) -> None:
    write_coco(folder, coco(annotation(1, bbox=[0, 0, 0, 0])))


def empty_lines_only(folder: Path) -> None:
    of_csv("a.png,0,0,0,0,", "b.png,,,,,")(folder)


NOTHING_TO_TRAIN_ON = {
    "crowds": lambda folder: write_coco(folder, coco(annotation(1, iscrowd=1), annotation(2, iscrowd=1))),
    "difficult objects": difficult_only,
    "deleted objects": zeros_only,
    "no annotation": lambda folder: write_coco(folder, coco()),
    "empty lines": empty_lines_only,
    "empty label files": lambda folder: (
        of_yolo()(folder),
        (folder / "labels" / "train" / "b.txt").write_text(""),
    ),
    "objects without area": lambda folder: write_coco(folder, coco(annotation(1, bbox=[3, 3, 0, 0]))),
    "no image": lambda folder: write_coco(folder, {**coco(annotation()), "images": [], "annotations": []}),
}


@pytest.mark.parametrize("name", NOTHING_TO_TRAIN_ON)
def test_nothing_to_train_on_is_an_error(tmp_path: Path, name: str) -> None:
    NOTHING_TO_TRAIN_ON[name](tmp_path)
    for on_error in ("stop", "skip"):
        with pytest.raises(UserError):
            opened(tmp_path, "detect", on_error)
    faults = check(str(tmp_path), dataclasses.replace(CONFIG, on_error="skip"))["faults"]
    assert [fault["scope"] for fault in faults if fault["fault"].startswith("empty ")] == ["set"]


def test_images_are_decoded_by_threads_in_their_order(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(40)]
    for name in names:
        write_image(tmp_path / name)
    for name in ("7.png", "31.png"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:70])
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    write_coco(tmp_path, coco(annotation(1), images=images))
    dataset = opened(tmp_path, "detect", "skip")
    done: list[int] = []
    found = spoiled_images(dataset, range(40), lambda data, index: data.objects(index), 4, done.append)  # type: ignore[attr-defined]  # a data set of this task has it
    assert list(found) == [7, 31]
    assert all("cannot decode the image" in why for why in found.values())
    assert done == list(range(1, 41))


@pytest.mark.parametrize("name", SET_FAULTS)
def test_what_spoils_the_whole_set_always_stops(tmp_path: Path, name: str) -> None:
    write, said = SET_FAULTS[name]
    write(tmp_path)
    for on_error in ("stop", "skip"):
        with pytest.raises(UserError) as caught:
            opened(tmp_path, "detect", on_error)
        assert on_error == "stop" or said in str(caught.value)
    assert not check(str(tmp_path), dataclasses.replace(CONFIG, on_error="skip"))["ok"]


def test_a_class_that_training_does_not_know_always_stops(tmp_path: Path) -> None:
    write_coco(tmp_path, coco(annotation()), "train.json")
    write_coco(tmp_path, coco(annotation(), categories=[{"id": 5, "name": "bird"}]), "val.json")
    config = dataclasses.replace(CONFIG, on_error="skip")
    with pytest.raises(UserError, match="'bird' is not a class of the training data"):
        open_dataset(str(tmp_path), "val", "detect", config, DigitsConfig())


def test_harmless_things_are_mended_and_counted(tmp_path: Path) -> None:
    """A box up to a pixel outside, and what tools leave of deleted objects."""
    boxes = [[-1, 0, 42, 31], [0, 0, 0, 0], [0.0, 0, 0, 0], [39, 29, 1.5, 1.5]]
    write_coco(tmp_path, coco(*(annotation(id, bbox=box) for id, box in enumerate(boxes, start=1))))
    assert check(str(tmp_path), CONFIG)["ok"]
    dataset = opened(tmp_path, "detect", "stop")
    assert dataset.objects(0).boxes_xyxy.tolist() == [[0, 0, 40, 30], [39, 29, 40, 30]]  # type: ignore[attr-defined]  # a data set of this task has it
    outside, empty = sorted(guesses(dataset.notes))  # type: ignore[attr-defined]  # a data set of this task has it
    assert "(2 times, such as a.png, 1)" in outside
    assert "0, 0, 0, 0 stands for no object (2 times, such as a.png, 2)" in empty


def test_images_without_annotations_stay(tmp_path: Path) -> None:
    of_coco(annotation(1, bbox=[3, 3, 0, 5]))(tmp_path)
    dataset = opened(tmp_path, "detect", "skip")
    assert [len(dataset.objects(index)) for index in range(2)] == [0, 1]  # type: ignore[attr-defined]  # a data set of this task has it


def test_images_are_left_out_after_opening(tmp_path: Path) -> None:
    write_coco(tmp_path, coco(annotation(1), SOUND))
    dataset = opened(tmp_path, "detect", "skip")
    assert isinstance(dataset, CanLeaveOut)
    rest = dataset.without({0: "it is cut short"})
    assert (len(dataset), len(rest), rest.record(0).name) == (2, 1, "b.png")
    assert rest.objects(0).boxes_xyxy.tolist() == dataset.objects(1).boxes_xyxy.tolist()
    assert rest.image(0).shape == (3, 30, 40)
    assert [(one.file, one.scope) for one in rest.left_out] == [(str(tmp_path / "a.png"), "image")]
    assert not dataset.left_out


SCOPES = st.sampled_from(["annotation", "image", "set", "remark"])
FAULTS = st.lists(
    st.builds(
        Fault, st.sampled_from(["a", "b"]), st.sampled_from([None, 1, 2]), st.sampled_from(["x: 1", "y: 2"]), SCOPES
    ),
    max_size=8,
)  # fmt: skip


@settings(deadline=None)
@given(FAULTS)
def test_every_fault_stops_is_left_out_or_is_a_remark(faults: list[Fault]) -> None:
    for on_error in ("stop", "skip"):
        judged = Faults(on_error, faults)  # type: ignore[arg-type]  # a wrong value, or one of a table
        remarks = [fault for fault in faults if fault.scope == "remark"]
        assert len(judged.stopping) + len(judged.skipped) + len(remarks) == len(faults)
    counts = count_left_out(judged.skipped)
    assert sum(counts.values()) <= len(judged.skipped)
    assert len(listing({"train": judged.skipped}).splitlines()) == len(judged.skipped)
    assert bool(left_out(judged.skipped)) == bool(judged.skipped)
    assert bool(sentences(judged.stopping, "set")) == bool(judged.stopping)


def test_defaults_stop() -> None:
    assert DataConfig().on_error == "stop"
