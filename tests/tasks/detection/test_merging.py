"""Merging the detections of tiles, by hand.

The image has 20 x 100 pixels; tile 0 is columns 0..60, tile 1 columns 40..100: they share columns 40..60.
"""

from dataclasses import replace

import torch

from ziggurat.config import DecodeConfig
from ziggurat.data.detections import Detections
from ziggurat.data.extents import Region
from ziggurat.data.tiles import tile_grid
from ziggurat.tasks.detection.merging import inner_borders, is_fragment, merge_tiles

TILES = [Region((0, 0), (20, 60)), Region((0, 40), (20, 60))]
DECODE = DecodeConfig(nms_threshold=0.5, max_detections=10)
MARGIN = 2.5  # an eighth of the overlap


def detections(*rows):
    """Each row: x1, y1, x2, y2, score, label."""
    values = torch.tensor(rows).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].long())


def merged(*parts, tiles=TILES, decode=DECODE):
    return merge_tiles(tiles, parts, MARGIN, decode)


def test_boxes_are_shifted_to_the_image():
    result = merged(detections((5, 3, 15, 9, 0.5, 0)), detections((35, 2, 55, 8, 0.75, 1)))
    assert result.boxes_xyxy.tolist() == [[75, 2, 95, 8], [5, 3, 15, 9]]
    assert result.scores.tolist() == [0.75, 0.5]
    assert result.labels.tolist() == [1, 0]


def test_an_object_in_the_overlap_is_found_once():
    result = merged(detections((44, 2, 56, 14, 0.5, 0)), detections((4, 2, 16, 14, 0.75, 0)))
    assert result.boxes_xyxy.tolist() == [[44, 2, 56, 14]]
    assert result.scores.tolist() == [0.75]


def test_equal_boxes_of_two_classes_both_remain():
    result = merged(detections((44, 2, 56, 14, 0.5, 0)), detections((4, 2, 16, 14, 0.75, 1)))
    assert len(result) == 2


def test_a_fragment_gives_way_to_the_whole_object_though_its_score_is_higher():
    # The object is columns 50..74. Tile 0 sees 50..60 (IoU 10/24 with the whole: suppression would keep both).
    result = merged(detections((50, 2, 60, 14, 0.9, 0)), detections((10, 2, 34, 14, 0.6, 0)))
    assert result.boxes_xyxy.tolist() == [[50, 2, 74, 14]]


def test_an_object_that_no_tile_sees_whole_keeps_its_parts():
    result = merged(detections((30, 2, 60, 14, 0.9, 0)), detections((0, 2, 50, 14, 0.6, 0)))
    assert result.boxes_xyxy.tolist() == [[30, 2, 60, 14], [40, 2, 90, 14]]


def test_a_box_at_the_edge_of_the_image_is_no_fragment():
    boxes = detections((0, 0, 10, 20, 0.9, 0), (20, 0, 50, 20, 0.8, 0))
    assert merged(boxes, detections()).boxes_xyxy.tolist() == boxes.boxes_xyxy.tolist()


def test_no_object_is_lost_in_both_tiles_though_their_boxes_differ_by_a_pixel():
    borders = inner_borders(TILES)
    steps = torch.arange(38, 62, 0.25), torch.arange(1, 20, 0.5), torch.tensor([-1.0, 0.0, 1.0])
    start, width, jitter = torch.cartesian_prod(*steps).unbind(dim=1)
    two, fourteen = torch.full_like(start, 2), torch.full_like(start, 14)
    first = torch.stack([start, two, start + width, fourteen], dim=1).clamp(max=60)
    second = torch.stack([start + jitter, two, start + width + jitter, fourteen], dim=1)
    second[:, [0, 2]] = second[:, [0, 2]].clamp(min=40)
    seen = torch.stack([start < 60, start + width + jitter > 40])
    numbers = torch.zeros(len(start), dtype=torch.int64)
    kept = torch.stack(
        [~is_fragment(box, numbers + tile, borders, MARGIN) for tile, box in enumerate((first, second))]
    )
    assert torch.equal((kept & seen).any(dim=0), seen.any(dim=0))


def test_max_detections_is_of_a_tile():
    """What each tile has cut off is counted once for the image."""
    decode = DecodeConfig(max_detections=6)
    parts = [detections(*((5 * n, 0, 5 * n + 4, 4, 0.5, 0) for n in range(6))) for _ in TILES]
    parts = [replace(one, num_cut=4, best_cut=0.1 * (number + 1)) for number, one in enumerate(parts)]
    joined = merged(*parts, decode=decode)
    assert len(joined) > 6
    assert (joined.num_cut, round(joined.best_cut, 5)) == (4 * len(TILES), round(0.1 * len(TILES), 5))


def test_one_tile_is_left_as_it_is():
    one = detections((0, 0, 10, 10, 0.9, 0), (1, 1, 11, 11, 0.8, 0))  # would be suppressed
    assert merge_tiles(TILES[:1], [one], MARGIN, DECODE) is one


def test_nothing_found_in_any_tile():
    assert len(merged(detections(), detections())) == 0


def test_a_corner_where_four_tiles_meet():
    tiles = tile_grid((100, 100), (60, 60), overlap=1 / 3)
    box = torch.tensor([45.0, 46, 55, 54])  # in the middle, where all four overlap
    whole = [
        detections((*(box - box.new_tensor([t.left, t.top, t.left, t.top])).tolist(), 0.5, 0)) for t in tiles
    ]
    result = merged(*whole, tiles=tiles)
    assert result.boxes_xyxy.tolist() == [box.tolist()]
    # Its lower right quarter is at the corner of the first tile; the last tile sees the whole.
    parts = [
        detections((50, 50, 60, 60, 0.9, 0)),
        detections(),
        detections(),
        detections((10, 10, 30, 30, 0.5, 0)),
    ]
    assert merged(*parts, tiles=tiles).boxes_xyxy.tolist() == [[50, 50, 70, 70]]
