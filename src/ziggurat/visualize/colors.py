"""The colours of classes."""

from __future__ import annotations

import colorsys

Color = tuple[int, int, int]

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def class_color(label: int) -> Color:
    """Return a colour that differs well from those of the labels around: hues a golden angle apart."""
    lightness = (0.5, 0.62, 0.4)[label // 10 % 3]
    red, green, blue = colorsys.hls_to_rgb((0.6 + label * 0.381966) % 1, lightness, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def ink_on(color: Color) -> Color:
    """Return black or white, whichever is read better upon a colour."""
    red, green, blue = color
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else WHITE  # ITU-R BT.601
