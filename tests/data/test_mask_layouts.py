"""Masks in every layout of samples: the values that were written are read, or the mask is refused with its reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.tiff_files import DEFLATE, write_tiff
from ziggurat.data.masks import Palette, read_mask
from ziggurat.errors import UserError

VALUES = np.random.default_rng(3).integers(0, 4, (12, 17))
LIMIT = 1 << 20
NAMES = Palette(("ground", "tree", "house", "road"), (0, 1, 2, 3), (), 255, (0, 1, 2, 3))
RGB_VALUES = np.repeat(VALUES[:, :, None], 3, axis=2).astype(np.uint8)


def palette_png(path: Path) -> None:
    image = Image.fromarray(VALUES.astype(np.uint8)).copy()
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.save(path)


def pgm(path: Path, maxval: int) -> None:
    kind = ">u2" if maxval > 255 else "u1"
    path.write_bytes(b"P5 17 12 %d\n" % maxval + VALUES.astype(kind).tobytes())


READ = {
    "grey.png": lambda p: Image.fromarray(VALUES.astype(np.uint8)).save(p),
    "grey16.png": lambda p: Image.fromarray(VALUES.astype(np.uint16)).save(p),
    "palette.png": palette_png,
    "three equal channels.png": lambda p: Image.fromarray(RGB_VALUES).save(p),
    "three equal channels and transparency.png": lambda p: Image.fromarray(RGB_VALUES).convert("RGBA").save(p),
    "three equal channels.bmp": lambda p: Image.fromarray(RGB_VALUES).save(p),
    "three equal bands.tif": lambda p: write_tiff(p, RGB_VALUES, compression=DEFLATE),
    "grey and transparency.png": lambda p: Image.fromarray(VALUES.astype(np.uint8)).convert("LA").save(p),
    "bytes.tif": lambda p: write_tiff(p, VALUES.astype(np.uint8)),
    "two bits.tif": lambda p: write_tiff(p, VALUES.astype(np.uint8), bits=2),
    "four bits.tif": lambda p: write_tiff(p, VALUES.astype(np.uint8), bits=4, compression=DEFLATE),
    "int16.tif": lambda p: write_tiff(p, VALUES.astype(np.int16)),
    "uint16.tif": lambda p: write_tiff(p, VALUES.astype(np.uint16), order=">"),
    "int32.tif": lambda p: write_tiff(p, VALUES.astype(np.int32), order=">", compression=DEFLATE),
    "uint32.tif": lambda p: write_tiff(p, VALUES.astype(np.uint32)),
    "float32.tif": lambda p: write_tiff(p, VALUES.astype(np.float32)),
    "float32 of another machine.tif": lambda p: write_tiff(p, VALUES.astype(np.float32), order=">", compression=DEFLATE),
    "15.pgm": lambda p: pgm(p, 15),
    "255.pgm": lambda p: pgm(p, 255),
    "1000.pgm": lambda p: pgm(p, 1000),
    "65535.pgm": lambda p: pgm(p, 65535),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_values_are_those_of_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    READ[name](path)
    np.testing.assert_array_equal(read_mask(path, LIMIT, in_color=False), VALUES)
    labels, unknown = NAMES.read(path, LIMIT)
    assert not unknown
    np.testing.assert_array_equal(labels, VALUES)


FLOATS = VALUES.astype(np.float32)
REFUSED = {
    "halves.tif": (lambda p: write_tiff(p, FLOATS + 0.5), "no whole numbers, such as"),
    "nan.tif": (lambda p: write_tiff(p, np.where(FLOATS > 2, np.nan, FLOATS)), "such as nan"),
    "huge.tif": (lambda p: write_tiff(p, FLOATS - 3.4e38), "such as -3.4e+38"),
    "complex.tif": (lambda p: write_tiff(p, FLOATS.astype(np.complex64)), "1 band of 64 bits (complex)"),
    "deep colour.tif": (lambda p: write_tiff(p, RGB_VALUES.astype(np.uint16)), "3 bands of 16 bits"),
    "pages.tif": (lambda p: write_tiff(p, VALUES.astype(np.uint8), VALUES.astype(np.uint8)), "2 pages or frames"),
    "two bands.tif": (lambda p: write_tiff(p, RGB_VALUES[:, :, :2], extra=(0,)), "2 bands of 8 bits"),
    "infrared.tif": (lambda p: write_tiff(p, np.repeat(RGB_VALUES, 2, axis=2)[:, :, :4], extra=(0,)), "4 bands"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_sure_is_refused(tmp_path: Path, name: str) -> None:
    write, said = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(UserError) as caught:
        read_mask(tmp_path / name, LIMIT, in_color=False)
    assert said in str(caught.value)
    assert name in str(caught.value)


def test_one_coloured_pixel_makes_colours(tmp_path: Path) -> None:
    pixels = RGB_VALUES.copy()
    pixels[3, 4] = 200, 0, 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", LIMIT, in_color=False).shape == (12, 17, 3)
    _, unknown = NAMES.read(tmp_path / "a.png", LIMIT)
    assert unknown["(200, 0, 0)"] == 1


def test_grey_is_a_colour_where_classes_have_colours(tmp_path: Path) -> None:
    Image.fromarray(RGB_VALUES * 50).save(tmp_path / "a.png")
    colors = ((0, 0, 0), (50, 50, 50), (100, 100, 100), (150, 150, 150))
    labels, unknown = Palette(NAMES.names, NAMES.values, colors, 255, NAMES.labels).read(
        tmp_path / "a.png", LIMIT
    )
    assert not unknown
    np.testing.assert_array_equal(labels, VALUES)
