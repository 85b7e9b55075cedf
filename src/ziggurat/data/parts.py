"""A part of a training crop, made from a part of the image.

A pixel of a crop that is neither resized nor stretched in contrast depends on one pixel of the image. So the part of the
crop that a worker has needs a part of the image only, which is found by undoing turns and mirrors::

    crop, turned:  +------+------+      canvas:  +-------------+     image:  rows 40..60 of the window
                   | mine |      |               |    mine     |
                   |      |      |               +-------------+
                   +------+------+               |             |
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ziggurat.data.tiles import Tile
from ziggurat.data.transforms import Augmentation, recolor, turn


def needs_whole_window(augmentation: Augmentation) -> bool:
    """Whether a pixel of the crop depends on more than one pixel of the image: resizing, or the mean that contrast takes."""
    window = augmentation.window
    resized = (window.height, window.width) != (window.out_height, window.out_width)
    return resized or augmentation.contrast != 1


def augment_part(read: Callable[[Tile], Tensor], augmentation: Augmentation, crop: int, part: Tile) -> Tensor:
    """Return a part of what `augment_image` returns, from those pixels of the image that it needs.

    Args:
        read: Returns a window of the image, uint8, shape ``(3, height, width)``.
        augmentation: What happens to the image; must not need its whole window.
        crop: Rows and columns of the crop.
        part: In pixels of the crop.

    Returns:
        uint8, shape ``(3, part.height, part.width)``.
    """
    window, place = augmentation.window, on_canvas(part, augmentation, crop)
    canvas = torch.zeros((3, place.height, place.width), dtype=torch.uint8)
    top, left = max(place.top, window.out_top), max(place.left, window.out_left)
    bottom = min(place.top + place.height, window.out_top + window.out_height)
    right = min(place.left + place.width, window.out_left + window.out_width)
    if top < bottom and left < right:
        rows, columns = top - window.out_top + window.top, left - window.out_left + window.left
        pixels = recolor(read(Tile(rows, columns, bottom - top, right - left)), augmentation)
        canvas[:, top - place.top : bottom - place.top, left - place.left : right - place.left] = pixels
    return turn(canvas, augmentation)


def on_canvas(part: Tile, augmentation: Augmentation, crop: int) -> Tile:
    """Return where a part of a square crop was before it was turned and mirrored."""
    for _ in range(augmentation.quarter_turns):
        # with the clock: what was on top goes to the right, (x, y) to (crop - y, x)
        part = Tile(part.left, crop - part.top - part.height, part.width, part.height)
    top, left = part.top, part.left
    if augmentation.upside_down:
        top = crop - top - part.height
    if augmentation.mirror:
        left = crop - left - part.width
    return Tile(top, left, part.height, part.width)
