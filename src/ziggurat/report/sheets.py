"""Sheets of pictures with a heading, each picture with lines of text under it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from ziggurat.report.names import readable
from ziggurat.visualize.boxes import contact_sheet
from ziggurat.visualize.composite import Composite
from ziggurat.visualize.pixels import READABLE_SIDE, reduction

_COLUMNS = 4
_LETTERS = 15  # pixels of a caption's letters
_HEADING = 24  # pixels of a heading's letters
_INK, _FAINT, _PAPER = (25, 25, 25), (95, 95, 95), (255, 255, 255)


def reduce_picture(picture: Image.Image) -> Image.Image:
    """Return the picture, made smaller if it is larger than a place of the sheet; wide ones have two places."""
    factor = reduction(*picture.size)
    if factor == 1:
        return picture
    width, height = (max(1, round(factor * extent)) for extent in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def make_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[tuple[str, str]], title: str, legend: str
) -> Image.Image:
    """Put pictures onto a sheet.

    Args:
        pictures: One at least.
        captions: Under each picture: the name of its image, and what is to be said of it.
        title: Of the sheet.
        legend: What is seen on the pictures; under the title.
    """
    reduced = [reduce_picture(picture) for picture in pictures]
    width, height = (max(extents) for extents in zip(*(picture.size for picture in reduced), strict=True))
    cells = [_cell(one, *text, width, height) for one, text in zip(reduced, captions, strict=True)]
    columns = _COLUMNS if width <= READABLE_SIDE else _COLUMNS // 2
    return titled(contact_sheet(cells, columns, gap=12), title, legend)


def titled(grid: Image.Image, title: str, legend: str) -> Image.Image:
    """Return a picture with a heading, and under it what is seen."""
    title_width, legend_width = (round(font.getlength(text)) for font, text in _heading(title, legend))
    margin = _HEADING // 2
    sheet_size = (max(grid.width, 2 * margin + max(title_width, legend_width)), grid.height + 3 * _HEADING)
    sheet = Image.new("RGB", sheet_size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, margin), title, fill=_INK, font=_font(_HEADING))
    draw.text((margin, margin + 1.4 * _HEADING), legend, fill=_FAINT, font=_font(_LETTERS))
    sheet.paste(grid, (0, 3 * _HEADING))
    return sheet


def with_bands(legend: str, composite: Composite) -> str:
    """Return a legend that says which bands are shown, where images are not shown as they are."""
    return f"{legend}; {composite.described}" if composite.described else legend


def _heading(title: str, legend: str) -> list[tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, str]]:
    return [(_font(_HEADING), title), (_font(_LETTERS), legend)]


def _cell(picture: Image.Image, name: str, text: str, width: int, height: int) -> Image.Image:
    """Return the picture in the middle of its place, with two lines under it."""
    line = round(1.3 * _LETTERS)
    cell = Image.new("RGB", (width, height + 2 * line + _LETTERS // 2), _PAPER)
    cell.paste(picture, ((width - picture.width) // 2, height - picture.height))
    draw = ImageDraw.Draw(cell)
    font = _font(_LETTERS)
    letters = len(name)
    while letters > 1 and draw.textlength(readable(name, letters, "end"), font=font) > width:
        letters -= 1
    draw.text((0, height + _LETTERS // 3), text, fill=_INK, font=font)
    draw.text((0, height + _LETTERS // 3 + line), readable(name, letters, "end"), fill=_FAINT, font=font)
    return cell


@cache
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)
