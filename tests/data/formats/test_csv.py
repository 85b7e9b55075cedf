from __future__ import annotations

from pathlib import Path

import pytest

from support.datasets import CONFIG, faults_of, open_labels, opened, write_image
from ziggurat.data.formats import find_faults
from ziggurat.errors import UserError
from ziggurat.tasks.registry import tasks_of

HEADER = "image_path,xmin,ymin,xmax,ymax,label\n"


def write(folder: Path, content: str | bytes) -> Path:
    for name in ("a.png", "b.png"):
        write_image(folder / name)
    file = folder / "boxes.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_rows_are_boxes_and_empty_fields_are_images_without_objects(tmp_path: Path) -> None:
    rows = "a.png,1,2,11.5,22,tree\nb.png,,,,,\na.png,0,0,40,30,bush\n"
    dataset = opened(write(tmp_path, HEADER + rows))
    assert dataset.classes == ("bush", "tree")
    assert dataset.objects(0).boxes_xyxy.tolist() == [[1, 2, 11.5, 22], [0, 0, 40, 30]]
    assert dataset.objects(0).labels.tolist() == [1, 0]
    assert len(dataset.objects(1)) == 0
    assert [(dataset.record(i).name, dataset.record(i).image_id) for i in (0, 1)] == [
        ("a.png", 1),
        ("b.png", 2),
    ]
    assert (dataset.record(0).height, dataset.record(0).width) == (30, 40)
    assert not faults_of(tmp_path)


def test_order_of_columns_blank_lines_quotes_and_a_byte_order_mark(tmp_path: Path) -> None:
    content = '\ufefflabel,score, Image_Path ,xmin,ymin,xmax,ymax\r\n\r\n"big, tree",1,"a.png", 1,2,3,4\r\n'
    dataset = opened(write(tmp_path, content))
    assert dataset.classes == ("big, tree",)
    assert dataset.objects(0).boxes_xyxy.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("rows", "line", "kind"),
    [
        ("a.png,5,5,5,9,tree\n", 2, "box without area"),
        ("a.png,1,1,9,9,tree\na.png,9,9,1,1,tree\n", 3, "box without area"),
        ("a.png,5,5,50,9,tree\n", 2, "box outside the image"),
        ("a.png,5,5,nan,9,tree\n", 2, "box not finite"),
        ("a.png,5,5,1e300,9,tree\n", 2, "box not finite"),
        ("a.png,5,5,x,9,tree\n", 2, "unreadable box"),
        ("a.png,5,5,,9,tree\n", 2, "unreadable box"),
        ("a.png,5,5\na.png,1,1,9,9,tree\n", 2, "unreadable box"),
        ("a.png,1,1,9,9,\na.png,1,1,9,9,tree\n", 2, "unknown category"),
        (",1,1,9,9,tree\na.png,1,1,9,9,tree\n", 2, "unreadable line"),
        ("a.png,1,1,9,9,tree\nc.png,1,1,9,9,tree\n", 3, "missing image"),
        ("a.png,1,1,9,9,tree\n../c.png,1,1,9,9,tree\n", 3, "path leaves the data set"),
        ("a.png,,,,,\n", None, "empty annotation file"),
        ("", None, "empty annotation file"),
    ],
)
def test_each_fault_is_found(tmp_path: Path, rows: str, line: int | None, kind: str) -> None:
    file = write(tmp_path, HEADER + rows)
    assert [(fault.file, fault.id, fault.kind) for fault in faults_of(file)] == [(str(file), line, kind)]
    with pytest.raises(UserError, match=kind):
        opened(file)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty annotation file"),
        (b"a,b,c\n1,2,3\n", "no such column"),
        (b"\xff\xff\xff", "not text"),
        (HEADER.encode() + b'"' + b"x" * 200_000, "not CSV"),
    ],
)
def test_what_is_not_such_a_table(tmp_path: Path, content: bytes, kind: str) -> None:
    file = write(tmp_path, content)
    assert [fault.kind for fault in faults_of(file)] == [kind]
    with pytest.raises(UserError, match=kind):
        opened(file)


def test_an_image_whose_header_is_broken(tmp_path: Path) -> None:
    file = write(tmp_path, HEADER + "a.png,1,1,9,9,tree\n")
    (tmp_path / "a.png").write_bytes(b"nothing")
    (fault,) = faults_of(file)
    assert (fault.file, fault.id, fault.kind) == (str(tmp_path / "a.png"), 2, "undecodable image")
    with pytest.raises(UserError, match="undecodable image"):
        opened(file)


def test_labels_of_images(tmp_path: Path) -> None:
    file = write(tmp_path, "label,who,image_path\ntree,me,b.png\nbush,me,a.png\n")
    dataset = open_labels(file)
    assert (dataset.classes, dataset.category_ids) == (("bush", "tree"), (1, 2))
    assert [(dataset.record(i).name, dataset.label(i)) for i in (0, 1)] == [("b.png", 1), ("a.png", 0)]
    faults, summary = find_faults(str(tmp_path), CONFIG)
    assert (faults, summary.format, tasks_of(summary.kinds)) == ([], "csv", ("classify",))
    with pytest.raises(UserError, match="recognised as csv, which serves classify here"):
        opened(file)


@pytest.mark.parametrize(
    ("rows", "line", "kind"),
    [
        ("a.png,tree\na.png,bush\n", 3, "two labels"),
        ("a.png,tree\nb.png,\n", 3, "unknown category"),
        ("a.png,tree\n,bush\n", 3, "unreadable line"),
        ("a.png,tree\nc.png,bush\n", 3, "missing image"),
        ("a.png,tree\n../c.png,bush\n", 3, "path leaves the data set"),
        ("", None, "empty annotation file"),
    ],
)
def test_each_fault_of_labels_is_found(tmp_path: Path, rows: str, line: int | None, kind: str) -> None:
    file = write(tmp_path, "image_path,label\n" + rows)
    assert [(fault.file, fault.id, fault.kind) for fault in faults_of(tmp_path)] == [(str(file), line, kind)]
    with pytest.raises(UserError, match=kind):
        open_labels(file)


def test_an_image_that_is_listed_twice_with_one_label(tmp_path: Path) -> None:
    file = write(tmp_path, "image_path,label\na.png,tree\na.png,tree\n")
    assert [(fault.id, fault.kind) for fault in faults_of(file)] == [(3, "duplicate image")]
    assert len(open_labels(file)) == 1
