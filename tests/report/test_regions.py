"""The worst regions of large images: where they are, and what is drawn of them."""

import csv
import io
import json
from types import SimpleNamespace

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
from ziggurat.metrics.mistakes import CELL, SIDE, Mistakes, detection_mistakes, segmentation_mistakes
from ziggurat.report import write_report
from ziggurat.report.counts import counts_table
from ziggurat.report.regions import worst_regions
from ziggurat.tasks.detection.metric import ground_truth
from ziggurat.tasks.detection.windows import inside, objects_inside
from ziggurat.tasks.segmentation.metric import SegmentationMetric


@pytest.mark.parametrize("extent", [(385, 385), (500, 2000), (3000, 390), (100, 900), (1000, 1000)])
def test_regions_lie_in_the_image_and_hold_the_mistakes(extent):
    generator = torch.Generator().manual_seed(sum(extent))
    shape = tuple(-(-length // CELL) for length in extent)
    cells = (torch.rand(shape, generator=generator) < 0.2) * torch.randint(
        1, 9, shape, generator=generator
    ).double()
    found = worst_regions([Mistakes(3, extent, cells)], count=8)
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
    found = worst_regions([Mistakes(0, (768, 768), none), Mistakes(1, (768, 768), some)], count=8)
    assert [(one.image, one.mistakes) for one in found] == [(1, 2.0)]
    region = found[0].region
    assert region.top <= 5 * CELL < region.end[0]
    assert region.left <= 6 * CELL < region.end[1]
    assert worst_regions([], count=8) == worst_regions([Mistakes(0, (768, 768), none)], count=8) == []


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
    truth = [ground_truth(dataset, index) for index in range(2)]
    mistakes = [
        Mistakes(index, (640, 640), detection_mistakes(nothing, one, (640, 640), CELL))
        for index, one in enumerate(truth)
    ]
    worst = worst_regions(mistakes, count=8)[0]
    pixels = cut_out(dataset.image(worst.image), worst.region).permute(1, 2, 0).numpy()
    first = sheet[84 : 84 + SIDE, 12 : 12 + SIDE]  # below the heading
    assert (first == pixels).all(axis=2).mean() > 0.9  # pixels as they are, but for the lines of boxes
    with open(files["counts_table"], encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert {line["image"] for line in lines} == {dataset.record(index).name for index in range(2)}
    assert all(int(line["annotated"]) > 0 == int(line["found"]) for line in lines)


def test_the_worst_regions_are_those_of_all_images_and_not_of_those_shown(tmp_path):
    """One image of many objects misses some, and is neither among the best nor among the worst."""
    size = {"size": 416, "count_min": 1, "count_max": 1, "height_min": 30, "height_max": 60}
    scenes, *_ = fake_detection(3, **size)
    boxes = torch.tensor(
        [[40.0 * x, 40.0 * y, 40.0 * x + 30, 40.0 * y + 30] for x in range(9) for y in range(9)]
    )
    many = 2
    scenes.objects = lambda index: (
        Objects(boxes, torch.zeros(81, dtype=torch.int64))
        if index == many
        else type(scenes).objects(scenes, index)
    )
    found = []
    for index in range(3):
        objects = scenes.objects(index)
        kept = slice(0, 60) if index == many else slice(0, index % 2)  # all, or none
        labels = objects.labels[kept]
        found.append(Detections(objects.boxes_xyxy[kept], torch.linspace(0.9, 0.8, len(labels)), labels))
    model = Remembering(scenes, found, 10)
    task = Remembered(model, override(CONFIG, {"data.crop": 416}))
    evaluation = evaluated(task, scenes, found)
    findings = evaluation.metric.findings(evaluation.metrics)
    assert [one.image for one in findings.mistakes] == [0, 1, 2]
    assert [int(one.cells.sum()) for one in findings.mistakes] == [1, 0, 21]
    write_report(
        tmp_path, evaluation, model, task, scenes, override(CONFIG, {"data.crop": 416}), torch.device("cpu"),
        board := Board(), Console(file=io.StringIO(), width=100),
    )  # fmt: skip
    content = json.loads((tmp_path / "report" / "metrics.json").read_text())
    name = scenes.record(many).name
    assert name not in {row["image"] for row in content["best"] + content["worst"]}
    worst = worst_regions(findings.mistakes, count=8)[0]
    assert (worst.image, worst.described.split()[0]) == (many, "21")
    sheet = board.shown["report/worst_regions"].pixels
    pixels = cut_out(scenes.image(many), worst.region).permute(1, 2, 0).numpy()
    assert (sheet[84 : 84 + SIDE, 12 : 12 + SIDE] == pixels).all(axis=2).mean() > 0.6  # but for 81 boxes


def test_mistakes_of_segmentation_are_those_of_all_workers():
    generator = torch.Generator().manual_seed(0)
    masks = [
        torch.randint(0, 2, (size, 500), generator=generator, dtype=torch.uint8) for size in (90, 500, 384)
    ]
    dataset = SimpleNamespace(classes=("a", "b"), mask=masks.__getitem__, __len__=lambda: 3)
    predicted = [torch.randint(0, 2, mask.shape, generator=generator, dtype=torch.uint8) for mask in masks]
    workers = [SegmentationMetric(dataset) for _ in range(2)]
    for index in (2, 0, 1):
        workers[index % 2].update(index, predicted[index])
    states = [worker.state() for worker in workers]
    for worker in workers:
        worker.merge(states)
        assert sorted(worker._mistakes) == [0, 1, 2]
        for index, one in worker._mistakes.items():
            assert (one.image, one.extent) == (index, tuple(masks[index].shape))
            assert torch.equal(one.cells, segmentation_mistakes(predicted[index], masks[index], CELL))


def test_counts_name_images_without_anything():
    counts = Counts(0.5, np.array([[0, 0], [2, 0]]), np.array([[0, 0], [1, 3]]))
    text = counts_table(counts, ("oak", "a,b"), lambda index: f"{index}.png")
    assert text.splitlines() == [
        "image,class,annotated,found", "0.png,,0,0", "1.png,oak,2,1", '1.png,"a,b",0,3',
    ]  # fmt: skip
