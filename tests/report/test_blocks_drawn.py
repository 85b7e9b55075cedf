"""What a report shows of images that are divided into blocks: a picture of them, and a table of regions."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from support.faked import CONFIG, Board, Remembered, Remembering, evaluated, write_history
from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.detections import Detections
from ziggurat.data.digits import DigitScenes
from ziggurat.data.formats.blocks import part_of
from ziggurat.errors import UserError
from ziggurat.metrics.findings import Findings
from ziggurat.report import write_report
from ziggurat.report.blocks import draw_blocks, regions_table

DATA = DataConfig(split="blocks", block=64, crop=64, val_share=0.3)
ORANGE, BLUE = (213, 94, 0), (0, 114, 178)


def divided(part="val", num_scenes=2):
    scenes = DigitScenes(DigitsConfig(size=192, val_scenes=num_scenes, count_min=8, count_max=9), "val")
    return part_of(scenes, part, "digits", DATA)


def found_in(dataset, index):
    """Return all objects of the regions but those of the last one, which are missed."""
    objects = dataset.objects(index)
    kept = slice(None) if index < len(dataset) - 1 else slice(0)
    boxes, labels = objects.boxes_xyxy[kept], objects.labels[kept]
    return Detections(boxes, torch.linspace(0.9, 0.6, len(boxes)), labels)


def test_a_report_shows_blocks_and_lists_regions(tmp_path):
    dataset = divided()
    found = [found_in(dataset, index) for index in range(len(dataset))]
    model = Remembering(dataset, found, 10)
    config = replace(CONFIG, data=replace(DATA, crop=192))
    task = Remembered(model, config)
    write_history(tmp_path, num_steps=3)
    console = Console(file=io.StringIO(), width=100)
    evaluation = evaluated(task, dataset, found)
    files = write_report(
        tmp_path, evaluation, model, task, dataset, config, torch.device("cpu"), Board(), console
    )
    with open(files["regions_table"], encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(dataset)
    for index, row in enumerate(rows):
        image, region = dataset.place(index)
        assert row["image"] == dataset.whole.record(image).name
        assert [int(row[name]) for name in ("top", "left", "bottom", "right")] == [*region.start, *region.end]
        assert int(row["annotated"]) == len(dataset.objects(index))
    assert [float(row["F1"]) for row in rows[:-1]] == [1.0] * (len(rows) - 1)
    assert float(rows[-1]["F1"]) == (0.0 if len(dataset.objects(len(dataset) - 1)) else 1.0)
    with Image.open(files["blocks"]) as picture:
        assert picture.width > 2 * 192


@pytest.mark.parametrize("part", ["train", "val"])
def test_frames_lie_where_the_regions_do(part):
    dataset = divided(part, num_scenes=1)
    sheet = np.asarray(draw_blocks(dataset, torch.ones(len(dataset), dtype=torch.float64), "F1"))
    frame, other = (sheet == ORANGE).all(axis=2), (sheet == BLUE).all(axis=2)
    top = np.flatnonzero(frame.any(axis=1) | other.any(axis=1))[0]  # of the picture in the sheet
    left = np.flatnonzero(frame.any(axis=0) | other.any(axis=0))[0]
    for is_own, mask in ((True, frame), (False, other)):
        which = part if is_own else {"train": "val", "val": "train"}[part]
        for _, region in dataset.division.regions[which]:
            rows = slice(top + region.start[0], top + region.end[0])
            columns = slice(left + region.start[1], left + region.end[1])
            edge = mask[rows, columns]
            assert edge[0].all()
            assert edge[:, -1].all()


def test_an_image_that_cannot_be_decoded_is_not_drawn(monkeypatch):
    dataset = divided(num_scenes=1)

    def fail(index):
        raise UserError("broken")

    monkeypatch.setattr(dataset.whole, "image", fail, raising=False)
    assert draw_blocks(dataset, torch.ones(len(dataset)), "F1") is None


def test_a_table_without_counts_has_the_quality_alone():
    dataset = divided(num_scenes=1)
    findings = Findings.of_quality("pixels", {}, torch.full((len(dataset),), 0.5), "mean IoU")
    lines = regions_table(dataset, findings).splitlines()
    assert lines[0] == "image,top,left,bottom,right,mean IoU"
    assert lines[1].endswith(",0.5000")
