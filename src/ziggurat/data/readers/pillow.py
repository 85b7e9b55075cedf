"""The reader of all that Pillow knows and no other reader takes: PNG, JPEG, BMP, WebP, GIF, JPEG 2000, PPM.

These files are decoded from end to end, whatever the region; BMP, PPM and PGM of 8 bits are not. Pillow has room for 8 bits of several bands, and
stretches some samples: PNG and JPEG 2000 of more are decoded by imagecodecs, and what is stretched becomes what it was in the file.

Shapes: ``C`` bands, then rows and columns.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ziggurat.data.extents import Region
from ziggurat.data.readers.opened import ImageInfo, OpenedImage, Role
from ziggurat.data.readers.opening import FORMATS, SUFFIXES, open_image, orientation, upright, upright_size
from ziggurat.data.readers.raw_rows import RawRows, raw_rows_of
from ziggurat.data.readers.turning import Turn
from ziggurat.errors import UserError

_RGB: tuple[Role, ...] = ("red", "green", "blue")
_ROLES: dict[str, tuple[Role, ...]] = {
    "1": ("grey",),
    "L": ("grey",),
    "LA": ("grey", "alpha"),
    "RGBA": (*_RGB, "alpha"),
}
_ANY_SIZE = 1 << 62  # bounds are those of who reads, who knows them
_FRAMES = ("GIF", "WEBP", "PNG")  # a camera's JPEG may hold a preview, which is no page
_GREY, _COLOUR, _GREY_ALPHA, _COLOUR_ALPHA = 0, 2, 4, 6  # of a PNG's header


class PillowReader:
    """Reads what Pillow knows."""

    suffixes: Sequence[str] = SUFFIXES

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether one of Pillow's formats begins so; what none knows is opened, to be refused with the reason."""
        accepts = [Image.OPEN[name][1] for name in FORMATS]
        return any(accept is not None and accept(head[:16]) is True for accept in accepts)

    def open(self, path: Path, page: int | None) -> AbstractContextManager[OpenedImage]:
        """Open a picture.

        Raises:
            UserError: If its header cannot be read, or there is no such page.
        """
        return open_with_pillow(path, page)


@contextmanager
def open_with_pillow(path: Path, page: int | None) -> Iterator[OpenedImage]:
    """Open a picture by Pillow.

    Raises:
        UserError: If its header cannot be read, or there is no such page.
    """
    with open_image(path, _ANY_SIZE) as image:
        frames = int(getattr(image, "n_frames", 1)) if image.format in _FRAMES else 1
        if page is not None and page >= frames:
            raise UserError(
                f"the image {path} has no page {page}: pages count from 0, and the last is {frames - 1}"
            )
        opened = PillowImage(path, page or 0, *_look(path, image, frames), ready=image)
        try:
            yield opened
        finally:
            opened.close()


@dataclass(frozen=True)
class _Samples:
    """What Pillow's samples, or another decoder's, are in the file.

    Attributes:
        scale: What Pillow has multiplied them by.
        decoder: Of imagecodecs; empty for Pillow.
        rows: Where they lie as they are.
    """

    scale: float = 1.0
    decoder: str = ""
    rows: RawRows | None = None


class PillowImage:
    """A picture that Pillow decodes.

    Args:
        path: The file.
        page: Its number.
        info: What its header says.
        samples: What its samples are in the file.
        ready: The opened file; the first that reads has it, all others open their own.
    """

    def __init__(self, path: Path, page: int, info: ImageInfo, samples: _Samples, ready: Image.Image) -> None:
        self.path, self.page, self.info, self._samples = path, page, info, samples
        self._ready, self._process = [ready], os.getpid()

    def close(self) -> None:
        """Let go of the opened file."""
        self._ready.clear()

    @contextmanager
    def _opened(self) -> Iterator[Image.Image]:
        """Return the file opened by Pillow, before anything was decoded."""
        ready = self._take()
        if ready is not None:
            yield ready
            return
        with open_image(self.path, _ANY_SIZE) as image:
            yield image

    def _take(self) -> Image.Image | None:
        """Return the opened file to one thread; a forked process has the place in it in common with its parent, and gets none."""
        try:
            return self._ready.pop() if os.getpid() == self._process else None
        except IndexError:
            return None

    def read(self, region: Region, level: int = 0) -> np.ndarray:
        """Return the samples of a region, shape ``(C, *region.size)``; see `OpenedImage`."""
        if self._samples.rows is not None:
            return self._samples.rows.read(self.path, region)
        found = self._by_imagecodecs() if self._samples.decoder else self._by_pillow()
        return np.ascontiguousarray(found[region.last_dims])

    def indices(self, region: Region) -> np.ndarray | None:
        """Return the numbers of the palette's colours in a region, shape ``region.size``; None without a palette."""
        with self._opened() as image:
            image.seek(self.page)
            if image.mode not in ("P", "PA"):
                return None
            decoded = upright(image)
            return np.array(decoded if decoded.mode == "P" else decoded.getchannel("P"))[region.slices]

    def _by_pillow(self) -> np.ndarray:
        with self._opened() as image:
            if self.page:
                image.seek(self.page)
            decoded = upright(image)
        if (len(self.info.roles) == 4 and decoded.mode != "RGBA") or decoded.mode in ("P", "PA"):
            decoded = decoded.convert("RGBA")  # resolves transparent entries of palettes
        if len(self.info.roles) == 3 and decoded.mode != "RGB":  # it would be copied
            decoded = decoded.convert("RGB")
        found = np.asarray(decoded)
        found = found[None] if found.ndim == 2 else np.moveaxis(found, -1, 0)
        if self._samples.scale != 1:
            found = np.rint(found / self._samples.scale)
        return found.astype(self.info.dtype, copy=False)

    def _by_imagecodecs(self) -> np.ndarray:
        import imagecodecs  # here: it takes long to be imported

        turn = Turn(self.info.orientation)
        size = turn.extent(self.info.extent)
        shape = (*size, self.info.bands) if self.info.bands > 1 else size
        decode = getattr(imagecodecs, self._samples.decoder)
        found = decode(self.path.read_bytes(), out=np.empty(shape, dtype=self.info.dtype))
        return turn.upright(np.moveaxis(found.reshape(*size, -1), -1, 0))


