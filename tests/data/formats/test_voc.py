from __future__ import annotations

from pathlib import Path

import pytest

from support.datasets import corners, faults_of, opened, voc, write_image
from ziggurat.errors import UserError

SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def write(folder: Path, content: str | bytes, name: str = "a.xml") -> Path:
    write_image(folder / "a.png")
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_coordinates_as_they_are_in_the_file(tmp_path: Path) -> None:
    content = voc(("tree", corners(1, 2, 11.5, 22)), ("bush", corners(0, 0, 40, 30)), size=SIZE)
    dataset = opened(write(tmp_path, content))
    assert dataset.classes == ("bush", "tree")
    assert dataset.category_ids == (1, 2)
    assert dataset.objects(0).boxes_xyxy.tolist() == [[1, 2, 11.5, 22], [0, 0, 40, 30]]
    assert dataset.objects(0).labels.tolist() == [1, 0]
    assert (dataset.record(0).image_id, dataset.record(0).height, dataset.record(0).width) == (1, 30, 40)


@pytest.mark.parametrize("name", ["a.xml", "a.voc.xml"])
@pytest.mark.parametrize("filename", ["old.tif", "/home/someone/old.tif", "../old.tif", ""])
def test_the_image_is_found_by_the_annotations_name(tmp_path: Path, name: str, filename: str) -> None:
    file = write(tmp_path, voc(("tree", corners(1, 2, 3, 4)), filename=filename), name)
    assert opened(file).path(0) == tmp_path / "a.png"
    assert not faults_of(file)


@pytest.mark.parametrize(
    ("content", "id", "kind"),
    [
        (voc(("tree", corners(5, 5, 5, 9))), 1, "box without area"),
        (voc(("tree", corners(1, 1, 9, 9)), ("tree", corners(5, 5, 50, 9))), 2, "box outside the image"),
        (voc(("tree", corners(1, 1, 9, "nan"))), 1, "box not finite"),
        (voc(("tree", corners(1, 1, 9, "x"))), 1, "unreadable box"),
        (voc(("tree", "")), 1, "unreadable box"),
        (voc(("", corners(1, 1, 9, 9)), ("tree", corners(1, 1, 9, 9))), 1, "unknown category"),
        (b"", None, "empty annotation file"),
        (b"<annotation>", None, "not XML"),
        (b"\xff\xfe\x00\x01", None, "not XML"),
        (b"<?xml version='1.0' encoding='nonsense'?><annotation/>", None, "not XML"),
        (b"<html></html>", None, "not VOC"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><annotation>&b;</annotation>", None, "not VOC"),
        (voc(), None, "empty annotation file"),
    ],
)
def test_each_fault_is_found(tmp_path: Path, content: str | bytes, id: int | None, kind: str) -> None:
    file = write(tmp_path, content)
    assert [(fault.file, fault.id, fault.kind) for fault in faults_of(file)] == [(str(file), id, kind)]
    with pytest.raises(UserError, match=kind):
        opened(file)


DECLARED = {
    "entity": "<!ENTITY b 'c'>",
    "many": "<!ENTITY b 'cccccccccc'><!ENTITY d '&b;&b;&b;&b;&b;&b;&b;&b;'>",
    "parameter": "<!ENTITY % b 'c'>",
    "external": "<!ENTITY b SYSTEM 'file:///etc/hostname'>",
    "attributes": "<!ATTLIST annotation b CDATA 'c'>",
    "element": "<!ELEMENT annotation ANY>",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "iso-8859-1"])
@pytest.mark.parametrize("kind", DECLARED)
def test_declarations_are_refused_in_every_encoding(tmp_path: Path, encoding: str, kind: str) -> None:
    name = {"utf-8-sig": "utf-8", "utf-16-le": "utf-16", "utf-16-be": "utf-16"}.get(encoding, encoding)
    text = f"<?xml version='1.0' encoding='{name}'?><!DOCTYPE annotation [{DECLARED[kind]}]><annotation/>"
    content = text.encode(encoding)
    if encoding in ("utf-16-le", "utf-16-be"):
        content = "\ufeff".encode(encoding) + content
    file = write(tmp_path, content)
    (fault,) = faults_of(file)
    assert (fault.kind, "declares XML entities" in fault.fault) == ("not VOC", True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "cp1252"])
def test_names_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    content = f"<?xml version='1.0' encoding='{encoding}'?>" + voc(
        ("Ahornb\xe4ume & B\xfcsche", corners(1, 2, 3, 4))
    )
    file = write(tmp_path, content.replace("&", "&amp;").encode(encoding))
    assert opened(file).classes == ("Ahornb\xe4ume & B\xfcsche",)


def test_missing_image(tmp_path: Path) -> None:
    file = write(tmp_path, voc(("tree", corners(1, 1, 9, 9)), filename="c.png"), "c.xml")
    assert [(fault.file, fault.kind) for fault in faults_of(file)] == [(str(file), "missing image")]


def test_images_without_objects_are_legal(tmp_path: Path) -> None:
    write_image(tmp_path / "b.png")
    write(tmp_path, voc(("tree", corners(1, 1, 9, 9))))
    write(tmp_path, voc(filename="b.png"), "b.xml")
    dataset = opened(tmp_path)
    assert [len(dataset.objects(index)) for index in range(2)] == [1, 0]
    assert not faults_of(tmp_path)


def with_objects(*objects: str) -> str:
    return voc().replace("</annotation>", "".join(objects) + "</annotation>")


@pytest.mark.parametrize(
    "polygon",
    [
        "<x1>5</x1><y1>6</y1><x2>20.5</x2><y2>6</y2><x3>20</x3><y3>9</y3>",  # CVAT
        "<pt><x>5</x><y>6</y></pt><pt><x>20.5</x><y>7</y></pt><pt><x>9</x><y>9</y></pt>",  # LabelMe's XML
    ],
)
def test_an_object_without_a_box_has_the_box_around_its_polygon(tmp_path: Path, polygon: str) -> None:
    file = write(tmp_path, with_objects(f"<object><name>dog</name><polygon>{polygon}</polygon></object>"))
    assert opened(tmp_path).objects(0).boxes_xyxy.tolist() == [[5, 6, 20.5, 9]], file
    assert len(opened(tmp_path).notes) == 1


@pytest.mark.parametrize(
    "polygon", ["", "<x1>5</x1><y1>6</y1>", "<x1>a</x1><x2>1</x2><x3>2</x3><y1>1</y1><y2>2</y2><y3>3</y3>"]
)
def test_a_polygon_that_is_none(tmp_path: Path, polygon: str) -> None:
    write(tmp_path, with_objects(f"<object><name>dog</name><polygon>{polygon}</polygon></object>"))
    assert "unreadable box" in [fault.kind for fault in faults_of(tmp_path)]


def test_what_is_difficult_counts_neither_way(tmp_path: Path) -> None:
    box = f"<bndbox>{corners(1, 2, 11, 22)}</bndbox>"
    entry = f"<object><name>dog</name><difficult>{{}}</difficult>{box}</object>"
    write(tmp_path, with_objects(entry.format(1), entry.format(0)))
    dataset = opened(tmp_path)
    assert len(dataset.objects(0)) == 1
    assert dataset.crowd(0).tolist() == [True, False]
    assert "marked as difficult" in dataset.notes[0]
