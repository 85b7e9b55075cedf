"""Masks are written row by row of their tiles, as if they were whole."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ziggurat.config import DataConfig, RunConfig
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.views import make_view
from ziggurat.models.vision import VisionModel
from ziggurat.tasks.base import Place, Task
from ziggurat.tasks.segmentation.task import SegmentationTask

CLASSES = ("a", "b", "c", "d")


@pytest.mark.parametrize("picture", [None, (20, 31), (150, 230)])
@pytest.mark.parametrize(("resize", "overlap"), [(0, 0.3), (0, 0.0), (70, 0.3)])
def test_a_mask_is_that_of_the_whole_image(
    tmp_path: Path, picture: tuple[int, int] | None, resize: int, overlap: float
) -> None:
    config = RunConfig(data=DataConfig(crop=64, tile_overlap=overlap, resize=resize))
    model = VisionModel.__new__(VisionModel)
    torch.nn.Module.__init__(model)
    model.num_classes = len(CLASSES)
    task = SegmentationTask(model, config)
    record = ImageRecord("a.png", 1, 150, 230)
    view = make_view(record, config.data)
    labels = torch.randint(0, 3, view.extent, dtype=torch.uint8)
    tiles = [(tile, labels[tile.slices]) for tile in view.tiles]
    rows, shown = [], []
    for name, write in (("bands", task.write), ("whole", lambda *given: Task.write(task, *given))):
        (tmp_path / name).mkdir()
        place = Place(record, tmp_path / name, "a", CLASSES, (1, 2, 3, 4))
        written = write(iter(tiles), view, record, place, picture)
        rows.append([{**row, "mask": None} for row in written.rows])
        shown.append(written.shown)
    assert rows[0] == rows[1]
    assert sum(rows[0][0]["pixels"].values()) == 150 * 230
    assert "d" not in rows[0][0]["pixels"]
    with Image.open(tmp_path / "bands" / "masks" / "a.png") as one:
        with Image.open(tmp_path / "whole" / "masks" / "a.png") as other:
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        if not resize:
            np.testing.assert_array_equal(np.asarray(one), labels.numpy())
    if picture is None:
        assert shown == [None, None]
    else:
        assert torch.equal(*shown)
        assert shown[0].shape == picture


def test_tiles_are_read_one_row_at_a_time(tmp_path: Path) -> None:
    config = RunConfig(data=DataConfig(crop=64, tile_overlap=0.25))
    model = VisionModel.__new__(VisionModel)
    torch.nn.Module.__init__(model)
    model.num_classes = 1
    record = ImageRecord("a.png", 1, 700, 100)
    view = make_view(record, config.data)
    alive, most = [0], [0]

    class Labels(torch.Tensor):
        def __del__(self) -> None:
            alive[0] -= 1

    def tiles():
        for tile in view.tiles:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            yield tile, torch.zeros(tile.size, dtype=torch.uint8).as_subclass(Labels)

    place = Place(record, tmp_path, "a", ("a",), (1,))
    SegmentationTask(model, config).write(tiles(), view, record, place, None)
    row = len(list(next(itertools.groupby(view.tiles, key=lambda tile: tile.top))[1]))
    assert len(view.tiles) > 8 * row
    assert most[0] <= 2 * row + 4
