"""Pictures of labels: each pixel of the image tinted in the colour of its class, with a legend.

Small images are enlarged before anything is drawn, labels by repetition, so that each of their pixels can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ziggurat.data.batch import IGNORED_PIXEL
from ziggurat.visualize.boxes import READABLE_SIDE, class_color

TINT = 0.6  # share of the class's colour in a pixel
BACKGROUND = "background"  # a first class of this name is not tinted
_IGNORED_GREY, _WRONG, _RIGHT = (128, 128, 128), (230, 30, 30), (235, 235, 235)
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_TITLES = ("image", "truth", "prediction", "errors")


def draw_labels(image_CHW: Tensor, labels_HW: Tensor, classes: Sequence[str]) -> Image.Image:
    """Draw the label of each pixel upon an image, and below it a legend of the classes that occur.

    Args:
        image_CHW: RGB, uint8, shape ``(3, H, W)``.
        labels_HW: uint8, shape ``(H, W)``; pixels without a label (`IGNORED_PIXEL`) become grey.
        classes: The name of each label. A first class named ``background`` keeps the image's own colours.

    Returns:
        The picture: of the image's width, or, of a small image, of a whole multiple of it.
    """
    scale = _scale(image_CHW)
    picture = _enlarged(_tinted(image_CHW, labels_HW, classes), scale, Image.Resampling.NEAREST)
    return _stack([picture, _legend(_occurring(labels_HW), classes, picture.width)])


def draw_label_comparison(
    image_CHW: Tensor, predicted_HW: Tensor, truth_HW: Tensor, classes: Sequence[str]
) -> Image.Image:
    """Draw the image, the truth, the prediction and the errors side by side, and below them a legend.

    The errors: pale is right, red is wrong, grey takes no part.

    Args:
        image_CHW: RGB, uint8, shape ``(3, H, W)``.
        predicted_HW: The label that was found for each pixel, uint8, shape ``(H, W)``.
        truth_HW: The label of each pixel, uint8, shape ``(H, W)``; `IGNORED_PIXEL` takes no part.
        classes: The name of each label, as for `draw_labels`.
    """
    scale, gap = _scale(image_CHW), 4
    errors = torch.where((predicted_HW == truth_HW).unsqueeze(0), _plane(_RIGHT), _plane(_WRONG))
    errors = torch.where((truth_HW == IGNORED_PIXEL).unsqueeze(0), _plane(_IGNORED_GREY), errors)
    panels = [
        _enlarged(image_CHW, scale, Image.Resampling.BICUBIC),
        _enlarged(_tinted(image_CHW, truth_HW, classes), scale, Image.Resampling.NEAREST),
        _enlarged(_tinted(image_CHW, predicted_HW, classes), scale, Image.Resampling.NEAREST),
        _enlarged(errors, scale, Image.Resampling.NEAREST),
    ]
    width = sum(one.width for one in panels) + gap * (len(panels) - 1)
    letters = _letters(width)  # of the whole row: those of the legend
    titled = [
        _stack([_title(text, one.width, letters), one]) for text, one in zip(_TITLES, panels, strict=True)
    ]
    row = Image.new("RGB", (width, titled[0].height), _WHITE)
    for number, one in enumerate(titled):
        row.paste(one, (number * (one.width + gap), 0))
    labels = sorted({*_occurring(truth_HW), *_occurring(predicted_HW)})
    return _stack([row, _legend(labels, classes, width)])


def label_image(labels_HW: Tensor) -> Image.Image:
    """Return labels as an image of indices, whose palette has the colours of `draw_labels`.

    Args:
        labels_HW: uint8, shape ``(H, W)``.

    Returns:
        Mode ``P``; saved as PNG, its pixels are the labels.
    """
    colors = [class_color(label) for label in range(IGNORED_PIXEL)] + [_IGNORED_GREY]
    image = Image.fromarray(np.ascontiguousarray(labels_HW.cpu().numpy()))
    image.putpalette([part for color in colors for part in color])
    return image


def _scale(image_CHW: Tensor) -> int:
    """Return the whole factor that makes a small image readable."""
    return max(1, round(READABLE_SIDE / max(image_CHW.shape[1:])))


def _occurring(labels_HW: Tensor) -> list[int]:
    values: list[int] = labels_HW.unique().tolist()
    return values


def _plane(color: tuple[int, int, int]) -> Tensor:
    return torch.tensor(color, dtype=torch.uint8).view(3, 1, 1)


def _label_color(label: int, classes: Sequence[str]) -> tuple[int, int, int] | None:
    """Return the colour of a label, or None where the image keeps its own."""
    if label >= len(classes):
        return _IGNORED_GREY
    return None if label == 0 and classes[0] == BACKGROUND else class_color(label)


def _tinted(image_CHW: Tensor, labels_HW: Tensor, classes: Sequence[str]) -> Tensor:
    """Return the image with each class's colour mixed in, uint8, shape ``(3, H, W)``."""
    image, labels = image_CHW.cpu(), labels_HW.cpu()
    tinted, grey = image.clone(), image.to(torch.float32).mean(dim=0)  # its own colour would hide the class's
    for label in _occurring(labels):
        color = _label_color(label, classes)
        if color is not None:
            mixed = (1 - TINT) * grey + TINT * _plane(color)
            tinted = torch.where((labels == label).unsqueeze(0), mixed.round().to(torch.uint8), tinted)
    return tinted


def _enlarged(image_CHW: Tensor, scale: int, resampling: Image.Resampling) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(image_CHW.permute(1, 2, 0).cpu().numpy()))
    return (
        picture.resize((picture.width * scale, picture.height * scale), resampling) if scale > 1 else picture
    )


def _stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures below each other on white."""
    width, height = max(one.width for one in pictures), sum(one.height for one in pictures)
    stacked = Image.new("RGB", (width, height), _WHITE)
    top = 0
    for one in pictures:
        stacked.paste(one, (0, top))
        top += one.height
    return stacked


def _letters(width: int) -> int:
    """Return the height of letters for a picture of this width."""
    return min(28, max(14, width // 45))


def _title(text: str, width: int, letters: int) -> Image.Image:
    strip = Image.new("RGB", (width, letters + letters // 2), _WHITE)
    ImageDraw.Draw(strip).text((letters // 4, letters // 8), text, fill=_BLACK, font=_font(letters))
    return strip


def _legend(labels: Sequence[int], classes: Sequence[str], width: int) -> Image.Image:
    """Return the colour and the name of each label, in as many rows as they need."""
    letters = _letters(width)
    font, pad, line = _font(letters), letters // 2, letters + letters // 2
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    entries: list[tuple[int, int, int, str]] = []  # left, row, label, name
    left, row = pad, 0
    for label in labels:
        name = classes[label] if label < len(classes) else "ignored"
        extent = letters + pad + round(measure.textlength(name, font=font)) + 2 * pad
        if left > pad and left + extent > width:
            left, row = pad, row + 1
        entries.append((left, row, label, name))
        left += extent
    strip = Image.new("RGB", (width, (row + 1) * line + pad), _WHITE)
    draw = ImageDraw.Draw(strip)
    for left, row, label, name in entries:
        top = pad // 2 + row * line
        box = (left, top + letters // 8, left + letters - 1, top + letters // 8 + letters - 1)
        draw.rectangle(box, fill=_label_color(label, classes) or _WHITE, outline=_BLACK)
        draw.text((left + letters + pad, top), name, fill=_BLACK, font=font)
    return strip


@cache
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)
