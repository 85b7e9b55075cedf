"""CSV files as other tools write them: the same boxes and labels as in our own form, or a fault that says what was seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.datasets import CONFIG, faults_of, open_labels, opened, write_image
from ziggurat.data.formats import find_faults, recognise_annotations

BOXES = [
    ("a.png", (1, 2, 11.5, 22), "tree"),
    ("a.png", (0, 0, 40, 30), "bush"),
    ("b.png", (3, 4, 9, 9), "tree"),
]
ORDERS = {
    "ours": ("image_path,xmin,ymin,xmax,ymax,label", "{0},{1},{2},{3},{4},{5}"),
    "Roboflow": ("filename,width,height,class,xmin,ymin,xmax,ymax", "{0},40,30,{5},{1},{2},{3},{4}"),
    "RetinaNet": ("", "{0},{1},{2},{3},{4},{5}"),
    "SKU110K": ("", "{0},{1},{2},{3},{4},{5},40,30"),
    "VIA": ("#File_Name;x1;y1;x2;y2;Class Name".removeprefix("#"), "{0};{1};{2};{3};{4};{5}"),
    "pandas": (",image_path,xmin,ymin,xmax,ymax,label", "7,{0},{1},{2},{3},{4},{5}"),
    "tabs": ("Image\tLeft\tTop\tRight\tBottom\tCategory", "{0}\t{1}\t{2}\t{3}\t{4}\t{5}"),
    "Open Images": ("ImageID,Source,LabelName,XMin,XMax,YMin,YMax", "{0},x,{5},{1},{3},{2},{4}"),
    "decimal commas": ("image_path;xmin;ymin;xmax;ymax;label", "{0};{1c};{2c};{3c};{4c};{5}"),
    "quotes": ('"image_path","xmin","ymin","xmax","ymax","label"', '"{0}","{1}","{2}","{3}","{4}","{5}"'),
}  # fmt: skip


def written(form: str, rows: list[tuple[str, tuple[float, ...], str]]) -> str:
    header, line = ORDERS[form]
    lines = [header] if header else []
    for name, box, label in rows:
        text = line.replace("{5}", label).replace("{0}", name)
        for place, value in enumerate(box, start=1):
            text = text.replace(f"{{{place}c}}", str(value).replace(".", ",")).replace(
                f"{{{place}}}", str(value)
            )
        lines.append(text)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n\n"])
def test_lines_may_end_as_on_other_machines(tmp_path: Path, end: str) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    (tmp_path / "train.csv").write_bytes(written("ours", BOXES).replace("\n", end).encode())
    assert opened(tmp_path).objects(0).boxes_xyxy.tolist() == [list(BOXES[0][1]), list(BOXES[1][1])]
    assert not find_faults(str(tmp_path), CONFIG)[0]


@pytest.mark.parametrize("form", ORDERS)
def test_boxes_of_every_form(tmp_path: Path, form: str) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    (tmp_path / "train.csv").write_text(written(form, BOXES))
    dataset = opened(tmp_path)
    assert dataset.classes == ("bush", "tree")
    assert dataset.objects(0).boxes_xyxy.tolist() == [list(BOXES[0][1]), list(BOXES[1][1])]
    assert dataset.objects(0).labels.tolist() == [1, 0]
    assert dataset.objects(1).boxes_xyxy.tolist() == [list(BOXES[2][1])]
    faults, summary = find_faults(str(tmp_path), CONFIG)
    assert faults == []
    is_guess = form not in ("ours", "pandas", "decimal commas", "quotes")
    assert len(summary.notes) == is_guess, "what is guessed is said"


@pytest.mark.parametrize(
    "empty", ["0,0,0,0", "0.0,0.0,0.0,0.0", "nan,nan,nan,nan", "NaN,,None,", ",,,", "-,-,-,-"]
)
@pytest.mark.parametrize("label", ["tree", "", "nan"])
def test_an_image_without_objects(tmp_path: Path, empty: str, label: str) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    (tmp_path / "train.csv").write_text(written("ours", BOXES[:1]) + f"b.png,{empty},{label}\n")
    dataset = opened(tmp_path)
    assert dataset.classes == ("tree",)
    assert [len(dataset.objects(index).labels) for index in (0, 1)] == [1, 0]
    assert len(dataset.notes) == bool(empty.strip(","))


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("image_path,label", "{},{}"),
        ("id,label", "{},{}"),
        ("image_id;breed", "{};{}"),
        ("filename\tclass", "{}\t{}"),
        ("", "{}.png,{}"),
        ("label,photographer,image", "{1},me,{0}.png"),
    ],
)
def test_labels_of_every_form(tmp_path: Path, header: str, row: str) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png")
    rows = [row.format(name, label) for name, label in (("a", "dog"), ("b", "cat"))]
    (tmp_path / "train.csv").write_text("\n".join([*[header] * bool(header), *rows]) + "\n")
    assert recognise_annotations(str(tmp_path), CONFIG) == ("labels",)
    dataset = open_labels(tmp_path)
    assert [dataset.classes[dataset.label(index)] for index in (0, 1)] == ["dog", "cat"]
    assert [dataset.path(index).name for index in (0, 1)] == ["a.png", "b.png"]
    assert faults_of(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("image_path,label,geometry\na.png,tree,POLYGON ((0 0))", "'geometry' says where objects are"),
        ("image_path,label,x,y\na.png,tree,1,2", "'x', 'y' says where objects are"),
        ("ImageId,EncodedPixels\na.png,1 3", "'EncodedPixels' says where objects are"),
        ("image_path,xmin,ymin,label\na.png,1,2,tree", "without xmax, ymax"),
        ("photographer,place,day\nme,here,1", "without image_path"),
        ("image_path,bbox,label\na.png,[1 2 3 4],tree", "'bbox' says where objects are"),
    ],
)
def test_what_was_seen_is_said(tmp_path: Path, line: str, told: str) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text(line + "\n")
    (fault,) = faults_of(tmp_path)
    assert fault.kind == "no such column"
    assert told in fault.fault
    assert "image_path,xmin,ymin,xmax,ymax,label" in fault.fault
