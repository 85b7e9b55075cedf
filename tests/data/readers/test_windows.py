"""Windows of image files: the pixels of the whole image, from a part of the file."""

import os
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.batch import SampleId
from ziggurat.data.decoding import spoiled_images
from ziggurat.data.extents import Region, cut_out
from ziggurat.data.readers.images import image_size, parts_of, read_image, read_window
from ziggurat.data.readers.layout import AS_THEY_ARE
from ziggurat.data.readers.opened import ImageInfo
from ziggurat.data.readers.seen import look_at
from ziggurat.data.readers.tiff.kept import Kept
from ziggurat.data.readers.tiff.page import SPARE_BYTES
from ziggurat.data.readers.tiff.reader import TiffReader
from ziggurat.data.samples import TrainingSamples
from ziggurat.errors import UserError
from ziggurat.tasks.detection.targets import ObjectKind
from ziggurat.tasks.opening import open_dataset

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
IN_PARTS |= {
    "lzw.tif": ("RGB", {"compression": "tiff_lzw", "tiffinfo": {278: 8}}),
    "bits.tif": ("1", {}),
    "deep.tif": ("I;16", {}),
    "turned.tif": ("RGB", {"exif": {274: 6}}),
    "packbits.tif": ("RGBA", {"compression": "packbits", "tiffinfo": {278: 8}}),
}
AS_A_WHOLE = {
    "a.png": ("RGB", {}),
    "a.jpg": ("RGB", {}),
    "palette.bmp": ("P", {}),
    "lzw.tif": ("RGB", {"compression": "tiff_lzw"}),
    "turned.bmp.jpg": ("RGB", {"exif": {274: 6}}),
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
    yield Region((0, 0), (HEIGHT, WIDTH))
    yield Region((HEIGHT - 1, WIDTH - 1), (1, 1))
    yield Region((5, 3), (0, 9))
    for _ in range(20):
        top, left = int(rng.integers(HEIGHT)), int(rng.integers(WIDTH))
        size = int(rng.integers(1, HEIGHT - top + 1)), int(rng.integers(1, WIDTH - left + 1))
        yield Region((top, left), size)


@pytest.mark.parametrize("name", IN_PARTS)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_a_window_has_the_pixels_of_the_whole_image(tmp_path, name):
    path = write(tmp_path, name, *IN_PARTS[name])
    whole = read_image(path, LIMIT)
    size = tuple(whole.shape[1:])
    for tile in tiles():
        tile = tile if size == (HEIGHT, WIDTH) else Region(tile.start[::-1], tile.size[::-1])
        window = read_window(path, LIMIT, size, tile)
        assert window is not None
        assert torch.equal(window, cut_out(whole, tile)), tile
    assert read_window(path, LIMIT, (HEIGHT, WIDTH + 1), tile) is None, (
        "another size is the caller's to report"
    )


@pytest.mark.parametrize("name", AS_A_WHOLE)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_other_files_are_read_as_a_whole(tmp_path, name):
    path = write(tmp_path, name, *AS_A_WHOLE[name])
    assert read_window(path, LIMIT, tuple(read_image(path, LIMIT).shape[1:]), Region((0, 0), (5, 5))) is None


@pytest.mark.parametrize("name", ["rgb.ppm", "strips.tif", "predicted.tif"])
def test_the_rest_of_the_file_is_not_read(tmp_path, name):
    """The bytes of the last rows are missing: a window of the first rows does not need them."""
    path = write(tmp_path, name, *IN_PARTS[name])
    first, last = Region((0, 0), (16, WIDTH)), Region((40, 0), (16, WIDTH))
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


def deflated_tiff(strips, width, height, rows, tile=None, count=None):
    """Return a grey TIFF whose deflated strips (or tiles of `tile` x `rows` pixels) are the bytes that are given."""
    data = b"".join(strips)
    start = 8 + len(data)
    places = [8 + sum(map(len, strips[:i])) for i in range(len(strips))]
    count = count or len(strips)
    if count == 1:
        arrays, where, sizes = b"", places[0], len(strips[0])
    else:
        arrays = struct.pack(f"<{2 * count}I", *places, *map(len, strips))
        where, sizes = start, start + 4 * count
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)]
    if tile is None:
        tags += [(273, 4, count, where), (277, 3, 1, 1), (278, 4, 1, rows), (279, 4, count, sizes)]
    else:
        tags += [
            (277, 3, 1, 1),
            (322, 4, 1, tile),
            (323, 4, 1, rows),
            (324, 4, count, where),
            (325, 4, count, sizes),
        ]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, start + len(arrays)) + data + arrays + directory


