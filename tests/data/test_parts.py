"""A part of a crop, made from a part of the image, is that part of the crop."""

import numpy as np
import pytest
import torch

from ziggurat.config import DataConfig
from ziggurat.data.batch import Part, SampleId
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Region, cut_out
from ziggurat.data.parts import augment_part, needs_whole_window
from ziggurat.data.samples import TrainingSamples
from ziggurat.data.transforms import augment_image, draw_augmentation
from ziggurat.tasks.classification.targets import LabelKind

FIXED = {"scale_min": 1.0, "scale_max": 1.0}


@pytest.mark.parametrize(("height", "width"), [(90, 120), (40, 30), (64, 200)])
def test_a_part_of_a_crop(height, width):
    config = DataConfig(crop=64, flip="both", quarter_turns=True, color_jitter=0.0, **FIXED)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    for seed in range(40):
        augmentation = draw_augmentation(np.random.default_rng(seed), (height, width), config)
        assert not needs_whole_window(augmentation)
        whole = augment_image(image, augmentation, 64)
        for part in (
            Region((0, 0), (32, 64)),
            Region((32, 0), (32, 64)),
            Region((0, 21), (64, 22)),
            Region((32, 32), (32, 32)),
        ):
            found = augment_part(lambda tile: cut_out(image, tile), augmentation, 64, part, image[:, :0])
            assert torch.equal(found, cut_out(whole, part)), (seed, part)


@pytest.mark.parametrize("extent", [(90,), (40, 30), (12, 50, 20)])
def test_a_part_of_a_crop_of_any_number_of_dims(extent):
    crop, dims = 24, len(extent)
    turned = {"flip": "both", "quarter_turns": True} if dims > 1 else {"flip": "horizontal"}
    config = DataConfig(crop=crop, color_jitter=0.0, **turned, **FIXED)
    image = torch.randint(0, 256, (3, *extent), dtype=torch.uint8)
    rng = np.random.default_rng(7)
    for seed in range(30):
        augmentation = draw_augmentation(np.random.default_rng(seed), extent, config)
        whole = augment_image(image, augmentation, crop)
        start = rng.integers(0, crop, dims)
        part = Region(tuple(start.tolist()), tuple(rng.integers(1, crop - start + 1).tolist()))
        found = augment_part(lambda region: cut_out(image, region), augmentation, crop, part, image[:, :0])
        assert torch.equal(found, cut_out(whole, part)), (seed, part)


class Windows:
    """A classification data set that counts the pixels it has been asked for."""

    classes, category_ids = ("a",), (1,)

    def __init__(self):
        self.pixels = torch.randint(0, 256, (3, 80, 100), dtype=torch.uint8)
        self.read = 0

    def __len__(self):
        return 1

    def record(self, index):
        return ImageRecord("a.tif", 1, 80, 100)

    def label(self, index):
        return 0

    def image(self, index):
        self.read += 80 * 100
        return self.pixels

    def window(self, index, tile):
        self.read += tile.height * tile.width
        return cut_out(self.pixels, tile)


@pytest.mark.parametrize(
    ("settings", "read"),
    [
        (FIXED, 32 * 64),  # the band
        ({**FIXED, "color_jitter": 0.2}, 64 * 64),  # the mean of the crop is needed
        ({"scale_min": 2.0, "scale_max": 2.0}, 32 * 32),  # the crop is enlarged
        ({**FIXED, "cache_bytes": 1 << 20, "color_jitter": 0.2}, 80 * 100),  # decoded once, and kept
    ],
)
def test_a_worker_reads_what_it_needs(settings, read):
    config, dataset = DataConfig(**({"crop": 64, "cache_bytes": 0} | settings)), Windows()
    whole = TrainingSamples(dataset, LabelKind(), config, seed=0)
    band = TrainingSamples(
        dataset,
        LabelKind(),
        config,
        seed=0,
        part=Part((64, 64), Region((32, 0), (32, 64)), Region((32, 0), (32, 64))),
    )
    for number in range(4):
        expected = whole.sample(SampleId(number, 0)).image_CHW
        dataset.read = 0
        found = band.sample(SampleId(number, 0)).image_CHW
        assert torch.equal(found, expected[:, 32:])
        assert dataset.read == (0 if number and "cache_bytes" in settings else read)
