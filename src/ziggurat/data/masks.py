"""Mask files: what their pixels say, by value or by color, as labels.

Shapes: ``H`` rows and ``W`` columns of a mask, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ziggurat.data.batch import IGNORED_PIXEL
from ziggurat.data.extents import Region
from ziggurat.data.file_dataset import FileImages, FileList
from ziggurat.data.packed_strings import PackedStrings
from ziggurat.data.readers.composite import is_deep, refusal, shown_bands, words_for
from ziggurat.data.readers.images import check_at_once
from ziggurat.data.readers.layout import AS_THEY_ARE
from ziggurat.data.readers.opened import HasPalette, ImageInfo
from ziggurat.data.readers.pages import split_page
from ziggurat.data.readers.registry import open_image_file
from ziggurat.errors import UserError

INEXACT = (".jpg", ".jpeg")  # their values are not those that were saved
MAX_CLASSES = IGNORED_PIXEL  # labels 0 to 254

Color = tuple[int, int, int]

_SHOWN = 8  # values that a message lists
_UNKNOWN = -1


@dataclass(frozen=True)
class Palette:
    """Which pixels of a mask file are of which class.

    Without colors the pixels' values count (of a palette PNG: the indices). With colors the colors count, except in
    masks of one channel, whose values count unless all the colors are greys.

    Attributes:
        names: Name of each class.
        values: Value of each class in masks of one channel.
        colors: Color of each class; empty if they have none.
        ignore: This value, and the grey of this value, takes no part, unless it is a class's own color or a class's
            own value other than its number.
        labels: Label of each class; a data set of fewer classes than its model keeps the model's labels.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    colors: tuple[Color, ...]
    ignore: int
    labels: tuple[int, ...]

    def read(
        self, path: Path, max_pixels: int, region: Region | None = None
    ) -> tuple[np.ndarray, dict[str, int]]:
        """Decode a mask, or a region of it.

        Returns:
            Labels, uint8, ``(H, W)``, and how many pixels have each value or color that is of no class; their label
            is `IGNORED_PIXEL`.

        Raises:
            UserError: If the file cannot be decoded, or is no mask.
        """
        pixels = read_mask(path, max_pixels, in_color=bool(self.colors), region=region)
        if pixels.ndim == 2 and not self._is_grey:
            labels = _look_up(pixels, self._value_table)
        elif not self.colors:
            shown = {_shown(code): count for code, count in _counts(_codes(pixels), slice(None))}
            return np.full(pixels.shape[:2], IGNORED_PIXEL, np.uint8), shown
        else:
            labels = _look_up_sorted(_codes(pixels), *self._color_table)
        unknown = labels == _UNKNOWN
        if not unknown.any():
            return labels.astype(np.uint8), {}
        labels[unknown] = IGNORED_PIXEL
        if pixels.ndim == 2 and not self._is_grey:
            return labels.astype(np.uint8), {str(value): count for value, count in _counts(pixels, unknown)}
        return labels.astype(np.uint8), {_shown(code): n for code, n in _counts(_codes(pixels), unknown)}

    @cached_property
    def _is_grey(self) -> bool:
        return bool(self.colors) and all(red == green == blue for red, green, blue in self.colors)

    @cached_property
    def _value_table(self) -> np.ndarray:
        """The label of each value of 16 bits, int16."""
        table = np.full(1 << 16, _UNKNOWN, dtype=np.int16)
        by_number = [(value, label) for value, label in self._valued if value < len(self.names)]
        for value, label in by_number:
            table[value] = label
        table[self.ignore] = IGNORED_PIXEL
        for value, label in self._valued:
            if value >= len(self.names):  # said on purpose: it wins over `ignore`
                table[value] = label
        return table

    @property
    def _valued(self) -> list[tuple[int, int]]:
        return list(zip(self.values, self.labels, strict=True))

    @cached_property
    def _color_table(self) -> tuple[np.ndarray, np.ndarray]:
        """All known colors as sorted codes, int64, and their labels, int16."""
        label_of = {(self.ignore << 16) + (self.ignore << 8) + self.ignore: IGNORED_PIXEL}
        for (red, green, blue), label in zip(self.colors, self.labels, strict=True):
            label_of[(red << 16) + (green << 8) + blue] = label
        codes = sorted(label_of)
        return np.array(codes, np.int64), np.array([label_of[code] for code in codes], np.int16)