def peak_of(function):
    """Return what a function returns or raises, and the most bytes that it held at once."""
    tracemalloc.start()
    try:
        try:
            result = function()
        except UserError as error:
            result = error
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def window_of(path, region, kept_bytes=1 << 20):
    """Return a region by a reader that keeps so much."""
    with TiffReader(kept_bytes, 0).open(path, None) as image:
        return image.read(region)


@pytest.mark.parametrize("kept_bytes", [0, 1 << 20])
def test_a_strip_is_inflated_no_further_than_its_pixels(tmp_path, kept_bytes):
    """A file of 64 kB whose one strip inflates to 64 MB, of an image of 8 x 8 pixels: refused, in little memory."""
    path = tmp_path / "bomb.tif"
    path.write_bytes(deflated_tiff([zlib.compress(b"\7" * (1 << 26), 9)], 8, 8, 8))
    assert path.stat().st_size < 1 << 17
    with pytest.raises(zlib.error, match="more than its 64 bytes"):
        window_of(path, Region((2, 2), (4, 4)), kept_bytes)
    _, peak = peak_of(lambda: read_window(path, LIMIT, (8, 8), Region((2, 2), (4, 4))))
    assert peak < 1 << 21


@pytest.mark.parametrize("case", ["wide", "high", "size", "tiny tiles"])
def test_what_a_header_says_takes_no_memory(tmp_path, case):
    """Tiles and strips that are said to be larger than any image, or more than there are."""
    path = tmp_path / "bomb.tif"
    strip = zlib.compress(b"\7" * (1 << 26), 9)
    width = height = 8
    if case == "wide":
        content = deflated_tiff([strip], 8, 8, 8, tile=1 << 30)
    elif case == "high":
        content = deflated_tiff([strip], 8, 8, 1 << 30, tile=8)
    elif case == "size":
        strip = zlib.compress(b"\7" * 64, 9)
        content = deflated_tiff([strip], 8, 8, 8)
        content = content.replace(
            struct.pack("<HHII", 279, 4, 1, len(strip)), struct.pack("<HHII", 279, 4, 1, 1 << 31)
        )
    else:
        width = height = 1000
        content = deflated_tiff([strip], width, height, 1, tile=1)
    path.write_bytes(content)
    result, peak = peak_of(lambda: read_window(path, LIMIT, (height, width), Region((0, 0), (8, 8))))
    assert peak < 1 << 21
    if case == "size":
        assert (result == 7).all(), "the file ends before, its pixels are there"
    else:
        assert isinstance(result, UserError)
        assert SPARE_BYTES < 1 << 30


def test_a_strip_that_ends_early_or_is_damaged_is_named(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(deflated_tiff([zlib.compress(bytes(range(32)))], 8, 8, 8))
    with pytest.raises(UserError, match=r"a\.tif.*truncated \(32 bytes missing\)"):
        read_window(path, LIMIT, (8, 8), Region((0, 0), (8, 8)))
    strip = zlib.compress(bytes(range(64)))
    path.write_bytes(deflated_tiff([strip[:-1] + bytes([strip[-1] ^ 1])], 8, 8, 8))
    with pytest.raises(UserError, match=r"cannot decode the image .*a\.tif"):  # of the checksum
        read_window(path, LIMIT, (8, 8), Region((0, 0), (8, 8)))


def test_strips_are_kept_while_their_file_stays(tmp_path):
    """Within a number of bytes, the last ones that were used."""
    path = tmp_path / "a.tif"
    reader, whole = TiffReader(100, 0), Region((0, 0), (8, 8))

    def read(region):
        with reader.open(path, None) as image:
            return image.read(region)[0].flatten().tolist()

    path.write_bytes(deflated_tiff([zlib.compress(bytes(range(64)))], 8, 8, 8))
    assert read(whole) == list(range(64))
    (kept,) = reader.kept._values.values()
    assert read(Region((3, 0), (1, 8))) == list(range(24, 32))
    assert [*reader.kept._values.values()] == [kept]
    path.write_bytes(deflated_tiff([zlib.compress(bytes(range(1, 65)))], 8, 8, 8))
    os.utime(path, ns=(0, 0))  # clocks of file systems are coarse
    assert read(whole) == list(range(1, 65))
    assert reader.kept.bytes == 64, "both would be more than 100"


def test_threads_and_forked_processes_share_a_reader(tmp_path):
    paths = [
        write(tmp_path, name, *IN_PARTS[name]) for name in ("deflate.tif", "predicted.tif", "strips.tif")
    ]
    wholes = [read_image(path, LIMIT) for path in paths]
    places = list(tiles())

    def same(number):
        path, tile = paths[number % 3], places[number % len(places)]
        window = read_window(path, LIMIT, (HEIGHT, WIDTH), tile)
        return torch.equal(window, cut_out(wholes[number % 3], tile))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(same, range(200)))
        forked = os.fork()  # while threads may hold the lock of what is kept
        if not forked:
            os._exit(0 if all(map(same, range(20))) else 1)
        assert os.waitpid(forked, 0)[1] == 0


