"""Windows of image files: the pixels of the whole image, from a part of the file."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from ziggurat.data.readers.images import read_image
from ziggurat.data.readers.windows import read_window
from ziggurat.data.tiles import Tile, cut_out
from ziggurat.errors import UserError

HEIGHT, WIDTH = 61, 47
LIMIT = 1 << 20
IN_PARTS = {
    "rgb.bmp": ("RGB", {}),
    "grey.bmp": ("L", {}),
    "rgb.ppm": ("RGB", {}),
    "grey.pgm": ("L", {}),
    "rgb.tif": ("RGB", {}),
    "grey.tif": ("L", {}),
    "alpha.tif": ("RGBA", {}),
    "strips.tif": ("RGB", {"tiffinfo": {278: 7}, "compression": None}),
    "deflate.tif": ("RGB", {"tiffinfo": {278: 8}, "compression": "tiff_adobe_deflate"}),
    "predicted.tif": ("RGB", {"tiffinfo": {278: 8, 317: 2}, "compression": "tiff_adobe_deflate"}),
    "grey-deflate.tif": ("L", {"tiffinfo": {278: 9, 317: 2}, "compression": "tiff_deflate"}),
}
AS_A_WHOLE = {
    "a.png": ("RGB", {}),
    "a.jpg": ("RGB", {}),
    "palette.bmp": ("P", {}),
    "lzw.tif": ("RGB", {"compression": "tiff_lzw"}),
    "bits.tif": ("1", {}),
    "deep.tif": ("I;16", {}),
    "turned.tif": ("RGB", {"exif": {274: 6}}),
}


def write(folder, name, mode, options):
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65535, (HEIGHT, WIDTH), dtype=np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 4), dtype=np.uint8), "RGBA").convert(
            mode
        )
    if "exif" in options:
        exif = Image.Exif()
        exif.update(options["exif"])
        options = {"exif": exif}
    image.save(folder / name, **options)
    return folder / name


def tiles():
    rng = np.random.default_rng(1)
    yield Tile(0, 0, HEIGHT, WIDTH)
    yield Tile(HEIGHT - 1, WIDTH - 1, 1, 1)
    yield Tile(5, 3, 0, 9)
    for _ in range(20):
        top, left = int(rng.integers(HEIGHT)), int(rng.integers(WIDTH))
        yield Tile(top, left, int(rng.integers(1, HEIGHT - top + 1)), int(rng.integers(1, WIDTH - left + 1)))


@pytest.mark.parametrize("name", IN_PARTS)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_a_window_has_the_pixels_of_the_whole_image(tmp_path, name):
    path = write(tmp_path, name, *IN_PARTS[name])
    whole = read_image(path, LIMIT)
    for tile in tiles():
        window = read_window(path, LIMIT, (HEIGHT, WIDTH), tile)
        assert window is not None
        assert torch.equal(window, cut_out(whole, tile)), tile
    assert read_window(path, LIMIT, (HEIGHT, WIDTH + 1), tile) is None, (
        "another size is the caller's to report"
    )


@pytest.mark.parametrize("name", AS_A_WHOLE)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_other_files_are_read_as_a_whole(tmp_path, name):
    path = write(tmp_path, name, *AS_A_WHOLE[name])
    assert read_window(path, LIMIT, tuple(read_image(path, LIMIT).shape[1:]), Tile(0, 0, 5, 5)) is None


@pytest.mark.parametrize("name", ["rgb.ppm", "strips.tif", "predicted.tif"])
def test_the_rest_of_the_file_is_not_read(tmp_path, name):
    """The bytes of the last rows are missing: a window of the first rows does not need them."""
    path = write(tmp_path, name, *IN_PARTS[name])
    first, last = Tile(0, 0, 16, WIDTH), Tile(40, 0, 16, WIDTH)
    expected = cut_out(read_image(path, LIMIT), first)
    with Image.open(path) as image:
        strip_five = image.tag_v2[273][5] if name.endswith("tif") else None
        header = path.read_bytes()
    if strip_five is None:
        path.write_bytes(header[: len(header) // 2])
    else:  # the directory may lie behind the pixels: overwrite them instead
        path.write_bytes(header[:strip_five] + bytes(200) + header[strip_five + 200 :])
    assert torch.equal(read_window(path, LIMIT, (HEIGHT, WIDTH), first), expected)
    if name != "strips.tif":  # zeros are pixels there
        with pytest.raises(UserError, match="cannot decode the image"):
            read_window(path, LIMIT, (HEIGHT, WIDTH), last)


def tiled_tiff(pixels, side):
    """Return a TIFF of tiles, which Pillow cannot write."""
    height, width, _ = pixels.shape
    across, down = -(-width // side), -(-height // side)
    padded = np.zeros((down * side, across * side, 3), dtype=np.uint8)
    padded[:height, :width] = pixels
    tiles = [
        padded[y : y + side, x : x + side] for y in range(0, height, side) for x in range(0, width, side)
    ]
    count, data = len(tiles), b"".join(tile.tobytes() for tile in tiles)
    start = 8 + len(data)
    offsets = [8 + i * side * side * 3 for i in range(count)]
    arrays = struct.pack("<3H", 8, 8, 8) + struct.pack(f"<{count}I", *offsets)
    arrays += struct.pack(f"<{count}I", *[side * side * 3] * count)
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, start), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3),
        (284, 3, 1, 1), (322, 4, 1, side), (323, 4, 1, side), (324, 4, count, start + 6),
        (325, 4, count, start + 6 + 4 * count),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, start + len(arrays)) + data + arrays + directory


def test_a_tiff_of_tiles(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = tmp_path / "tiles.tif"
    path.write_bytes(tiled_tiff(pixels, 16))
    whole = read_image(path, LIMIT)
    assert np.array_equal(whole.permute(1, 2, 0).numpy(), pixels)
    for tile in tiles():
        assert torch.equal(read_window(path, LIMIT, (HEIGHT, WIDTH), tile), cut_out(whole, tile)), tile
