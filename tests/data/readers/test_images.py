"""Images of odd modes: expected pixels are worked out by hand or by Pillow on the plain image."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ziggurat.data.readers.images import image_size, read_image
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
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0, np.nan], [0, 128, 255, 0]),  # 127.5 rounds to the even number
        ([0.0, 100.0, 255.0, 3.0], [0, 100, 255, 3]),
        ([-100.0, 0.0, 100.0, 300.0], [0, 64, 128, 255]),
        ([7.0, 7.0, 7.0, 7.0], [7, 7, 7, 7]),
    ],
)
def test_floating_point_tiff(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    path = saved(Image.fromarray(np.array([values], dtype=np.float32)), tmp_path / "a.tif")
    assert read_image(path, MAX_PIXELS)[0, 0].tolist() == expected


def test_whole_number_tiff(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.array([[0, 1000, 65535]], dtype=np.int32)), tmp_path / "a.tif")
    assert read_image(path, MAX_PIXELS)[1, 0].tolist() == [0, 4, 255]


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
