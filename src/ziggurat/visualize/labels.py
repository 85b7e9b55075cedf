"""Pictures of labels: each pixel of the image tinted in the colour of its class, with a legend.

Small images are enlarged before anything is drawn, labels by repetition, so that each of their pixels can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ziggurat.data.batch import IGNORED_PIXEL
from ziggurat.visualize.colors import BLACK, WHITE, Color, class_color
from ziggurat.visualize.legend import draw_legend, font_of, legend_letters, stack
from ziggurat.visualize.pixels import draw_pixels, enlargement

TINT = 0.6  # share of the class's colour in a pixel
BACKGROUND = "background"  # a first class of this name is not tinted
_IGNORED_GREY, _WRONG, _RIGHT = (128, 128, 128), (230, 30, 30), (235, 235, 235)
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
    scale = enlargement(image_CHW)
    picture = draw_pixels(_tinted(image_CHW, labels_HW, classes), scale, Image.Resampling.NEAREST)
    return stack([picture, _legend(_occurring(labels_HW), classes, picture.width)])


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
    scale, gap = enlargement(image_CHW), 4
    errors = torch.where((predicted_HW == truth_HW).unsqueeze(0), _plane(_RIGHT), _plane(_WRONG))
    errors = torch.where((truth_HW == IGNORED_PIXEL).unsqueeze(0), _plane(_IGNORED_GREY), errors)
    panels = [
        draw_pixels(image_CHW, scale, Image.Resampling.BICUBIC),
        draw_pixels(_tinted(image_CHW, truth_HW, classes), scale, Image.Resampling.NEAREST),
        draw_pixels(_tinted(image_CHW, predicted_HW, classes), scale, Image.Resampling.NEAREST),
        draw_pixels(errors, scale, Image.Resampling.NEAREST),
    ]
    width = sum(one.width for one in panels) + gap * (len(panels) - 1)
    letters = legend_letters(width)  # of the whole row: those of the legend
    titled = [
        stack([_title(text, one.width, letters), one]) for text, one in zip(_TITLES, panels, strict=True)
    ]
    row = Image.new("RGB", (width, titled[0].height), WHITE)
    for number, one in enumerate(titled):
        row.paste(one, (number * (one.width + gap), 0))
    labels = sorted({*_occurring(truth_HW), *_occurring(predicted_HW)})
    return stack([row, _legend(labels, classes, width)])


def label_palette() -> list[Color]:
    """Return the colour of each of 256 labels, that of `IGNORED_PIXEL` is grey: those of `draw_labels`."""
    return [class_color(label) for label in range(IGNORED_PIXEL)] + [_IGNORED_GREY]


def _occurring(labels_HW: Tensor) -> list[int]:
    values: list[int] = labels_HW.unique().tolist()
    return values


def _plane(color: Color) -> Tensor:
    return torch.tensor(color, dtype=torch.uint8).view(3, 1, 1)


def _label_color(label: int, classes: Sequence[str]) -> Color | None:
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


def _title(text: str, width: int, letters: int) -> Image.Image:
    strip = Image.new("RGB", (width, letters + letters // 2), WHITE)
    ImageDraw.Draw(strip).text((letters // 4, letters // 8), text, fill=BLACK, font=font_of(letters))
    return strip


def _legend(labels: Sequence[int], classes: Sequence[str], width: int) -> Image.Image:
    """Return the legend of the classes that occur."""
    return draw_legend(
        [
            (_label_color(label, classes), classes[label] if label < len(classes) else "ignored")
            for label in labels
        ],
        width,
    )
