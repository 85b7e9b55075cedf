"""Large images: nothing is cut off, and memory does not grow with them."""

import json
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from support.ranks import run_ranks
from ziggurat.config import DataConfig, DecodeConfig, RunConfig
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Region
from ziggurat.inference import pictures, reading
from ziggurat.inference.asked import Asked
from ziggurat.inference.predict import Options, predict_asked
from ziggurat.inference.predictor import Predictor
from ziggurat.strategies.mesh import make_mesh

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "large"))
from points import CLASSES, FindPoints, PassOn, plant


class Planted:
    """Images that are made as they are read: a region at a time."""

    def __init__(self, side, points, count=1):
        self.side, self.points, self.count = side, points, count

    def __len__(self):
        return self.count

    def record(self, index):
        return ImageRecord(f"{index}.png", index + 1, self.side, self.side)

    def image(self, index):
        assert self.side <= 256, "a whole image is decoded"
        return self.window(index, Region((0, 0), (self.side, self.side)))

    def window(self, index, region):
        pixels = torch.zeros(3, *region.size, dtype=torch.uint8)
        places = self.points - np.array(region.start)
        inside = ((places >= 0) & (places < np.array(region.size))).all(axis=1)
        rows, columns = torch.from_numpy(places[inside].T.copy())
        pixels[:, rows, columns] = torch.tensor([[255], [200], [0]], dtype=torch.uint8)
        return pixels


def predict(workers, images, out, crop, resize=0, **options):
    data = DataConfig(crop=crop, tile_overlap=0.1, max_pixels=1 << 40, resize=resize, resize_limit=1 << 20)
    config = RunConfig(task="detect", dtype="fp32", data=data, decode=DecodeConfig(max_detections=100))
    mesh = make_mesh(workers)
    predictor = Predictor.of_model(PassOn("detect"), config, mesh, CLASSES, FindPoints(config))
    names = tuple(f"{index}.png" for index in range(len(images)))
    return predict_asked(predictor, Asked(images, names, (1, 2)), out, None, Options(**options))


@pytest.mark.sampled(0)
def test_ten_thousand_objects_in_one_image_are_all_found(tmp_path):
    """The limit is of a tile; a hundred of them are in the most crowded one."""
    images = Planted(10_240, plant(10_240, 10_000))
    results = run_ranks(predict, 2, (images, tmp_path, 640))
    assert {(one["detections"], one["truncated"]) for one in results} == {(10_000, 0)}
    rows = json.loads((tmp_path / "predictions.json").read_text())
    found = {(int(y + h / 2), int(x + w / 2)) for x, y, w, h in (row["bbox"] for row in rows)}
    assert found == set(map(tuple, images.points.tolist()))
    assert (tmp_path / "0.png").stat().st_size > 0


def peak_of(workers, side, count, folder, crop, smaller=0):
    """Return how much the most memory of a process has grown while it predicted, in MiB."""
    reading.REGION_PIXELS, pictures.BAND_PIXELS, pictures.FULL_PIXELS = 1 << 20, 1 << 18, 1 << 20
    pictures.OVERVIEW_SIDE = 512
    resize = side // smaller if smaller else 0
    predict(workers, Planted(256, plant(256, 4)), folder / "warm", crop, resize and 512)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    images = Planted(side, plant(side, 16), count)
    result = predict(workers, images, folder / "out", crop, resize, pictures="auto" if count == 1 else "none")
    assert result["truncated"] == 0
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("small", "large", "smaller"),
    [((3072, 1), (6144, 1), 0), ((4096, 1), (8192, 1), 4), ((128, 5), (128, 600), 0)],
    ids=["size", "resized", "number"],
)
def test_memory_does_not_grow(small, large, smaller, tmp_path):
    """Four times the pixels of an image (28 and 113 MB of them; 50 and 201 MB where it is resized), a hundred times the images."""
    (less,), (more,) = (
        run_ranks(peak_of, 1, (side, count, tmp_path / f"{side}-{count}", 256, smaller))
        for side, count in (small, large)
    )
    assert more < less + 25, f"{less:.0f} and {more:.0f} MiB"
