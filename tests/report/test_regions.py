"""The worst regions of large images: where they are, and what is drawn of them."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from support.faked import CONFIG, Board, Remembered, Remembering, evaluated, fake_detection
from ziggurat.config import override
from ziggurat.data.batch import Objects
from ziggurat.data.detections import Detections
from ziggurat.data.extents import Region, cut_out
from ziggurat.metrics.counts import Counts
from ziggurat.report import write_report
from ziggurat.report.counts import counts_table
from ziggurat.report.regions import CELL, SIDE, worst_regions
from ziggurat.tasks.detection.windows import inside, objects_inside


@pytest.mark.parametrize("extent", [(385, 385), (500, 2000), (3000, 390), (100, 900), (1000, 1000)])
def test_regions_lie_in_the_image_and_hold_the_mistakes(extent):
    generator = torch.Generator().manual_seed(sum(extent))
    shape = tuple(-(-length // CELL) for length in extent)
    cells = (torch.rand(shape, generator=generator) < 0.2) * torch.randint(
        1, 9, shape, generator=generator
    ).double()
    found = worst_regions([(3, extent, cells)], count=8)
    assert found
    assert [one.mistakes for one in found] == sorted((one.mistakes for one in found), reverse=True)
    assert sum(one.mistakes for one in found) <= cells.sum()
    for one in found:
        assert one.region.size == tuple(min(SIDE, length) for length in extent)
        assert min(one.region.start) >= 0
        assert all(end <= length for end, length in zip(one.region.end, extent, strict=True))


def test_the_worst_of_several_images_comes_first_and_none_without_mistakes():
    some, none = torch.zeros(8, 8, dtype=torch.float64), torch.zeros(8, 8, dtype=torch.float64)
    some[5, 6] = 2
    found = worst_regions([(0, (768, 768), none), (1, (768, 768), some)], count=8)
    assert [(one.image, one.mistakes) for one in found] == [(1, 2.0)]
    region = found[0].region
    assert region.top <= 5 * CELL < region.end[0]
    assert region.left <= 6 * CELL < region.end[1]
    assert worst_regions([], count=8) == worst_regions([(0, (768, 768), none)], count=8) == []


def test_boxes_of_a_window():
    boxes = torch.tensor([[0.0, 0, 10, 10], [100, 100, 120, 120], [115, 100, 135, 120], [119, 100, 139, 120]])
    found = inside(Detections(boxes, torch.linspace(1, 0, 4), torch.arange(4)), Region((90, 95), (40, 29)))
    assert found.labels.tolist() == [1, 2, 3]  # the last shows a quarter of itself
    assert found.boxes_xyxy[0].tolist() == [5, 10, 25, 30]
    assert objects_inside(Objects(boxes, torch.arange(4)), Region((90, 95), (40, 28))).labels.tolist() == [
        1,
        2,
    ]


def test_large_images_have_a_sheet_of_regions_and_small_ones_none(tmp_path):
    dataset, *_ = fake_detection(2, size=640, height_max=60)
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    model = Remembering(dataset, [nothing] * 2, 10)
    config = override(CONFIG, {"data.crop": 640})
    task = Remembered(model, config)
    board, console = Board(), Console(file=io.StringIO(), width=100)
    files = write_report(
        tmp_path, evaluated(task, dataset, [nothing] * 2), model, task, dataset, config, torch.device("cpu"),
        board, console,
    )  # fmt: skip
    with Image.open(files["worst_regions"]) as picture:
        sheet = np.asarray(picture)
    assert np.array_equal(sheet, board.shown["report/worst_regions"].pixels)
    mistakes = [(index, (640, 640), task.mistakes(nothing, dataset, index, CELL)) for index in (0, 1)]
    worst = worst_regions(mistakes, count=8)[0]
    pixels = cut_out(dataset.image(worst.image), worst.region).permute(1, 2, 0).numpy()
    first = sheet[84 : 84 + SIDE, 12 : 12 + SIDE]  # below the heading
    assert (first == pixels).all(axis=2).mean() > 0.9  # pixels as they are, but for the lines of boxes
    with open(files["counts_table"], encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert {line["image"] for line in lines} == {dataset.record(index).name for index in range(2)}
    assert all(int(line["annotated"]) > 0 == int(line["found"]) for line in lines)


def test_counts_name_images_without_anything():
    counts = Counts(0.5, np.array([[0, 0], [2, 0]]), np.array([[0, 0], [1, 3]]))
    text = counts_table(counts, ("oak", "a,b"), lambda index: f"{index}.png")
    assert text.splitlines() == [
        "image,class,annotated,found", "0.png,,0,0", "1.png,oak,2,1", '1.png,"a,b",0,3',
    ]  # fmt: skip
