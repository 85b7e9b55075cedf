"""Images of odd modes: expected pixels are worked out by hand or by Pillow on the plain image."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ziggurat.data.readers.images import image_size, inspect_image, read_image
from ziggurat.data.readers.layout import AS_THEY_ARE, Reading
from ziggurat.data.readers.sample_range import SampleRange
from ziggurat.errors import UserError

MAX_PIXELS = 1 << 20


def picture(height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_plain_rgb(tmp_path: Path) -> None:
    path = saved(Image.fromarray(picture()), tmp_path / "a.png")
    image = read_image(path, MAX_PIXELS)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert np.array_equal(image.permute(1, 2, 0).numpy(), picture())
    assert image_size(path, MAX_PIXELS) == (5, 7)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "RGBA", "P"])
def test_modes_of_png(tmp_path: Path, mode: str) -> None:
    plain = Image.fromarray(picture()).convert(mode)
    image = read_image(saved(plain, tmp_path / "a.png"), MAX_PIXELS)
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(plain.convert("RGB")))


def test_palette_with_transparency_keeps_its_colors(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    path = saved(image, tmp_path / "a.png", transparency=bytes([0, 255]))
    assert read_image(path, MAX_PIXELS)[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257, 65535, 32768]], dtype=np.uint16)
    image = read_image(saved(Image.fromarray(values), tmp_path / f"a.{suffix}"), MAX_PIXELS)
    assert image.tolist() == [[[0, 1, 255, 128]]] * 3


@pytest.mark.parametrize(
    ("values", "kind"),
    [([0.0, 1.0], np.float32), ([0, 255], np.int32), ([0, 70000], np.int32), ([-5, 5], np.int16)],
)
def test_samples_without_a_natural_range_are_refused(tmp_path: Path, values: list[float], kind: type) -> None:
    """Whatever the image holds: another image of the data set may hold more."""
    path = tmp_path / "a.tif"
    image = Image.fromarray(np.array([values], dtype=np.int32 if kind is np.int16 else kind))
    saved(image, path, **({"tiffinfo": {258: 16, 339: 2}} if kind is np.int16 else {}))
    with pytest.raises(UserError, match=r"a\.tif has .* no natural range: .*--set data\.range="):
        read_image(path, MAX_PIXELS)
    with pytest.raises(UserError, match="no natural range"):
        inspect_image(path, MAX_PIXELS, AS_THEY_ARE)
    assert image_size(path, MAX_PIXELS) == (1, 2), "a mask may have such samples"


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint16])
def test_the_data_sets_range_holds_for_every_image(tmp_path: Path, kind: type) -> None:
    for name, values, expected in [
        ("a", [0, 1000, 4095], [0, 62, 255]),
        ("b", [10, 2000, 9000], [1, 125, 255]),
    ]:
        path = saved(Image.fromarray(np.array([values], dtype=kind)), tmp_path / f"{name}.tif")
        image = read_image(path, MAX_PIXELS, Reading(SampleRange(0, 4095)))
        assert image.tolist() == [[expected]] * 3


def test_nan_and_what_is_outside_of_the_range(tmp_path: Path) -> None:
    values = np.array([[np.nan, -np.inf, -5.0, -1.0, 0.0, 1.0, np.inf]], dtype=np.float32)
    path = saved(Image.fromarray(values), tmp_path / "a.tif")
    image = read_image(path, MAX_PIXELS, Reading(SampleRange(-1, 1)))
    assert image[0, 0].tolist() == [0, 0, 0, 0, 128, 255, 255]


def test_eight_bits_have_no_other_range(tmp_path: Path) -> None:
    path = saved(Image.fromarray(picture()), tmp_path / "a.png")
    assert torch.equal(
        read_image(path, MAX_PIXELS, Reading(SampleRange(0, 10))), read_image(path, MAX_PIXELS)
    )


def test_a_pgm_of_more_than_eight_bits_has_sixteen(tmp_path: Path) -> None:
    """Also where none of its samples needs more than eight."""
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 3 1 65535\n" + np.array([0, 200, 257], dtype=">u2").tobytes())
    assert read_image(path, MAX_PIXELS)[0, 0].tolist() == [0, 1, 1]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    plain = Image.new("RGB", (16, 16), (200, 40, 90))
    path = saved(plain.convert("CMYK"), tmp_path / "a.jpg", quality=100)
    image = read_image(path, MAX_PIXELS)
    assert image.shape == (3, 16, 16)
    assert (image[:, 8, 8] - torch.tensor([200, 40, 90])).abs().max() <= 3


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), dtype=np.uint8)
    upright[:8, :16] = 255  # bright top left
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    path = saved(stored, tmp_path / f"a.{suffix}", exif=exif)
    image = read_image(path, MAX_PIXELS)
    assert image_size(path, MAX_PIXELS) == tuple(image.shape[1:]) == (16, 32)
    assert (image[0].numpy() > 128).tolist() == (upright[:, :, 0] > 128).tolist()


def test_bound_is_checked_from_the_header(tmp_path: Path) -> None:
    path = saved(Image.new("1", (20000, 10000)), tmp_path / "large.png")  # twice Pillow's own bound
    with pytest.raises(UserError, match=r"large\.png has 200000000 pixels.*data\.max_pixels=1000"):
        read_image(path, 1000)
    bound = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_size(path, 1 << 30) == (10000, 20000)
    assert bound == Image.MAX_IMAGE_PIXELS


def test_truncated_image_names_the_file(tmp_path: Path) -> None:
    path = saved(Image.fromarray(picture(64, 64)), tmp_path / "cut.png")
    path.write_bytes(path.read_bytes()[:4000])
    assert image_size(path, MAX_PIXELS) == (64, 64)
    with pytest.raises(UserError, match=r"cannot decode the image .*cut\.png"):
        read_image(path, MAX_PIXELS)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"II*\0\xff"]
)
def test_nonsense_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"odd\.png"):
        read_image(path, MAX_PIXELS)


def test_missing_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no image .*nowhere\.png"):
        read_image(tmp_path / "nowhere.png", MAX_PIXELS)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_threads_leave_pillows_guard_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """Images above Pillow's bound are read under ours, while the guard stays for everybody else in the process."""
    path = saved(Image.fromarray(picture(40, 50)), tmp_path / f"a.{suffix}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses from twice as many on
    guards, filters = set(), set()

    def read(number: int) -> torch.Tensor:
        image = read_image(path, MAX_PIXELS)
        guards.add(Image.MAX_IMAGE_PIXELS)
        filters.add(len(warnings.filters))
        with pytest.raises(Image.DecompressionBombError):
            Image.open(path)
        return image

    with ThreadPoolExecutor(4) as threads:
        images = list(threads.map(read, range(200)))
    assert all(np.array_equal(image.permute(1, 2, 0).numpy(), picture(40, 50)) for image in images)
    assert guards == {100}
    assert len(filters) == 1


def test_a_turned_tiff_above_pillows_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(Image.fromarray(picture(40, 50)), tmp_path / "a.tif", exif=exif, compression="tiff_lzw")
    expected = read_image(path, MAX_PIXELS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert torch.equal(read_image(path, MAX_PIXELS), expected)
    assert expected.shape == (3, 50, 40)
