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

from torch import Tensor

from ziggurat.data.extents import Region
from ziggurat.data.transforms import Augmentation, empty_canvas, recolor, turn


def needs_whole_window(augmentation: Augmentation) -> bool:
    """Whether a pixel of the crop depends on more than one pixel of the image: resizing, or the mean that contrast takes."""
    window = augmentation.window
    return window.source.size != window.target.size or augmentation.contrast != 1


def augment_part(
    read: Callable[[Region], Tensor],
    augmentation: Augmentation,
    crop: int,
    part: Region,
    like: Tensor,
) -> Tensor:
    """Return a part of what `augment_image` returns, from those pixels of the image that it needs.

    Args:
        read: Returns a region of the image, shape ``(C, *size)``.
        augmentation: What happens to the image; must not need its whole window.
        crop: Pixels of the crop along each dim, where the augmentation has no others.
        part: In pixels of the crop.
        like: Has as many bands, and the type: a part may lie beside the image.

    Returns:
        Shape ``(C, *part.size)``.
    """
    window, place = augmentation.window, on_canvas(part, augmentation, crop)
    canvas = empty_canvas(like, place.size)
    needed = place.intersection(window.target)
    if needed.volume:
        source = needed.seen_from(window.target.start).moved(window.source.start)
        pixels = recolor(read(source), augmentation)
        canvas[needed.seen_from(place.start).last_dims] = pixels
    return turn(canvas, augmentation)


def on_canvas(part: Region, augmentation: Augmentation, crop: int) -> Region:
    """Return where a part of a crop, of equal sides if it is turned, was before it was turned and mirrored, which the last two dims are."""
    start, size = list(part.start), list(part.size)
    extent = augmentation.extent_of(crop)
    for _ in range(augmentation.quarter_turns):
        # with the clock: what was on top goes to the right, (x, y) to (crop - y, x)
        start[-2:] = start[-1], crop - start[-2] - size[-2]
        size[-2:] = size[-1], size[-2]
    if augmentation.upside_down:
        start[-2] = extent[-2] - start[-2] - size[-2]
    if augmentation.mirror:
        start[-1] = extent[-1] - start[-1] - size[-1]
    return Region(tuple(start), tuple(size))