def test_a_large_image_is_read_in_parts(tmp_path):
    """`data.max_pixels` bounds what is decoded at once, and an image of many tiles may be larger."""
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    path.write_bytes(tiled_tiff(pixels, 16))
    assert image_size(path, 300) == (HEIGHT, WIDTH)
    window = read_window(path, 300, (HEIGHT, WIDTH), Region((9, 9), (12, 20)))
    assert np.array_equal(window.permute(1, 2, 0).numpy(), pixels[9:21, 9:29])
    seen = look_at(path, 300, AS_THEY_ARE)
    assert (seen.low, seen.high, seen.fault) == (pixels.min(), pixels.max(), ""), "every tile is decoded"
    with pytest.raises(UserError, match=r"more than data\.max_pixels=300"):
        read_image(path, 300)
    with pytest.raises(UserError, match=r"more than data\.max_pixels=300"):
        read_window(path, 300, (HEIGHT, WIDTH), Region((9, 9), (20, 20)))


@pytest.mark.parametrize("block", [None, (1, 47), (16, 16), (61, 47), (7, 5), (256, 256)])
@pytest.mark.parametrize("most", [1, 40, 100, 300, 1 << 20])
def test_parts_make_up_an_image(block, most):
    """Each pixel once, in parts of no more pixels than are decoded together, or are allowed."""
    info = ImageInfo(((HEIGHT, WIDTH),), "uint8", ("grey",), block=block)
    counted = np.zeros((HEIGHT, WIDTH), dtype=int)
    for part in parts_of(info, most):
        counted[part.slices] += 1
        assert part.volume <= max(most, 1 if block is None else block[0] * block[1])
    assert (counted == 1).all()


@pytest.mark.parametrize("cache_bytes", [1000, 1 << 20])
def test_a_data_set_of_a_large_image_is_decoded_in_parts(tmp_path, cache_bytes):
    """To find what cannot be read, wherever it lies; small windows of it are read meanwhile."""
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(16, 16), compression="lzw", metadata=None)
    (tmp_path / "train.csv").write_text("image_path,xmin,ymin,xmax,ymax,label\na.tif,1,2,9,9,oak\n")
    config = DataConfig(max_pixels=300, on_error="skip", crop=16, cache_bytes=cache_bytes)
    dataset = open_dataset(str(tmp_path), "train", "detect", config, DigitsConfig())
    samples = TrainingSamples(dataset, ObjectKind(), config, seed=0)
    assert spoiled_images(dataset, [0], lambda *_: None) == {}
    assert samples.sample(SampleId(0, 0)).image_CHW.shape == (3, 16, 16)
    with tifffile.TiffFile(path) as tiff:
        last = tiff.pages[0].dataoffsets[-1]
    content = bytearray(path.read_bytes())
    content[last : last + 200] = b"\xff" * 200
    path.write_bytes(content)
    assert "cannot decode the image" in spoiled_images(dataset, [0], lambda *_: None)[0]
    with pytest.raises(UserError, match="cannot decode the image"):
        TrainingSamples(dataset, ObjectKind(), config, seed=0).sample(SampleId(0, 0))


def test_a_large_value_is_kept_alone():
    kept, made = Kept(100, alone=300), []

    def get(key, size):
        return kept.get(key, lambda: made.append(key) or np.zeros(size, dtype=np.uint8))

    for key, size in [
        ("a", 60),
        ("b", 40),
        ("a", 60),
        ("large", 250),
        ("large", 250),
        ("a", 60),
        ("huge", 400),
        ("huge", 400),
    ]:
        get(key, size)
    assert made == ["a", "b", "large", "a", "huge", "huge"]
    assert kept.bytes == 60
