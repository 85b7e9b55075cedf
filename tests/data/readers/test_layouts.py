"""Every layout of samples is read as a second reader reads it, or refused with its reason.

TIFFs are written by the tests' own writer from arrays, which are what is to be read; other formats are compared with torchvision's
decoders. Where the package tifffile is there, the files of the writer are read by it, too.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from support.tiff_files import CMYK, DEFLATE, GREY, NONE, PACKBITS, PALETTE, write_tiff
from ziggurat.data.readers.images import inspect_image, read_image
from ziggurat.data.readers.layout import AS_THEY_ARE, Reading
from ziggurat.data.readers.sample_range import SampleRange
from ziggurat.data.readers.seen import look_at
from ziggurat.errors import UserError

LIMIT = 1 << 20
RANGE = SampleRange(-100, 900)
DROP = Reading(extra="drop")


def noise(*shape: int, dtype: str = "uint8", top: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(5)
    if np.dtype(dtype).kind == "f":
        return rng.normal(300, 400, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, (info.max if top is None else top) + 1, shape, dtype=dtype)


def ranged(values: np.ndarray, samples: SampleRange = RANGE) -> np.ndarray:
    shares = (values.astype(np.float64) - samples.low) / (samples.high - samples.low)
    return np.rint(shares.clip(0, 1) * 255).astype(np.uint8)


def of_sixteen(values: np.ndarray, top: int = 65535) -> np.ndarray:
    return np.rint(values.astype(np.float64) * 255 / top).astype(np.uint8)


def read(path: Path, reading: Reading = AS_THEY_ARE) -> np.ndarray:
    """Return pixels, ``(H, W, 3)``; the header is looked at first, as in a run."""
    assert inspect_image(path, LIMIT, reading) == tuple(read_image(path, LIMIT, reading).shape[1:])
    return read_image(path, LIMIT, reading).permute(1, 2, 0).numpy()


def assert_pixels(path: Path, expected: np.ndarray, reading: Reading = AS_THEY_ARE) -> None:
    expected = np.repeat(expected[:, :, None], 3, axis=2) if expected.ndim == 2 else expected
    np.testing.assert_array_equal(read(path, reading), expected)


STORED = {
    "strip": {},
    "strips": {"rows_per_strip": 7},
    "tiles": {"tile": 16},
    "deflated": {"compression": DEFLATE},
    "deflated tiles": {"compression": DEFLATE, "tile": 16},
    "packbits": {"compression": PACKBITS},
    "big-endian": {"order": ">"},
    "big-endian deflated": {"order": ">", "compression": DEFLATE, "rows_per_strip": 5},
}

# name: samples, how they are written, how they are read, what is read
ONE_BAND: dict[str, tuple[np.ndarray, dict[str, Any], Reading, np.ndarray]] = {
    "uint8": ((v := noise(20, 33)), {}, AS_THEY_ARE, v),
    "uint16": ((v := noise(20, 33, dtype="uint16")), {}, AS_THEY_ARE, of_sixteen(v)),
    "uint16 of a range": ((v := noise(20, 33, dtype="uint16", top=1000)), {}, Reading(RANGE), ranged(v)),
    "int16": ((v := noise(20, 33, dtype="int16")), {}, Reading(RANGE), ranged(v)),
    "int32": ((v := noise(20, 33, dtype="int32", top=1000)), {}, Reading(RANGE), ranged(v)),
    "uint32": ((v := noise(20, 33, dtype="uint32", top=1000)), {}, Reading(RANGE), ranged(v)),
    "float32": ((v := noise(20, 33, dtype="float32")), {}, Reading(RANGE), ranged(v)),
}
SEVERAL: dict[str, tuple[np.ndarray, dict[str, Any], Reading, np.ndarray]] = {
    "RGB": ((v := noise(20, 33, 3)), {}, AS_THEY_ARE, v),
    "RGB in planes": ((v := noise(20, 33, 3)), {"planar": True}, AS_THEY_ARE, v),
    "RGB and transparency": ((v := noise(20, 33, 4)), {"extra": (2,)}, AS_THEY_ARE, v[:, :, :3]),
    "RGB and transparency in planes": (
        (v := noise(20, 33, 4)), {"extra": (2,), "planar": True}, AS_THEY_ARE, v[:, :, :3]
    ),
    "RGB and a band that is dropped": ((v := noise(20, 33, 4)), {"extra": (0,)}, DROP, v[:, :, :3]),
    "RGB of 16 bits of a range": (
        (v := noise(20, 33, 3, dtype="uint16", top=1000)), {}, Reading(RANGE), ranged(v)
    ),
    "RGB and transparency of 16 bits of a range": (
        (v := noise(20, 33, 4, dtype="uint16", top=1000)), {"extra": (2,)}, Reading(RANGE), ranged(v[:, :, :3])
    ),
    "RGB of 16 bits": ((v := noise(20, 33, 3, dtype="uint16")), {}, AS_THEY_ARE, (v >> 8).astype(np.uint8)),
}  # fmt: skip


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("name", ONE_BAND)
def test_one_band(tmp_path: Path, name: str, stored: str) -> None:
    samples, written, reading, expected = ONE_BAND[name]
    path = write_tiff(tmp_path / "a.tif", samples, **written, **STORED[stored])
    assert_pixels(path, expected, reading)
    seen = look_at(path, LIMIT, reading)
    assert (seen.type, seen.bands, seen.pages, seen.fault) == (name.split()[0], 1, 1, "")
    np.testing.assert_allclose((seen.low, seen.high), (samples.min(), samples.max()))


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("name", SEVERAL)
def test_several_bands(tmp_path: Path, name: str, stored: str) -> None:
    samples, written, reading, expected = SEVERAL[name]
    assert_pixels(write_tiff(tmp_path / "a.tif", samples, **written, **STORED[stored]), expected, reading)


@pytest.mark.parametrize("bits", [1, 2, 4, 12])
@pytest.mark.parametrize("compression", [NONE, DEFLATE])
def test_samples_of_less_than_a_byte_or_more(tmp_path: Path, bits: int, compression: int) -> None:
    top = (1 << bits) - 1
    samples = noise(20, 33, dtype="uint16", top=top)
    path = write_tiff(tmp_path / "a.tif", samples, bits=bits, compression=compression)
    assert_pixels(path, of_sixteen(samples, top))


def test_twelve_bits_between_two_samples(tmp_path: Path) -> None:
    samples = noise(20, 33, dtype="uint16", top=4095)
    path = write_tiff(tmp_path / "a.tif", samples, bits=12)
    assert_pixels(path, ranged(samples), Reading(RANGE))


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("compression", [NONE, DEFLATE])
def test_sixteen_bits_in_planes(tmp_path: Path, planar: bool, compression: int) -> None:
    samples = noise(48, 48, 3, dtype="uint16")
    path = write_tiff(tmp_path / "a.tif", samples, planar=planar, compression=compression)
    assert_pixels(path, (samples >> 8).astype(np.uint8))
    assert_pixels(path, ranged(samples), Reading(RANGE))


def test_white_that_is_zero(tmp_path: Path) -> None:
    samples = noise(20, 33)
    assert_pixels(write_tiff(tmp_path / "a.tif", samples, photometric=-1), 255 - samples)
    deep = noise(20, 33, dtype="uint16")
    assert_pixels(write_tiff(tmp_path / "b.tif", deep, photometric=-1), of_sixteen(65535 - deep))
    signed = write_tiff(tmp_path / "c.tif", noise(9, 9, dtype="int16"), photometric=-1)
    assert "zero is white" in refusal(signed)


def test_palettes(tmp_path: Path) -> None:
    samples = noise(20, 33, top=15)
    colors = noise(256, 3)
    table = tuple(int(value) * 257 for value in colors.T.reshape(-1))
    path = write_tiff(tmp_path / "a.tif", samples, photometric=PALETTE, tags={320: table})
    assert_pixels(path, colors[samples])


def test_cmyk(tmp_path: Path) -> None:
    samples = noise(20, 33, 4)
    path = write_tiff(tmp_path / "a.tif", samples, photometric=CMYK)
    cmy, k = samples[:, :, :3].astype(int), samples[:, :, 3:].astype(int)
    expected = (255 - cmy) * (255 - k) / 255
    assert np.abs(read(path) - expected).max() <= 1


def test_nodata_is_black_and_sets_no_range(tmp_path: Path) -> None:
    """And neither does one infinite sample: contrast is the data set's."""
    plain = noise(20, 33, dtype="float32")
    holes, infinite = plain.copy(), plain.copy()
    holes[:8], infinite[0, 0], infinite[0, 1] = 5000, np.inf, np.nan
    paths = {
        "plain": write_tiff(tmp_path / "plain.tif", plain),
        "holes": write_tiff(tmp_path / "holes.tif", holes, tags={42113: "5000"}),
        "infinite": write_tiff(tmp_path / "infinite.tif", infinite),
    }
    for path in paths.values():
        assert "no natural range" in refusal(path)
        assert look_at(path, LIMIT, AS_THEY_ARE).low == plain.min(), "for the user, who is to choose one"
    expected = ranged(plain)
    np.testing.assert_array_equal(read(paths["holes"], Reading(RANGE))[8:, :, 0], expected[8:])
    assert not read(paths["holes"], Reading(RANGE))[:8].any()
    found = read(paths["infinite"], Reading(RANGE))[:, :, 0]
    assert (found[0, 0], found[0, 1]) == (255, 0)
    np.testing.assert_array_equal(found[1:], expected[1:])


