"""Opening an image file: its header under our own bounds, without any state of the process.

Pillow's `Image.open` guards itself by a number and by warnings that the whole process shares. A run has a bound of its
own (``data.max_pixels``), and several threads decode at once: so the bound is checked here, from the header, and each
format's reader is called directly. Pillow's own guard stays as it is for everybody else.
"""

from __future__ import annotations

import logging
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from ziggurat.errors import UserError

# Formats whose decoders only read pixels; Pillow would also start Ghostscript for EPS.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".ppm", ".pgm")
PREFIX_BYTES = 16  # by which a format knows its files
IMAGE_WIDTH, IMAGE_LENGTH = 256, 257  # tags of TIFF 6.0
PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # chunks in which EXIF may be

Image.init()  # here, not while threads open images: it fills Pillow's table of formats
# Once for the process, not around each image: Pillow warns of odd metadata; what is wrong with pixels raises.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs on errors, we say ourselves

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@contextmanager
def open_image(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image for the body, which may read and decode it; whatever a decoder raises names the file.

    Safe to call from several threads.

    Raises:
        UserError: If there is no such image, the body cannot read it, or it has more than `max_pixels` pixels.
    """
    try:
        with _open(path) as image:
            _check_pixels(path, image, max_pixels)
            yield image
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no image {path}: give the path of a file that is there") from None
    except Exception as error:  # decoders raise almost anything for broken files
        raise UserError(f"cannot decode the image {path}: {_reason(error)}") from error


def _open(path: Path) -> ImageFile.ImageFile:
    """Return the image of a file, of which only the header is read; as `Image.open`, but for its guard."""
    with path.open("rb") as file:
        prefix = file.read(PREFIX_BYTES)
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is None or accept(prefix) is True:
            try:
                return factory(str(path), str(path))  # type: ignore[arg-type] # a path is one of what they take
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue  # it only looked like a file of this format
    raise UnidentifiedImageError(str(path))


def _check_pixels(path: Path, image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise UserError(
            f"the image {path} has {width * height} pixels ({width} x {height}), more than data.max_pixels="
            f"{max_pixels}: raise data.max_pixels if it is meant to be that large"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is empty or of no known format (PNG, JPEG, TIFF, BMP, WebP, GIF, JPEG 2000, PPM)"
    return f"{type(error).__name__}: {error}"


def upright(image: Image.Image) -> Image.Image:
    """Decode an image and turn it as its EXIF orientation says."""
    if image.format == "TIFF":
        # Pillow would ask its own guard where it makes room for the pixels; `open_image` has asked ours.
        tags = image.tag_v2  # type: ignore[attr-defined] # of a TIFF
        image.im = Image.new(image.mode, (tags[IMAGE_WIDTH], tags[IMAGE_LENGTH]), None).im
    image.load()
    return turned(image)


def turned(image: Image.Image) -> Image.Image:
    """Return a decoded image turned as its EXIF orientation says."""
    turn = _UPRIGHT.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none."""
    try:
        value = _exif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - broken metadata is not a broken image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _exif(image: Image.Image) -> Image.Exif:
    """Return the EXIF of an image; of a PNG without decoding it, as Pillow would, where nothing can follow its pixels."""
    if image.format == "PNG" and getattr(image, "tile", None) and not _says_more_at_its_end(image):
        return Image.Image.getexif(image)
    return image.getexif()


def _says_more_at_its_end(image: Any) -> bool:
    """Whether a PNG has metadata after its pixels: its chunks are passed over, none is read."""
    is_behind = False
    with Path(image.filename).open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            is_behind |= kind == b"IDAT"
            if is_behind and kind in PNG_METADATA:
                return True
            file.seek(length + 4, os.SEEK_CUR)
    return False


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return an opened image's rows and columns, upright."""
    width, height = image.size
    # Pillow has applied the orientation of a TIFF to its size already.
    turned = image.format != "TIFF" and orientation(image) >= 5
    return (width, height) if turned else (height, width)
