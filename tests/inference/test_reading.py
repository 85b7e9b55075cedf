"""Tiles are read region by region, whatever the size of the image."""

import pytest
import torch

from support.fake_detector import Squares
from ziggurat.config import DataConfig
from ziggurat.data.extents import Region, cut_out
from ziggurat.data.views import Piece, make_view
from ziggurat.inference import reading
from ziggurat.inference.reading import read_tiles

SIZES = [(64, 64), (300, 260), (40, 500), (130, 70)]


class InParts(Squares):
    """Files that can be read in parts; it notes what is read."""

    def window(self, index, region):
        self.windows = [*getattr(self, "windows", []), (index, region)]
        return cut_out(super()._scene(index)[0], region)


def pieces_of(views):
    return [Piece(index, tile) for index, view in enumerate(views) for tile in view.tiles]


@pytest.mark.parametrize("most", [1, 64 * 300, 1 << 24])
@pytest.mark.parametrize("kind", [Squares, InParts])
@pytest.mark.parametrize("resize", [0, 50])
def test_tiles_are_those_of_the_whole_image(kind, most, resize, monkeypatch):
    monkeypatch.setattr(reading, "REGION_PIXELS", most)
    config = DataConfig(crop=64, tile_overlap=0.4, resize=resize)
    images = kind(SIZES)
    views = [make_view(images.record(index), config) for index in range(len(images))]
    pieces = pieces_of(views)
    whole = [
        reading.RegionReader(images, views).read(index, Region.whole(view.extent))
        for index, view in enumerate(views)
    ]
    images.decoded.clear()
    for start in (0, 3):  # as a worker begins somewhere
        found = list(read_tiles(images, views, pieces[start:]))
        assert len(found) == len(pieces) - start
        for piece, tile in zip(pieces[start:], found, strict=True):
            assert torch.equal(tile, whole[piece.image][piece.tile.last_dims])
    assert len(images.decoded) <= 2 * len(SIZES), "an image is decoded once"


def test_rows_of_the_region_before_are_not_read_again(monkeypatch):
    monkeypatch.setattr(reading, "REGION_PIXELS", 64 * 260)
    images = InParts([(900, 260)])
    views = [make_view(images.record(0), DataConfig(crop=64, tile_overlap=0.4))]
    assert len(list(read_tiles(images, views, pieces_of(views)))) == len(views[0].tiles)
    read = sum(region.volume for _, region in images.windows)
    assert len(images.windows) > 10
    assert read == 900 * 260
    assert max(region.volume for _, region in images.windows) <= 64 * 260
    assert images.decoded == []