def refusal(path: Path, reading: Reading = AS_THEY_ARE) -> str:
    """Return why a file is refused: by its header, and alike when it is decoded."""
    with pytest.raises(UserError) as by_header:
        inspect_image(path, LIMIT, reading)
    with pytest.raises(UserError) as decoded:
        read_image(path, LIMIT, reading)
    assert str(by_header.value) == str(decoded.value)
    assert look_at(path, LIMIT, reading).fault == str(decoded.value)
    assert str(path) in str(decoded.value)
    return str(decoded.value)


# what has no natural range: samples, and the type that is said of them
NOT_NATURAL: dict[str, np.ndarray] = {
    "int8": noise(20, 33, dtype="int8"),
    "float16": noise(20, 33, dtype="float16"),
    "float64": noise(20, 33, dtype="float64"),
    "uint64": noise(20, 33, dtype="uint64", top=1000),
    "float32": noise(20, 33, 3, dtype="float32"),
    "int16": noise(20, 33, 3, dtype="int16"),
    "uint32": noise(20, 33, 3, dtype="uint32", top=1000),
}


@pytest.mark.parametrize("stored", ["strips", "big-endian deflated", "deflated tiles"])
@pytest.mark.parametrize("name", NOT_NATURAL)
def test_other_types_need_a_range(tmp_path: Path, name: str, stored: str) -> None:
    samples = NOT_NATURAL[name]
    path = write_tiff(tmp_path / "a.tif", samples, **STORED[stored])
    assert "no natural range" in refusal(path)
    assert_pixels(path, ranged(samples), Reading(RANGE))
    assert look_at(path, LIMIT, Reading(RANGE)).type == name


