"""The legend of a picture: the colour and the name of each class that occurs, in as many rows as they need."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from ziggurat.visualize.colors import BLACK, WHITE, Color


def draw_legend(entries: Sequence[tuple[Color | None, str]], width: int) -> Image.Image:
    """Return a strip of this width.

    Args:
        entries: Colour and name of each class; white stands for one that keeps the image's own colours.
        width: In pixels.
    """
    letters = legend_letters(width)
    font, pad, line = font_of(letters), letters // 2, letters + letters // 2
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    placed: list[tuple[int, int, Color | None, str]] = []  # left, row, colour, name
    left, row = pad, 0
    for color, name in entries:
        extent = letters + pad + round(measure.textlength(name, font=font)) + 2 * pad
        if left > pad and left + extent > width:
            left, row = pad, row + 1
        placed.append((left, row, color, name))
        left += extent
    strip = Image.new("RGB", (width, (row + 1) * line + pad), WHITE)
    draw = ImageDraw.Draw(strip)
    for left, row, color, name in placed:
        top = pad // 2 + row * line
        box = (left, top + letters // 8, left + letters - 1, top + letters // 8 + letters - 1)
        draw.rectangle(box, fill=color or WHITE, outline=BLACK)
        draw.text((left + letters + pad, top), name, fill=BLACK, font=font)
    return strip


def legend_letters(width: int) -> int:
    """Return the height of letters for a picture of this width."""
    return min(28, max(14, width // 45))


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures below each other on white."""
    width, height = max(one.width for one in pictures), sum(one.height for one in pictures)
    stacked = Image.new("RGB", (width, height), WHITE)
    top = 0
    for one in pictures:
        stacked.paste(one, (0, top))
        top += one.height
    return stacked


@cache
def font_of(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font whose letters are so high."""
    return ImageFont.load_default(height)
