"""Where an image that is divided into blocks is evaluated on and where it is trained on, and how good each region is.

Pixels that the measured part has not are faded; lines are the regions, of which each crop lies within one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ziggurat.data.blocks import Which
from ziggurat.data.extents import Extent, Region
from ziggurat.data.regions import RegionDataset
from ziggurat.data.views import View
from ziggurat.errors import UserError
from ziggurat.inference.reading import RegionReader
from ziggurat.metrics.findings import Findings
from ziggurat.report.sheets import titled, with_bands
from ziggurat.visualize.boxes import contact_sheet
from ziggurat.visualize.composite import SHOWN_AS_THEY_ARE, Composite

MAX_SIDE = 960  # pixels of a picture's longer side
MAX_IMAGES = 4  # that are drawn, those with most regions first
_BAND = 64  # rows of a picture that are read at once
_LETTERS = 14
_FADE = 0.35  # how white the other part becomes
_MEASURED, _OTHER, _INK, _PAPER = (213, 94, 0), (0, 114, 178), (25, 25, 25), (255, 255, 255)
_WORDS: dict[Which, str] = {"train": "trained on", "val": "evaluated on"}


def regions_table(dataset: RegionDataset, findings: Findings) -> str:
    """Return a line for each region that was measured: its image, its place there, and its quality, as CSV.

    Args:
        dataset: The regions.
        findings: Of all of them.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    counted = ["annotated", "found"] if findings.counts is not None else []
    writer.writerow(["image", "top", "left", "bottom", "right", findings.quality_name, *counted])
    for index, quality in enumerate(findings.quality.tolist()):
        image, region = dataset.place(index)
        row = [dataset.whole.record(image).name, *region.start, *region.end, f"{quality:.4f}"]
        if findings.counts is not None:
            row += [int(counts[index].sum()) for counts in (findings.counts.annotated, findings.counts.found)]
        writer.writerow(row)
    return text.getvalue()


def draw_blocks(
    dataset: RegionDataset, quality: Tensor, quality_name: str, composite: Composite = SHOWN_AS_THEY_ARE
) -> Image.Image | None:
    """Draw images with their regions; None where none of them can be decoded.

    Args:
        dataset: The regions that were measured.
        quality: Of each, shape ``(regions,)``.
        quality_name: What it is.
        composite: What is shown of the images.
    """
    measured = [dataset.place(index) for index in range(len(dataset))]
    counts = {image: sum(one == image for one, _ in measured) for image in {one for one, _ in measured}}
    chosen = sorted(counts, key=lambda image: (-counts[image], image))[:MAX_IMAGES]
    pictures = [
        _draw_image(dataset, image, measured, quality.tolist(), composite) for image in sorted(chosen)
    ]
    drawn = [picture for picture in pictures if picture is not None]
    if not drawn:
        return None
    other = _other(dataset.part)
    legend = f"orange: {_WORDS[dataset.part]}, with the {quality_name} of each region; blue and faded: {_WORDS[other]}"
    title = f"Blocks of {', '.join(_names(dataset, chosen))}"
    return titled(contact_sheet(drawn, columns=2, gap=12), title, with_bands(legend, composite))


def _names(dataset: RegionDataset, images: Sequence[int]) -> list[str]:
    return [dataset.whole.record(image).name.rpartition("/")[-1] for image in sorted(images)]


def _other(part: Which) -> Which:
    return "train" if part == "val" else "val"


def _draw_image(
    dataset: RegionDataset,
    image: int,
    measured: Sequence[tuple[int, Region]],
    quality: Sequence[float],
    composite: Composite,
) -> Image.Image | None:
    extent = dataset.whole.record(image).extent
    picture = _read_small(dataset, image, extent, composite)
    if picture is None:
        return None
    factors = [length / full for length, full in zip(reversed(picture.size), extent, strict=True)]

    def place(region: Region) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom in the picture, both edges within it."""
        (top, left), (bottom, right) = (
            [round(value * factor) for value, factor in zip(corner, factors, strict=True)]
            for corner in (region.start, region.end)
        )
        return left, top, right - 1, bottom - 1

    others = [region for of, region in dataset.division.regions[_other(dataset.part)] if of == image]
    faded = Image.blend(picture, Image.new("RGB", picture.size, _PAPER), _FADE)
    for region in others:
        left, top, right, bottom = place(region)
        box = (left, top, right + 1, bottom + 1)
        picture.paste(faded.crop(box), box)
    draw = ImageDraw.Draw(picture)
    for region in others:
        draw.rectangle(place(region), outline=_OTHER, width=2)
    for (of, region), value in zip(measured, quality, strict=True):
        if of == image:
            _draw_region(draw, place(region), f"{value:.2f}")
    return picture


def _draw_region(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], text: str) -> None:
    """Draw the frame of a region and, where there is room, a number."""
    left, top, right, bottom = box
    draw.rectangle(box, outline=_MEASURED, width=3)
    font = ImageFont.load_default(_LETTERS)
    width, height = round(draw.textlength(text, font=font)) + 8, _LETTERS + 6
    if width <= right - left and height <= bottom - top:
        draw.rectangle((left, top, left + width, top + height), fill=_MEASURED)
        draw.text((left + 4, top + 2), text, fill=_PAPER, font=font)


def _read_small(
    dataset: RegionDataset, image: int, extent: Extent, composite: Composite
) -> Image.Image | None:
    """Return an image as a picture, read in bands of its rows; None if it cannot be decoded."""
    factor = min(1.0, MAX_SIDE / max(extent))
    rows, columns = (max(1, round(factor * length)) for length in extent)
    reader = RegionReader(dataset.whole, {image: View((rows, columns), ())})
    small = torch.empty((3, rows, columns), dtype=torch.uint8)
    for top in range(0, rows, _BAND):
        band = Region((top, 0), (min(_BAND, rows - top), columns))
        pixels = reader.read(image, band, more=band.end[0] < rows)
        if isinstance(pixels, UserError):
            return None
        # red, green and blue of 8 bits are resized in floating point, too
        small[band.last_dims] = composite(
            pixels if composite.bands else pixels.round().clamp(0, 255).to(torch.uint8)
        )
    return Image.fromarray(small.permute(1, 2, 0).contiguous().numpy())
