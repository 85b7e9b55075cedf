"""Which tiles are computed in which batch, and by which worker."""

from hypothesis import given
from hypothesis import strategies as st

from ziggurat.config import DataConfig
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.views import batch_costs, batch_extent, make_batches, make_center_view, make_view, share_of

CONFIG = DataConfig(crop=64, tile_overlap=0.25)


def view(height, width, config=CONFIG):
    return make_view(ImageRecord("a.png", 1, height, width), config)


def test_an_image_of_the_crop_is_one_view():
    assert [(t.top, t.left, t.height, t.width) for t in view(64, 50).tiles] == [(0, 0, 64, 50)]


def test_a_larger_image_is_cut():
    assert [(t.top, t.left, t.height, t.width) for t in view(40, 112).tiles] == [
        (0, 0, 40, 64),
        (0, 48, 40, 64),
    ]


def test_the_resized_image_is_cut():
    seen = view(20, 56, DataConfig(crop=64, resize=40))
    assert (seen.height, seen.width, len(seen.tiles)) == (40, 112, 2)
    assert len(view(40, 112, DataConfig(crop=64, resize=20)).tiles) == 1


def test_an_image_never_vanishes_by_resizing():
    assert view(1, 5000, DataConfig(crop=64, resize=32, resize_limit=60)).height == 1


def test_batches_hold_tiles_of_one_padded_shape_and_all_tiles_once():
    views = [view(*size) for size in [(64, 64), (10, 64), (200, 150), (60, 61), (30, 33), (64, 64)]]
    batches = make_batches(views, multiple=32, batch=3)
    for batch in batches:
        assert len(batch) <= 3
        assert len({(-(-p.tile.height // 32), -(-p.tile.width // 32)) for p in batch}) == 1
    pieces = [piece for batch in batches for piece in batch]
    assert len(set(pieces)) == len(pieces) == sum(len(one.tiles) for one in views)
    for index, one in enumerate(views):
        places = [k for k, piece in enumerate(pieces) if piece.image == index]
        assert places == list(range(places[0], places[0] + len(one.tiles)))  # an image is decoded in one go
        assert [pieces[k].tile for k in places] == list(one.tiles)
    sources = [one.height * one.width for one in views]
    costs = batch_costs(batches[:1], views, sources, 32, 100)
    assert costs == [100 * 2 * 32 * 64 + 10 * 64 + 30 * 33], "padded to 32 x 64, and read"


def test_photographs_beside_thumbnails_are_dealt_out_by_what_they_cost():
    """40 photographs of 24 megapixels come first, then 400 thumbnails; a classifier sees as many pixels of each."""
    config, weight = DataConfig(crop=224, resize=256), 128
    records = [ImageRecord("a.jpg", 1, *size) for size in [(4000, 6000)] * 40 + [(300, 400)] * 400]
    views = [make_center_view(record, config) for record in records]
    sources = [record.height * record.width for record in records]
    batches = make_batches(views, 32, 5)
    costs = batch_costs(batches, views, sources, 32, weight)
    computed = [len(batch) * 224 * 224 for batch in batches]
    assert all(batch_extent(batch, 32) == (224, 224) for batch in batches)
    for size in (2, 3, 4):
        by_cost, by_tiles = (
            [sum(costs[share_of(rank, size, one)]) for rank in range(size)] for one in (costs, computed)
        )
        assert max(by_cost) * size / sum(costs) < 1.15, "the slowest worker"
        assert max(by_tiles) * size / sum(costs) > 1.2, "by pixels that are computed alone"


def test_no_images_no_batches():
    assert make_batches([], 32, 4) == []
    assert share_of(1, 3, []) == slice(0, 0)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=60), st.integers(1, 9))
def test_shares_cover_everything_once_in_order_and_are_balanced(costs, size):
    shares = [share_of(rank, size, costs) for rank in range(size)]
    assert [k for one in shares for k in range(len(costs))[one]] == list(range(len(costs)))
    for one in shares:
        assert sum(costs[one]) <= sum(costs) / size + max(costs)