@pytest.mark.parametrize(("bands", "dtype"), [(3, "uint16"), (4, "uint16"), (8, "uint8")])
@pytest.mark.parametrize("planar", [False, True])
def test_bands_that_nothing_says_the_colours_of(tmp_path: Path, bands: int, dtype: str, planar: bool) -> None:
    """As GDAL writes them: the first is grey, and the others are dropped on request only."""
    samples = noise(20, 33, bands, dtype=dtype)
    extra = (0,) * (bands - 1)
    path = write_tiff(tmp_path / "a.tif", samples, photometric=GREY, extra=extra, planar=planar)
    said = f"{bands} bands of {samples.itemsize * 8} bits, of which {bands - 1} beside colour"
    assert said in refusal(path)
    first = samples[:, :, 0]
    assert_pixels(path, first if dtype == "uint8" else (first >> 8).astype(np.uint8), DROP)


UNREADABLE: dict[str, tuple[dict[str, Any], str]] = {
    "LAB": ({"photometric": 8}, "its samples are of the photometric interpretation 8"),
    "bits that differ": ({"tags": {258: (5, 6, 5)}}, "it has 3 bands of 5, 6, 5 bits that differ from band to band"),
    "a number of bits": ({"tags": {258: (20, 20, 20)}}, "it has 3 bands of 20 bits"),
    "a kind": ({"tags": {339: (7, 7, 7)}}, "it has 3 bands of 8 bits (of an unknown kind)"),
    "a compression": ({"tags": {259: 60000}}, "it is compressed by the method 60000"),
    "a predictor": ({"tags": {317: 9}}, "it has the predictor 9 for samples of 8 bits"),
    "depth": ({"tags": {32997: 2}}, "it has 2 planes of depth"),
    "CMYK of three": ({"photometric": CMYK}, "it is said to be CMYK in 3 bands of 8 bits"),
    "a palette of several": ({"photometric": PALETTE, "tags": {320: (0,) * 768}}, "it has a palette and 3 bands"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_nobody_can_read_says_why(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    written, said = UNREADABLE[name]
    message = refusal(write_tiff(tmp_path / "a.tif", noise(9, 9, 3), **written))
    assert f"{said}, which cannot be read; convert it, such as by 'gdal_translate" in message
    assert capfd.readouterr() == ("", ""), "no stray line of a library"


def test_complex_samples_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_tiff(tmp_path / "a.tif", np.ones((9, 9), dtype=np.complex64))
    for reading in (AS_THEY_ARE, DROP, Reading(RANGE)):
        message = refusal(path, reading)
        assert "it has 1 band of 64 bits (complex)" in message
        assert "gdal_translate" in message
    seen = look_at(path, LIMIT, AS_THEY_ARE)
    assert (seen.type, seen.bands, seen.low) == ("complex64", 1, None)
    assert capfd.readouterr() == ("", ""), "no stray line of a library"


@pytest.mark.parametrize("extra", [(0,), None])
def test_a_fourth_band_is_not_dropped_silently(tmp_path: Path, extra: tuple[int, ...] | None) -> None:
    """Near infrared, of which the file says nothing; and where the file says that it is nothing."""
    samples = noise(9, 9, 4)
    path = write_tiff(tmp_path / "a.tif", samples, extra=extra)
    assert "4 bands of 8 bits, of which 1 beside colour and transparency" in refusal(path)
    assert_pixels(path, samples[:, :, :3], DROP)


def test_a_second_band_of_grey(tmp_path: Path) -> None:
    samples = noise(9, 9, 2)
    path = write_tiff(tmp_path / "a.tif", samples, extra=(0,))
    assert "2 bands of 8 bits" in refusal(path)
    assert_pixels(path, samples[:, :, 0], DROP)
    assert_pixels(write_tiff(tmp_path / "b.tif", samples, extra=(2,)), samples[:, :, 0])


def test_large_unsigned_samples(tmp_path: Path) -> None:
    """Which Pillow takes for negative."""
    samples = np.array([[1, 1 << 31, (1 << 32) - 1]], dtype=np.uint32)
    path = write_tiff(tmp_path / "a.tif", samples)
    wide = SampleRange(0, (1 << 32) - 1)
    assert_pixels(path, ranged(samples, wide), Reading(wide))


def test_pages_are_not_dropped_silently(tmp_path: Path) -> None:
    first, second = noise(9, 9), noise(9, 9) // 2
    path = write_tiff(tmp_path / "a.tif", first, second, second)
    assert "3 pages or frames" in refusal(path)
    assert_pixels(path, first, DROP)
    assert look_at(path, LIMIT, DROP).pages == 3


def test_smaller_copies_and_masks_are_no_pages(tmp_path: Path) -> None:
    """Of a cloud-optimized GeoTIFF."""
    first = noise(16, 16)
    pages = (first, first[::2, ::2], first)
    assert_pixels(write_tiff(tmp_path / "a.tif", *pages, subfiles=(0, 1, 4)), first)


def test_a_stack_of_imagej_in_one_page(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(9, 9), tags={270: "ImageJ=1.53t\nimages=5\nslices=5\n"})
    assert "5 pages or frames" in refusal(path)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(noise(9, 9, 3) // (n + 1)) for n in range(3)]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(
        path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == "webp" else {})
    )
    assert "3 pages or frames" in refusal(path)
    found = read(path, DROP)
    if suffix != "gif":  # whose colours are those of a palette
        np.testing.assert_array_equal(found, np.asarray(frames[0]))
    frames[0].save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert read(path).shape == (9, 9, 3)


def test_a_preview_in_a_photo_is_no_page(tmp_path: Path) -> None:
    """Cameras write JPEGs of two pictures (MPO)."""
    photo, preview = Image.fromarray(noise(32, 32, 3)), Image.fromarray(noise(8, 8, 3))
    photo.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    assert read(tmp_path / "a.jpg").shape == (32, 32, 3)


def write_png(path: Path, samples: np.ndarray, bits: int, chunk: bytes = b"") -> Path:
    """Write a PNG of 1 to 16 bits: grey, with transparency or not, or RGB."""
    samples = samples[:, :, None] if samples.ndim == 2 else samples
    rows, columns, bands = samples.shape
    if bits >= 8:
        lines = [row.astype(">u2" if bits == 16 else np.uint8).tobytes() for row in samples]
    else:
        digits = (samples.reshape(rows, columns, 1) >> np.arange(bits - 1, -1, -1)) & 1
        lines = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in digits]
    head = struct.pack(">IIBBBBB", columns, rows, bits, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + line for line in lines))
    parts = [(b"IHDR", head), *([(b"eXIf", chunk)] if chunk else []), (b"IDAT", pixels), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_png(tmp_path: Path, bits: int) -> None:
    top = (1 << bits) - 1
    samples = noise(20, 33, dtype="uint16", top=top)
    assert_pixels(write_png(tmp_path / "a.png", samples, bits), of_sixteen(samples, top))


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("samples", [None, RANGE])
def test_png_of_sixteen_bits(tmp_path: Path, bands: int, samples: SampleRange | None) -> None:
    """Where there is a range all bits count, of colour, too."""
    values = noise(20, 33, bands, dtype="uint16", top=65535 if samples is None else 1000)
    path = write_png(tmp_path / "a.png", values, 16)
    colors = values[:, :, :3] if bands >= 3 else values[:, :, 0]
    natural = of_sixteen(colors) if bands == 1 else (colors >> 8).astype(np.uint8)
    assert_pixels(path, natural if samples is None else ranged(colors), Reading(samples))
    seen = look_at(path, LIMIT, Reading(samples))
    assert (seen.type, seen.bands) == ("uint16", bands)
    if samples is not None:
        assert (seen.low, seen.high) == (colors.min(), colors.max())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_png_of_sixteen_bits_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    """As one of eight bits is."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    chunk = exif.tobytes().removeprefix(b"Exif\0\0")
    values = noise(20, 33, 3)
    eight = write_png(tmp_path / "a.png", values, 8, chunk)
    deep = write_png(tmp_path / "b.png", values.astype(np.uint16) * 257, 16, chunk)
    np.testing.assert_array_equal(read(deep), read(eight))
    np.testing.assert_array_equal(read(deep, Reading(SampleRange(0, 65535))), read(eight))


@pytest.mark.parametrize("maxval", [1, 15, 255, 1000, 4095, 65535])
def test_pgm(tmp_path: Path, maxval: int) -> None:
    samples = noise(9, 9, dtype="uint16", top=maxval)
    body = samples.astype(">u2").tobytes() if maxval > 255 else samples.astype(np.uint8).tobytes()
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 9 9 %d\n" % maxval + body)
    assert np.abs(read(path)[:, :, 0].astype(int) - of_sixteen(samples, maxval)).max() <= 1
    if maxval > 255:
        found = read(path, Reading(SampleRange(0, 1000)))[:, :, 0].astype(int)
        assert np.abs(found - ranged(samples, SampleRange(0, 1000))).max() <= 1, "in the file's own samples"


@pytest.fixture
def torchvision_io() -> Any:
    """Decoders of another library, which are going to move, as it says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield torchvision.io


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg(tmp_path: Path, mode: str, torchvision_io: Any) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(32, 32, 3)).convert(mode).save(path, quality=95, subsampling=0)
    decoded = torchvision_io.decode_jpeg(
        torchvision_io.read_file(str(path)), torchvision_io.ImageReadMode.RGB
    )
    assert np.abs(read(path).astype(int) - decoded.permute(1, 2, 0).numpy()).max() <= 1