class MaskDataset(FileImages):
    """A segmentation data set of image files and mask files.

    Args:
        classes: Name of each label.
        category_ids: A number for each label, from 0.
        files: The images.
        masks: Mask file of each image.
        palette: What the masks' pixels mean.
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        category_ids: tuple[int, ...],
        files: FileList,
        masks: Sequence[str],
        palette: Palette,
    ) -> None:
        super().__init__(classes, category_ids, files)
        self._masks = PackedStrings(masks)
        self.palette = palette

    def mask_path(self, index: int) -> Path:
        """Return the mask file of image `index`."""
        return Path(self._masks[self._place[index]])

    def mask(self, index: int) -> Tensor:
        """Decode the mask of image `index`: labels, uint8, shape ``(H, W)``; `IGNORED_PIXEL` where the image holds nothing.

        Raises:
            UserError: If it cannot be decoded, holds a value of no class, or is not of the image's size.
        """
        path = self.mask_path(index)
        labels, unknown = self.palette.read(path, self._files.max_pixels)
        faults = [*unknown_faults(unknown, self.palette)]
        if labels.shape != self._size(index):
            faults.append(size_fault(labels.shape, self._size(index), self.path(index)))
        return self._labels(index, Region.whole(self._size(index)), labels, faults)

    def mask_window(self, index: int, region: Region) -> Tensor | None:
        """Read a window of the mask of image `index`; None if its file has to be decoded as a whole, or is of another size.

        Raises:
            UserError: As `mask`, of the window.
        """
        path = self.mask_path(index)
        with open_image_file(path) as image:
            info = image.info
        if info.extent != self._size(index) or info.block == info.extent:
            return None
        labels, unknown = self.palette.read(path, self._files.max_pixels, region)
        return self._labels(index, region, labels, unknown_faults(unknown, self.palette))

    def _labels(self, index: int, region: Region, labels: np.ndarray, faults: Sequence[str]) -> Tensor:
        if faults:
            path = self.mask_path(index)
            raise UserError([f"{path}: {fault} ('ziggurat check' finds every such mask)" for fault in faults])
        return self._ignoring(torch.from_numpy(labels), index, region)


def read_mask(path: Path, max_pixels: int, *, in_color: bool, region: Region | None = None) -> np.ndarray:
    """Decode a mask file, upright, or a region of it.

    Args:
        path: The file.
        max_pixels: Larger masks are refused.
        in_color: Read a palette image as its colors rather than as its indices, and three equal channels as grey rather than
            as values.
        region: Within the mask; None takes all of it.

    Returns:
        Values, an integer type, ``(H, W)``, or colors, uint8, ``(H, W, 3)``.

    Raises:
        UserError: If the file cannot be decoded, or is no mask: it has several pages, bands beside colour and transparency,
            values that are no whole numbers, or colors of more than 8 bits.
    """
    if path.suffix.lower() in INEXACT:
        raise UserError(
            f"the mask {path} is a JPEG, whose values are not those of the classes: save it as PNG"
        )
    with open_image_file(path) as image:
        info = image.info
        wanted = Region.whole(info.extent) if region is None else region
        for extent in (wanted.size, None if region is None else info.block):
            if extent is not None:
                check_at_once(path, info, extent, max_pixels)
        if fault := refusal(path, info, AS_THEY_ARE, split_page(path)[1]) or _depth_fault(info):
            raise UserError(f"the mask {path} cannot be read: {fault}")
        numbers = image.indices(wanted) if isinstance(image, HasPalette) and not in_color else None
        if numbers is not None:
            return numbers
        samples = shown_bands(image.read(wanted), info)
    if len(samples) == 1:
        return _values(path, samples[0])
    pixels = np.ascontiguousarray(np.moveaxis(samples, 0, -1))
    is_grey = not in_color and (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0] if is_grey else pixels


def _depth_fault(info: ImageInfo) -> str:
    """Return why the values of a mask would not be those of its file."""
    if is_deep(info) and info.bands > 1:
        return f"it has {words_for(info)}; save values of classes in one band, or colors of 8 bits"
    return ""


def _values(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Return values of a kind that numbers can be looked up in: whole numbers of floating-point masks are values."""
    if pixels.dtype.kind in "iu":
        return pixels
    whole = np.isfinite(pixels) & (np.abs(pixels) < 1 << 24) & (pixels == np.rint(pixels))
    if not whole.all():
        raise UserError(
            f"the mask {path} has floating-point values that are no whole numbers, such as {pixels[~whole][0]:g}: save the "
            "numbers of classes"
        )
    return pixels.astype(np.int32)


