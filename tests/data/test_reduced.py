"""Crops that show an image much smaller are read of the level that fits, in the memory of a few pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torchvision.transforms.v2 import functional

from support.datasets import write_text
from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data import file_dataset as datasets
from ziggurat.data import reduced
from ziggurat.data.batch import SampleId
from ziggurat.data.samples import TrainingSamples
from ziggurat.tasks.detection.targets import ObjectKind
from ziggurat.tasks.opening import open_dataset

CONFIG = DataConfig(
    crop=64, scale_min=0.125, scale_max=0.125, flip="none", resize=0, min_visible=0, cache_bytes=0
)
EXTENT = (800, 1000)


def write_scene(folder: Path, factors: tuple[int, ...]) -> Path:
    """Write an image whose levels differ in their blue channel, which names the level, and a box on a bright square."""
    rows, columns = np.mgrid[: EXTENT[0], : EXTENT[1]]
    red = (127 + 100 * np.sin(rows / 40) * np.cos(columns / 60)).astype(np.uint8)
    pixels = np.stack([red, red, np.zeros_like(red)], axis=-1)
    pixels[300:500, 400:640, :2] = 255
    with tifffile.TiffWriter(folder / "a.tif") as file:
        for number, factor in enumerate(factors):
            level = torch.from_numpy(pixels).permute(2, 0, 1)
            size = [EXTENT[0] // factor, EXTENT[1] // factor]
            level = functional.resize(level, size, antialias=True).permute(1, 2, 0).contiguous().numpy()
            level[..., 2] = 40 * number
            file.write(
                level, tile=(64, 64), photometric="rgb", subfiletype=int(number > 0), compression="deflate"
            )
    return write_text(folder / "a.csv", "image_path,xmin,ymin,xmax,ymax,label\na.tif,400,300,640,500,x\n")


def samples_of(path: Path, config: DataConfig) -> TrainingSamples:
    dataset = open_dataset(str(path), "train", "detect", config, DigitsConfig())
    return TrainingSamples(dataset, ObjectKind(), config, seed=5)


@pytest.fixture
def read(monkeypatch) -> list[tuple[int, int]]:
    """Note the level and the pixels of each window that is read."""
    noted: list[tuple[int, int]] = []
    real = datasets.read_window

    def counted(path, max_pixels, size, region, reading, level=0):
        noted.append((level, region.volume))
        return real(path, max_pixels, size, region, reading, level)

    monkeypatch.setattr(datasets, "read_window", counted)
    return noted


@pytest.mark.parametrize(("scale", "level"), [(0.125, 2), (0.2, 1), (0.25, 1), (0.5, 0), (0.9, 0)])
def test_the_level_that_fits_is_read(tmp_path, read, scale, level):
    path = write_scene(tmp_path, (1, 4, 8))
    config = replace(CONFIG, scale_min=scale, scale_max=scale)
    sample = samples_of(path, config).sample(SampleId(0, 0))
    assert {number for number, _ in read} == {level}
    blue = sample.image_CHW[2]
    assert set(blue.unique().tolist()) - {0} == ({40 * level} if level else set())
    if level:
        assert sum(pixels for _, pixels in read) < 4 * 64 * 64


def test_pixels_lie_where_they_lay(tmp_path):
    """Levels show the image at the places of full resolution: the same crop without levels differs little, and the box fits."""
    (tmp_path / "plain").mkdir()
    path, plain = write_scene(tmp_path, (1, 4, 8)), write_scene(tmp_path / "plain", (1,))
    seen = []
    for number in range(6):
        config = replace(CONFIG, scale_min=0.1, scale_max=0.24, flip="both", quarter_turns=True)
        one = samples_of(path, config).sample(SampleId(number, 0))
        other = samples_of(plain, config).sample(SampleId(number, 0))
        assert torch.equal(one.target.boxes_xyxy, other.target.boxes_xyxy)
        difference = (one.image_CHW[:2].float() - other.image_CHW[:2].float()).abs()
        assert difference.mean() < 3
        for x1, y1, x2, y2 in one.target.boxes_xyxy.round().int().tolist():
            seen.append(one.image_CHW[0, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].float().mean())
    assert len(seen) > 2
    assert min(seen) > 240


def test_bits_do_not_depend_on_the_cache(tmp_path, monkeypatch):
    path = write_scene(tmp_path, (1, 8))
    for most in (reduced.READ_PIXELS, 1000):
        monkeypatch.setattr(reduced, "READ_PIXELS", most)
        config = replace(CONFIG, scale_min=0.1, scale_max=0.4)
        for number in range(4):
            found = [
                samples_of(path, replace(config, cache_bytes=size)).sample(SampleId(number, 0)).image_CHW
                for size in (0, 1 << 30)
            ]
            assert torch.equal(*found)


def test_large_windows_without_levels_are_read_part_by_part(tmp_path, read, monkeypatch):
    path = write_scene(tmp_path, (1,))
    expected = samples_of(path, CONFIG).sample(SampleId(0, 0)).image_CHW
    read.clear()
    monkeypatch.setattr(reduced, "READ_PIXELS", 20_000)
    found = samples_of(path, CONFIG).sample(SampleId(0, 0)).image_CHW
    assert len(read) > 4
    assert max(pixels for _, pixels in read) <= 20_000
    assert (found.int() - expected.int()).abs().float().mean() < 1
