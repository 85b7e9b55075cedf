"""One image as a data set of two parts, in every format: regions are what the whole image says of them, and nothing leaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
import tifffile
import torch
from PIL import Image
from pyogrio.raw import write
from rasterio.transform import Affine

from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.batch import Objects, SampleId
from ziggurat.data.dataset import Annotations, left_out_of, notes_of
from ziggurat.data.decoding import spoiled_images
from ziggurat.data.extents import Region
from ziggurat.data.formats.opening import open_split
from ziggurat.data.formats.own import register_data
from ziggurat.data.regions import RegionDataset, cut_annotations
from ziggurat.data.samples import TrainingSamples
from ziggurat.errors import UserError
from ziggurat.tasks.registry import find_task

ROWS, COLUMNS = 90, 130
CONFIG = DataConfig(split="blocks", block=30, val_share=0.25, crop=24, min_visible=0.3, cache_bytes=1 << 20)
BOXES = ((5.0, 8.0, 25.0, 38.0), (60.0, 20.0, 110.0, 80.0), (90.0, 2.0, 96.0, 9.0), (28.0, 50.0, 45.0, 62.0))
TRANSFORM = Affine(0.1, 0, 500123.4, 0, -0.1, 5650000.7)
CRS = "EPSG:32632"
LABELME = {"version": "5.3.1", "flags": {}, "imageData": None}


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (ROWS, COLUMNS, 3), dtype=np.uint8)


def corners(box: tuple[float, ...]) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right, top, right, bottom, left, bottom]


def write_png(folder: Path, name: str = "mosaic.png") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels()).save(folder / name)


def write_tiff(path: Path, values: np.ndarray, **more: Any) -> None:
    shape = {"count": len(values), "height": ROWS, "width": COLUMNS, "dtype": "uint8"}
    blocks = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    with rasterio.open(
        path, "w", driver="GTiff", crs=CRS, transform=TRANSFORM, **shape, **blocks, **more
    ) as file:
        file.write(values)


def write_coco(folder: Path) -> Path:
    write_png(folder)
    content = {
        "images": [{"id": 7, "file_name": "mosaic.png", "width": COLUMNS, "height": ROWS}],
        "categories": [{"id": 3, "name": "crown"}],
        "annotations": [
            {"id": n, "image_id": 7, "category_id": 3, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0,
             "segmentation": [corners((x1, y1, x2, y2))]}
            for n, (x1, y1, x2, y2) in enumerate(BOXES)
        ],
    }  # fmt: skip
    (folder / "train.json").write_text(json.dumps(content))
    return folder / "train.json"


def write_voc(folder: Path) -> Path:
    write_png(folder / "JPEGImages")
    names = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        "<object><name>crown</name><bndbox>"
        + "".join(f"<{name}>{value:g}</{name}>" for name, value in zip(names, box, strict=True))
        + "</bndbox></object>"
        for box in BOXES
    )
    (folder / "Annotations").mkdir()
    text = f"<annotation><filename>mosaic.png</filename>{objects}</annotation>"
    (folder / "Annotations" / "mosaic.xml").write_text(text)
    return folder


def write_yolo(folder: Path) -> Path:
    write_png(folder / "images" / "train")
    (folder / "labels" / "train").mkdir(parents=True)
    lines = [
        f"0 {(x1 + x2) / 2 / COLUMNS!r} {(y1 + y2) / 2 / ROWS!r} {(x2 - x1) / COLUMNS!r} {(y2 - y1) / ROWS!r}\n"
        for x1, y1, x2, y2 in BOXES
    ]
    (folder / "labels" / "train" / "mosaic.txt").write_text("".join(lines))
    (folder / "classes.txt").write_text("crown\n")
    return folder


def write_csv(folder: Path) -> Path:
    write_png(folder)
    lines = [f"mosaic.png,{','.join(f'{value:g}' for value in box)},crown\n" for box in BOXES]
    (folder / "crowns.csv").write_text("image_path,xmin,ymin,xmax,ymax,label\n" + "".join(lines))
    return folder / "crowns.csv"


def write_labelme(folder: Path) -> Path:
    write_png(folder)
    shapes = [
        {"label": "crown", "shape_type": "polygon", "points": np.reshape(corners(box), (-1, 2)).tolist()}
        for box in BOXES
    ]
    content = LABELME | {
        "shapes": shapes,
        "imagePath": "mosaic.png",
        "imageHeight": ROWS,
        "imageWidth": COLUMNS,
    }
    (folder / "mosaic.json").write_text(json.dumps(content))
    return folder


def write_layer(folder: Path, suffix: str) -> Path:
    write_tiff(folder / "mosaic.tif", pixels().transpose(2, 0, 1), photometric="rgb")
    shapes = [
        shapely.transform(shapely.box(*box), lambda xy: np.array([TRANSFORM @ tuple(one) for one in xy]))
        for box in BOXES
    ]
    labels = [np.array(["crown"] * len(BOXES), dtype=object)]
    write(
        folder / f"crowns{suffix}", shapely.to_wkb(np.array(shapes)), labels, np.array(["label"], dtype=object),
        geometry_type="Polygon", crs=CRS,
    )  # fmt: skip
    return folder / f"crowns{suffix}"


def painted() -> np.ndarray:
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    for left, top, right, bottom in np.array(BOXES, int):
        mask[top:bottom, left:right] = 1
    return mask


def write_masks(folder: Path, suffix: str) -> Path:
    write_png(folder / "images", "mosaic.png")
    (folder / "masks").mkdir()
    (folder / "classes.txt").write_text("ground\ncrown\n")
    if suffix == ".tif":
        write_tiff(folder / "masks" / "mosaic.tif", painted()[None])
    else:
        Image.fromarray(painted()).save(folder / "masks" / f"mosaic{suffix}")
    return folder


FORMATS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "coco": ("boxes", write_coco),
    "voc": ("boxes", write_voc),
    "yolo": ("boxes", write_yolo),
    "csv": ("boxes", write_csv),
    "labelme": ("boxes", write_labelme),
    "gpkg": ("boxes", lambda folder: write_layer(folder, ".gpkg")),
    "geojson": ("boxes", lambda folder: write_layer(folder, ".geojson")),
    "shp": ("boxes", lambda folder: write_layer(folder, ".shp")),
    "coco outlines": ("outlines", write_coco),
    "gpkg outlines": ("outlines", lambda folder: write_layer(folder, ".gpkg")),
    "masks png": ("masks", lambda folder: write_masks(folder, ".png")),
    "masks tif": ("masks", lambda folder: write_masks(folder, ".tif")),
}


def opened(path: Path | str, part: str, kind: str, config: DataConfig = CONFIG) -> Any:
    return open_split(str(path), part, [kind], config, DigitsConfig())  # type: ignore[arg-type]  # of a table


def naive_objects(box: tuple[float, ...], region: Region) -> tuple[tuple[float, ...], float]:
    """Return a box in pixels of a region, and the share of it that lies within."""
    left, top, right, bottom = box
    (first, begin), (last, end) = region.start, region.end
    inside = max(left, begin), max(top, first), min(right, end), min(bottom, last)
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        return (0,) * 4, 0.0
    share = (inside[2] - inside[0]) * (inside[3] - inside[1]) / ((right - left) * (bottom - top))
    return (inside[0] - begin, inside[1] - first, inside[2] - begin, inside[3] - first), share


@pytest.mark.parametrize("name", FORMATS)
def test_regions_are_what_the_image_says_of_them(tmp_path, name):
    kind, prepare = FORMATS[name]
    path = prepare(tmp_path)
    parts = {part: opened(path, part, kind) for part in ("train", "val")}
    seen = np.zeros((ROWS, COLUMNS), int)
    for part, dataset in parts.items():
        assert isinstance(dataset, RegionDataset)
        assert dataset.classes == parts["train"].classes
        assert any(note.startswith("data.split=blocks: of 12 blocks") for note in notes_of(dataset))
        for index in range(len(dataset)):
            region = dataset.place(index)[1]
            seen[region.slices] += 1
            record = dataset.record(index)
            (top, left), (bottom, right) = region.start, region.end
            assert record.name.endswith(f"[{top}:{bottom},{left}:{right}]"), part
            assert record.extent == region.size
            expected = pixels()[region.slices].transpose(2, 0, 1)
            assert np.array_equal(dataset.image(index).numpy(), expected)
            if kind == "boxes":
                check_objects(dataset, index, region)
            else:
                assert np.array_equal(dataset.mask(index).numpy(), painted()[region.slices])
    assert (seen == 1).all()
    assert {parts["val"].record(index).image_id for index in range(len(parts["val"]))} == set(
        range(1, len(parts["val"]) + 1)
    )


def check_objects(dataset: Any, index: int, region: Region) -> None:
    """Compare the objects of a region with what plain numbers say."""
    expected = [naive_objects(box, region) for box in BOXES]
    kept = sorted(box for box, share in expected if share >= CONFIG.min_visible)
    objects = dataset.objects(index)
    assert len(objects) == len(kept)
    if kept:
        np.testing.assert_allclose(sorted(objects.boxes_xyxy.tolist()), kept, atol=0.01)
    assert len(dataset.all_objects(index)) == sum(share > 0 for _, share in expected)
    assert int(dataset.crowd(index).sum()) == sum(0 < share < CONFIG.min_visible for _, share in expected)
    areas = [
        share * (x2 - x1) * (y2 - y1) for (x1, y1, x2, y2), (_, share) in zip(BOXES, expected, strict=True)
    ]
    np.testing.assert_allclose(
        sorted(dataset.areas(index).tolist()), sorted(a for a in areas if a), rtol=1e-3
    )


def test_an_object_that_lies_mostly_beyond_is_ignored_and_a_crowd_stays_one():
    every = Annotations(
        Objects(torch.tensor([[0.0, 0, 10, 10], [8, 8, 18, 18], [9, 0, 12, 4]]), torch.tensor([0, 1, 2])),
        torch.tensor([60.0, 100, 12]),
        torch.tensor([False, False, True]),
    )
    found = cut_annotations(every, (20, 20), Region((0, 0), (10, 10)), min_visible=0.25)
    assert found.objects.boxes_xyxy.tolist() == [[0, 0, 10, 10], [8, 8, 10, 10], [9, 0, 10, 4]]
    assert found.crowd.tolist() == [False, True, True]
    np.testing.assert_allclose(found.areas, [60, 4, 4])
    # what reaches beyond the image is no part of an object: it is wholly within
    over = Annotations(
        Objects(torch.tensor([[-10.0, 0, 10, 10]]), torch.tensor([0])),
        torch.tensor([200.0]),
        torch.tensor([False]),
    )
    assert not cut_annotations(over, (20, 20), Region((0, 0), (20, 20)), min_visible=0.9).crowd.any()


def overwrite(file: Path, regions: list[Region]) -> None:
    """Change every pixel of some regions of an image or a mask."""
    if file.suffix == ".png":
        with Image.open(file) as image:
            values = np.array(image)
    else:
        with rasterio.open(file) as source:
            values = source.read().transpose(1, 2, 0)
    for region in regions:
        values[region.slices] = 1 - values[region.slices].clip(max=1)
    if file.suffix == ".png":
        Image.fromarray(values).save(file)
    else:
        write_tiff(file, values.transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["coco", "gpkg", "masks tif", "gpkg outlines"])
@pytest.mark.parametrize("cache", [1 << 20, 0])
def test_no_crop_for_training_sees_a_pixel_of_validation(tmp_path, name, cache):
    """The validation blocks of the files are overwritten: crops and what is to be predicted stay as they were."""
    kind, prepare = FORMATS[name]
    path, task = prepare(tmp_path), "detect" if FORMATS[name][0] == "boxes" else "segment"
    config = replace(CONFIG, cache_bytes=cache, scale_min=0.5, scale_max=2.0, flip="both")

    def crops() -> list[Any]:
        samples = TrainingSamples(
            opened(path, "train", kind, config), find_task(task).targets, config, seed=0
        )
        return [samples.sample(SampleId(epoch, number)) for epoch in (0, 1) for number in range(len(samples))]

    before = crops()
    held = opened(path, "val", kind, config).division.regions["val"]
    for file in {*tmp_path.rglob("mosaic.png"), *tmp_path.rglob("mosaic.tif")}:
        overwrite(file, [region for _, region in held])
    after = crops()
    assert len(before) > 10
    for one, other in zip(before, after, strict=True):
        assert one.image_CHW.equal(other.image_CHW)
        if task == "segment":
            assert one.target.equal(other.target)


def test_of_a_large_file_only_windows_are_read(tmp_path, monkeypatch):
    dataset = opened(write_layer(tmp_path, ".gpkg"), "train", "boxes", replace(CONFIG, cache_bytes=0))
    monkeypatch.setattr(dataset.whole, "image", None)  # would decode all of it
    samples = TrainingSamples(dataset, find_task("detect").targets, replace(CONFIG, cache_bytes=0), seed=0)
    assert len({samples.sample(SampleId(0, number)).image_CHW.shape for number in range(len(samples))}) == 1
    for index in range(len(dataset)):
        dataset.try_decoding(index)


def test_a_file_that_is_decoded_as_a_whole_is_decoded_once(tmp_path, monkeypatch):
    dataset = opened(write_csv(tmp_path), "train", "boxes")
    calls: list[int] = []
    read = dataset.whole.image
    monkeypatch.setattr(dataset._images, "_make", lambda index: calls.append(index) or read(index))
    for index in range(len(dataset)):
        dataset.image(index)
    assert calls == [0]


def test_a_region_that_cannot_be_decoded_is_left_out_alone(tmp_path):
    path, file = write_layer(tmp_path, ".gpkg"), tmp_path / "mosaic.tif"
    write_tiff(file, pixels().transpose(2, 0, 1), photometric="rgb", compress="deflate")
    with tifffile.TiffFile(file) as image:
        place = image.pages[0].dataoffsets[-1]  # of the last tile
    content = bytearray(file.read_bytes())
    content[place : place + 40] = bytes(40)
    file.write_bytes(content)
    parts = [opened(path, part, "boxes") for part in ("train", "val")]
    found = [(dataset, spoiled) for dataset in parts if (spoiled := spoiled_of(dataset))]
    ((dataset, spoiled),) = found
    ((index, region),) = [(index, dataset.place(index)[1]) for index in spoiled]
    assert region.end == (ROWS, COLUMNS)
    assert "left out" not in str(notes_of(dataset))
    rest = dataset.without(spoiled)
    (fault,) = left_out_of(rest)
    assert len(rest) == len(dataset) - 1
    assert (fault.file, fault.id) == (str(file), dataset.record(index).name)
    assert "1 image" in notes_of(rest)[-1]


def spoiled_of(dataset: Any) -> dict[int, str]:
    return spoiled_images(dataset, range(len(dataset)), lambda data, index: data.objects(index))


@pytest.mark.parametrize(
    ("extent", "settings", "said"),
    [
        ((1, 1), {}, "image of 1 x 1 pixels of .* makes 1 of 30 pixels a side; lower data.block"),
        (
            (14, 17),
            {"block": 0},
            "makes 1 of 12 pixels a side; lower data.block .it follows data.crop=24 now.",
        ),
        ((40, 40), {}, "makes 1 of 30 pixels"),
        ((700, 1000), {"block": 10}, ""),
        (
            (4000, 3000),
            {"block": 8},
            "from 2 to 10000 blocks: .* makes 187500 of 8 pixels a side; raise data.block",
        ),
        ((90, 130), {"resize": 64}, "at one scale.*data.resize=64; give data.resize=0"),
    ],
)
def test_what_cannot_be_divided_is_refused_in_one_message(extent, settings, said):
    class Mosaic:
        classes, category_ids = ("crown",), (1,)

        def __len__(self) -> int:
            return 1

        def record(self, index: int) -> Any:
            from ziggurat.data.dataset import ImageRecord

            return ImageRecord("mosaic.tif", 1, *extent)

        def image(self, index: int) -> torch.Tensor:
            return torch.zeros((3, *extent), dtype=torch.uint8)

        def objects(self, index: int) -> Objects:
            return Objects(torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64))

    name = register_data(f"mosaic-{extent}", Mosaic())
    config = replace(CONFIG, **settings)
    if not said:
        assert len(opened(name, "val", "boxes", config))
        return
    with pytest.raises(UserError, match=said) as caught:
        opened(name, "train", "boxes", config)
    assert len(caught.value.faults) == 1


def test_labels_of_whole_images_are_not_divided(tmp_path):
    for name in ("oak", "pine"):
        write_png(tmp_path / "train" / name)
    with pytest.raises(UserError, match=r"needs boxes or masks.*labels of whole images"):
        opened(tmp_path, "train", "labels")


def test_a_data_set_with_a_validation_split_keeps_it(tmp_path):
    write_coco(tmp_path)
    (tmp_path / "val.json").write_text((tmp_path / "train.json").read_text())
    for part in ("train", "val"):
        assert not isinstance(opened(tmp_path, part, "boxes"), RegionDataset)
    assert isinstance(opened(tmp_path / "train.json", "val", "boxes"), RegionDataset)  # a file has none


def test_regions_have_the_bands_and_the_holes_of_their_image(tmp_path):
    path = write_layer(tmp_path, ".gpkg")
    values = np.random.default_rng(1).integers(1, 60000, (4, ROWS, COLUMNS)).astype(np.uint16)
    values[:, 20:50, 40:90] = 0  # a hole over several blocks
    profile = {"count": 4, "height": ROWS, "width": COLUMNS, "dtype": "uint16", "nodata": 0}
    with rasterio.open(
        tmp_path / "mosaic.tif", "w", driver="GTiff", crs=CRS, transform=TRANSFORM, **profile
    ) as file:
        file.write(values)
    config = replace(CONFIG, bands="4,2")
    whole = torch.from_numpy(values[[3, 1]].astype(np.float32))
    whole[whole == 0] = torch.nan
    parts = [opened(path, part, "boxes", config) for part in ("train", "val")]
    for dataset in parts:
        for index in range(len(dataset)):
            expected = whole[dataset.place(index)[1].last_dims]
            torch.testing.assert_close(dataset.image(index), expected, rtol=0, atol=0, equal_nan=True)
    samples = TrainingSamples(parts[0], find_task("detect").targets, config, seed=0)
    assert samples.sample(SampleId(0, 0)).image_CHW.shape == (2, 24, 24)
    masks = [opened(path, part, "outlines", config) for part in ("train", "val")]
    for dataset in masks:
        for index in range(len(dataset)):
            ignored = dataset.mask(index) == 255
            assert ignored.equal(whole[0][dataset.place(index)[1].slices].isnan())


def test_the_natural_block_follows_the_resolution(tmp_path):
    path = write_layer(tmp_path, ".gpkg")
    sides = {}
    for gsd in (0.0, 0.2):  # the image has 0.1
        dataset = opened(path, "train", "boxes", replace(CONFIG, block=0, gsd=gsd))
        sides[gsd] = dataset.division.block
        assert dataset.record(0).spacing == (None if not gsd else pytest.approx((0.1, 0.1)))
    assert sides == {0.0: 24, 0.2: 48}


def test_a_class_of_which_nothing_is_trained_on_is_named(tmp_path):
    write_png(tmp_path)
    boxes = [
        (5, 5, 12, 12, "oak"),
        (100, 60, 110, 70, "pine"),
        (40, 65, 50, 75, "oak"),
        (70, 5, 80, 15, "oak"),
    ]
    lines = "".join(f"mosaic.png,{x1},{y1},{x2},{y2},{name}\n" for x1, y1, x2, y2, name in boxes)
    (tmp_path / "crowns.csv").write_text("image_path,xmin,ymin,xmax,ymax,label\n" + lines)
    told = {}
    for seed in range(12):
        config = replace(CONFIG, split_seed=seed)
        train = opened(tmp_path / "crowns.csv", "train", "boxes", config)
        here = {train.classes[label] for index in range(len(train)) for label in train.objects(index).labels}
        told[seed] = [note for note in notes_of(train) if "no object of" in note]
        assert [f"no object of {name} lies" in told[seed][0] for name in {"oak", "pine"} - here] == [True] * (
            2 - len(here)
        )
        assert bool(told[seed]) == (here != {"oak", "pine"})
    assert {len(notes) for notes in told.values()} == {0, 1}