def values_of(path: Path, max_pixels: int) -> list[str]:
    """Return the values or colors that occur in a mask, such as ``2`` or ``(0, 128, 0)``.

    Raises:
        UserError: If it cannot be decoded.
    """
    pixels = read_mask(path, max_pixels, in_color=False)
    if pixels.ndim == 2:
        return [str(value) for value in np.unique(pixels).tolist()]
    return [_shown(code) for code in np.unique(_codes(pixels)).tolist()]


def unknown_faults(unknown: dict[str, int], palette: Palette) -> list[str]:
    """Return the fault of a mask with values or colors of no class, if it has any."""
    if not unknown:
        return []
    found = [f"{value} ({count} pixels)" for value, count in list(unknown.items())[:_SHOWN]]
    more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    if any(value.startswith("(") for value in unknown):
        known = (
            f"the palette has {len(palette.colors)} colors"
            if palette.colors
            else "the classes have no colors"
        )
        remedy = "write each class with its color into classes.txt (name red green blue)"
        return [f"unknown color: {', '.join(found)}{more}; {known}; {remedy}"]
    known = f"the {len(palette.names)} classes have the values {_ranges(palette.values)}"
    remedy = (
        f"name it (data.classes or classes.txt), or mend the mask; {palette.ignore} is ignored (data.ignore)"
    )
    return [f"unknown class: {', '.join(found)}{more}; {known}; {remedy}"]


def mask_faults(path: Path, palette: Palette, max_pixels: int) -> list[str]:
    """Decode a mask and return what is wrong with it."""
    return judge_mask(path, palette, max_pixels)[0]


def judge_mask(path: Path, palette: Palette, max_pixels: int) -> tuple[list[str], bool]:
    """Decode a mask, and return what is wrong with it, and whether a pixel of it takes part in training."""
    try:
        labels, unknown = palette.read(path, max_pixels)
    except UserError as error:
        return [f"undecodable mask: {error}"], False
    return unknown_faults(unknown, palette), bool((labels != IGNORED_PIXEL).any())


def size_fault(mask: tuple[int, ...], image: tuple[int, int], image_path: Path) -> str:
    """Return the fault of a mask that is not of its image's size."""
    hint = "; turn the image upright, its EXIF does it now" if mask == image[::-1] else ""
    return (
        f"size mismatch: the mask has {mask[1]} x {mask[0]} pixels, its image {image_path} has "
        f"{image[1]} x {image[0]}{hint}"
    )


def save_mask(path: Path, labels: Tensor) -> None:
    """Write labels, uint8, ``(H, W)``, as a PNG of the same values."""
    Image.fromarray(labels.numpy()).save(path)


def _look_up(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    labels: np.ndarray
    if values.dtype in (np.uint8, np.uint16):
        labels = table[values]
        return labels
    known = (values >= 0) & (values < len(table))
    return np.where(known, table[np.where(known, values, 0)], np.int16(_UNKNOWN))


def _look_up_sorted(codes: np.ndarray, known: np.ndarray, labels: np.ndarray) -> np.ndarray:
    places = np.searchsorted(known, codes).clip(max=len(known) - 1)
    return np.where(known[places] == codes, labels[places], np.int16(_UNKNOWN))


def _codes(pixels: np.ndarray) -> np.ndarray:
    """Return colors, ``(H, W, 3)``, or greys, ``(H, W)``, as one number each, int64, ``(H, W)``."""
    if pixels.ndim == 2:
        grey = pixels.astype(np.int64)
        return np.where((grey >= 0) & (grey < 256), grey * 0x010101, (1 << 24) + np.abs(grey))
    red, green, blue = (pixels[:, :, channel].astype(np.int64) for channel in range(3))
    return (red << 16) + (green << 8) + blue


def _counts(values: np.ndarray, chosen: np.ndarray | slice) -> list[tuple[int, int]]:
    found, counts = np.unique(values[chosen], return_counts=True)
    return list(zip(found.tolist(), counts.tolist(), strict=True))


def _shown(code: int) -> str:
    return f"({code >> 16}, {code >> 8 & 255}, {code & 255})"


def _ranges(values: Sequence[int]) -> str:
    """Put numbers into words.

    Example:
        >>> _ranges((0, 1, 2)), _ranges((0, 255))
        ('0 to 2', '0, 255')
    """
    if len(values) > 2 and list(values) == list(range(values[0], values[0] + len(values))):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))