def test_webp_and_gif(tmp_path: Path, torchvision_io: Any) -> None:
    picture = Image.fromarray(noise(32, 32, 3))
    picture.save(tmp_path / "a.webp", lossless=True)
    other = torchvision_io.decode_webp(torchvision_io.read_file(str(tmp_path / "a.webp")))[:3]
    assert torch.equal(read_image(tmp_path / "a.webp", LIMIT), other)
    picture.quantize(64).save(tmp_path / "a.gif")
    other = torchvision_io.decode_gif(torchvision_io.read_file(str(tmp_path / "a.gif")))
    assert torch.equal(read_image(tmp_path / "a.gif", LIMIT), other)


def test_jpeg_2000(tmp_path: Path) -> None:
    deep = noise(32, 32, dtype="uint16")
    Image.fromarray(deep).save(tmp_path / "a.jp2", irreversible=False)
    assert_pixels(tmp_path / "a.jp2", of_sixteen(deep))
    plain = noise(32, 32, 3)
    Image.fromarray(plain).save(tmp_path / "b.jp2", irreversible=False)
    assert_pixels(tmp_path / "b.jp2", plain)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "raw"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "I;16", "I", "F"])
def test_tiffs_of_pillow(tmp_path: Path, compression: str, mode: str) -> None:
    """Another writer, and compressions that ours has not."""
    deep = {"I;16": "uint16", "I": "int32", "F": "float32"}
    if mode in deep:
        values = noise(20, 33, dtype=deep[mode])
        image = Image.fromarray(values)
    else:
        image = Image.fromarray(noise(20, 33, 3)).convert(mode)
    image.save(tmp_path / "a.tif", compression=compression)
    if mode in deep:
        reading = Reading(RANGE)
        assert_pixels(tmp_path / "a.tif", ranged(values), reading)
    else:
        assert_pixels(tmp_path / "a.tif", np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", [*ONE_BAND, *SEVERAL])
def test_the_writer_writes_what_tifffile_reads(tmp_path: Path, name: str) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    samples, written, _, _ = (ONE_BAND | SEVERAL)[name]
    for stored in ("strip", "strips", "big-endian", "tiles"):
        path = write_tiff(tmp_path / "a.tif", samples, **written, **STORED[stored])
        found = tifffile.imread(path)
        found = np.moveaxis(found, 0, -1) if written.get("planar") else found
        np.testing.assert_array_equal(found, samples)
