"""Sheets of pictures with captions."""

import numpy as np
from PIL import Image

from ziggurat.report.sheets import make_sheet, reduce_picture

RED, BLUE = (255, 0, 0), (0, 0, 255)


def count(sheet, color):
    return int((np.asarray(sheet) == color).all(axis=2).sum())


def test_every_picture_is_on_the_sheet():
    pictures = [Image.new("RGB", (60, 50), RED), *[Image.new("RGB", (40, 30), BLUE)] * 4]
    sheet = make_sheet(pictures, [("name", "text")] * 5, "title", "legend")
    assert (count(sheet, RED), count(sheet, BLUE)) == (60 * 50, 4 * 40 * 30)


def test_large_pictures_are_made_smaller():
    assert reduce_picture(Image.new("RGB", (1500, 1000))).size == (384, 256)
    assert reduce_picture(Image.new("RGB", (1000, 4000))).size == (96, 384)
    assert reduce_picture(Image.new("RGB", (384, 384))).size == (384, 384)


def test_wide_pictures_have_two_places():
    assert reduce_picture(Image.new("RGB", (4000, 1000))).size == (768, 192)
    assert reduce_picture(Image.new("RGB", (100_000, 10))).size == (768, 1)
    wide = make_sheet([Image.new("RGB", (768, 192), RED)] * 3, [("", "")] * 3, "title", "legend")
    assert wide.width == 12 + 2 * (768 + 12)
    assert count(wide, RED) == 3 * 768 * 192


def test_names_that_are_too_long_or_strange_fit():
    picture = Image.new("RGB", (60, 50), RED)
    sheet = make_sheet([picture], [("a/very/long/folder/" * 20 + "1.png", "")], "t", "")
    assert sheet.width == 60 + 2 * 12
    make_sheet([picture], [("\udcff 树\n", "F1 0.5")], "t", "")
    make_sheet([Image.new("RGB", (1, 1))], [("name", "")], "t", "")