def _look(path: Path, image: Any, frames: int) -> tuple[ImageInfo, _Samples]:
    """Return what the header of an opened image says, and what its samples are in the file."""
    extent = upright_size(image)
    turn = orientation(image)
    bits, dtype = {"1": (1, "uint8"), "I": (32, "int32"), "F": (32, "float32")}.get(image.mode, (8, "uint8"))
    if image.mode.startswith("I;16"):
        bits, dtype = 16, "uint16"
    roles = _ROLES.get(image.mode, _RGB)
    if image.mode.startswith(("I", "F")):
        roles = ("grey",)
    elif image.mode in ("P", "PA"):
        roles = (*_RGB, "alpha") if image.mode == "PA" or "transparency" in image.info else _RGB
    info = ImageInfo((extent,), dtype, roles, bits, pages=frames, block=extent, orientation=turn)
    if image.format == "PNG":
        return _of_png(path, info, image.mode)
    if image.format == "JPEG2000":
        return _of_jpeg_2000(path, info)
    if image.format == "PPM":
        return _of_ppm(image, info)
    return _in_rows(image, info, _Samples())


def _in_rows(image: Any, info: ImageInfo, samples: _Samples) -> tuple[ImageInfo, _Samples]:
    """Let the rows be read from the file where they lie there as they are."""
    rows = raw_rows_of(image) if info.orientation == 1 else None
    if rows is None or samples.scale != 1:
        return info, samples
    return replace(info, block=None), replace(samples, rows=rows)


def _of_png(path: Path, info: ImageInfo, mode: str) -> tuple[ImageInfo, _Samples]:
    with path.open("rb") as file:
        bits, colour = file.read(26)[24:26]
    if colour == _GREY and bits < 8:
        return replace(info, bits=bits), _Samples(1.0 if mode == "1" else 255 / ((1 << bits) - 1))
    if bits == 16 and colour in (_COLOUR, _GREY_ALPHA, _COLOUR_ALPHA):
        roles = {_COLOUR: _RGB, _GREY_ALPHA: _ROLES["LA"], _COLOUR_ALPHA: _ROLES["RGBA"]}[colour]
        return replace(info, bits=16, dtype="uint16", roles=roles), _Samples(decoder="png_decode")
    return info, _Samples()


def _of_jpeg_2000(path: Path, info: ImageInfo) -> tuple[ImageInfo, _Samples]:
    """Read the depth of the samples, and the number of bands, from the codestream's SIZ."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    start = head.index(b"\xff\x4f\xff\x51") + 4
    (bands,) = struct.unpack(">H", head[start + 36 : start + 38])
    depths = [head[start + 38 + 3 * band] for band in range(bands)]
    bits, is_signed = (depths[0] & 0x7F) + 1, bool(depths[0] & 0x80)
    if len(set(depths)) > 1 or bits > 32:
        raise ValueError(f"it has {bands} bands of {', '.join(map(str, depths))} bits, which cannot be read")
    if bands == 1 and not is_signed and bits <= 16:  # Pillow fills 16 bits
        scale = float(1 << (16 - bits)) if bits > 8 else 1.0
        return replace(info, bits=bits, top=65535 / scale if bits > 8 else None), _Samples(scale)
    if bits <= 8 and bands <= 4 and not is_signed:
        return info, _Samples()
    dtype = f"{'int' if is_signed else 'uint'}{8 if bits <= 8 else 16 if bits <= 16 else 32}"
    colours: tuple[Role, ...] = _RGB if bands >= 3 else ("grey",)
    others = bands - len(colours)
    alpha: tuple[Role, ...] = ("alpha",) if bands in (2, 4) else ("other",) * others
    return replace(info, bits=bits, dtype=dtype, roles=(*colours, *alpha)), _Samples(decoder="jpeg2k_decode")


def _of_ppm(image: Any, info: ImageInfo) -> tuple[ImageInfo, _Samples]:
    arguments = image.tile[0].args
    most = arguments[-1] if isinstance(arguments, tuple) and isinstance(arguments[-1], int) else 0
    if image.mode == "I":  # Pillow fills 16 bits
        most = most if 1 < most < 1 << 16 else 65535
        return replace(info, dtype="uint16", bits=most.bit_length(), top=float(most)), _Samples(65535 / most)
    if image.mode in ("L", "RGB") and 0 < most < 255:
        return replace(info, bits=most.bit_length(), top=float(most)), _Samples(255 / most)
    return _in_rows(
        image, info, _Samples()
    )  # of more than 8 bits and several bands: the upper 8, as Pillow has them
