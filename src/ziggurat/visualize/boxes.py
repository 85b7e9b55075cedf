"""Pictures of what was found: boxes on the image, in a colour for each class.

Lines and letters are scaled to the image and to its objects; small images are enlarged before anything is drawn, so
that letters stay sharp.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ziggurat.data.batch import Objects
from ziggurat.data.detections import PICTURE_SCORE, Detections

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]

READABLE_SIDE = 384  # pixels of a picture's longer side that letters and digits need
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_SMALLEST_LETTERS = 10  # pixels


def draw_detections(
    image_CHW: Tensor, detections: Detections, classes: Sequence[str], min_score: float = PICTURE_SCORE
) -> Image.Image:
    """Draw what was found.

    Args:
        image_CHW: RGB, uint8, shape ``(3, H, W)``.
        detections: In pixels of the image, the best first.
        classes: The name of each label; if there is one only, it is not written.
        min_score: Detections with a lower score are not drawn.

    Returns:
        The picture: of the image's size, or, of a small image, a whole multiple of it.
    """
    return _draw(image_CHW, detections, None, classes, min_score)


def draw_comparison(
    image_CHW: Tensor,
    detections: Detections,
    objects: Objects,
    classes: Sequence[str],
    min_score: float = PICTURE_SCORE,
) -> Image.Image:
    """Draw what was found, and what is there as thin white lines upon it.

    Args:
        image_CHW: RGB, uint8, shape ``(3, H, W)``.
        detections: In pixels of the image, the best first.
        objects: The ground truth, in pixels of the image.
        classes: The name of each label.
        min_score: Detections with a lower score are not drawn.

    Returns:
        The picture, as `draw_detections`.
    """
    return _draw(image_CHW, detections, objects, classes, min_score)


def draw_caption(image_CHW: Tensor, text: str, label: int) -> Image.Image:
    """Write what an image is into its upper left corner.

    Args:
        image_CHW: RGB, uint8, shape ``(3, H, W)``.
        text: What is written.
        label: Says the colour.

    Returns:
        The picture, as `draw_detections`.
    """
    canvas = _Canvas.of(image_CHW, [])
    canvas.write((0, 0, 0, 0), text, class_color(label))
    return canvas.picture


def contact_sheet(pictures: Sequence[Image.Image], columns: int, gap: int = 8) -> Image.Image:
    """Put pictures into a grid on white, row by row; each lies in the middle of its place.

    Args:
        pictures: One at least; their sizes may differ.
        columns: Pictures in a row.
        gap: Pixels between them, and around.

    Raises:
        ValueError: If there is no picture or no column.
    """
    if not pictures or columns < 1:
        raise ValueError(f"pictures and columns are needed: got {len(pictures)} and {columns}")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    width = max(picture.width for picture in pictures)
    height = max(picture.height for picture in pictures)
    sheet = Image.new("RGB", (gap + columns * (width + gap), gap + rows * (height + gap)), _WHITE)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        left = gap + column * (width + gap) + (width - picture.width) // 2
        top = gap + row * (height + gap) + (height - picture.height) // 2
        sheet.paste(picture, (left, top))
    return sheet


def class_color(label: int) -> Color:
    """Return a colour that differs well from those of the labels around: hues a golden angle apart."""
    lightness = (0.5, 0.62, 0.4)[label // 10 % 3]
    red, green, blue = colorsys.hls_to_rgb((0.6 + label * 0.381966) % 1, lightness, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw(
    image_CHW: Tensor,
    detections: Detections,
    objects: Objects | None,
    classes: Sequence[str],
    min_score: float,
) -> Image.Image:
    """Draw boxes, the best on top, then the ground truth, then what is written about the boxes."""
    columns = (detections.boxes_xyxy.tolist(), detections.scores.tolist(), detections.labels.tolist())
    shown = [row for row in zip(*columns, strict=True) if row[1] >= min_score][::-1]
    canvas = _Canvas.of(image_CHW, [box for box, _, _ in shown])
    for box, _, label in shown:
        canvas.box(box, class_color(label))
    for box in objects.boxes_xyxy.tolist() if objects is not None else []:
        canvas.thin_box(box)
    for box, score, label in shown:
        name = f"{classes[label]} " if len(classes) > 1 else ""
        canvas.write(box, f"{name}{score:.2f}", class_color(label))
    return canvas.picture


@dataclass(frozen=True)
class _Canvas:
    """A picture in the making.

    Attributes:
        picture: What is drawn on.
        scale: Pixels of the picture for one of the image.
        line: Width of a box's line, in pixels of the picture.
        letters: Height of the letters.
    """

    picture: Image.Image
    scale: int
    line: int
    letters: int

    @classmethod
    def of(cls, image_CHW: Tensor, boxes: Sequence[Sequence[float]]) -> _Canvas:
        """Start with the image, enlarged if it is small."""
        height, width = image_CHW.shape[1:]
        scale = max(1, round(READABLE_SIDE / max(height, width)))
        picture = Image.fromarray(np.ascontiguousarray(image_CHW.permute(1, 2, 0).cpu().numpy()))
        if scale > 1:
            picture = picture.resize((width * scale, height * scale), Image.Resampling.BICUBIC)
        side = scale * max(height, width)
        line = max(2, round(side / 500))
        # Letters of a third of the common object, so that those of a dense scene do not hide it.
        common = scale * median(min(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes) if boxes else side
        letters = round(min(max(common / 3, _SMALLEST_LETTERS), max(14, side / 45)))
        return cls(picture, scale, line, letters)

    def box(self, box: Sequence[float], color: Color) -> None:
        """Draw a box."""
        self._rectangle(box, color, self.line)

    def thin_box(self, box: Sequence[float]) -> None:
        """Draw a white line of half the width, on a black one so that it is seen on snow."""
        thin = max(1, self.line // 2)
        self._rectangle(box, _BLACK, thin + 1)
        self._rectangle(box, _WHITE, thin)

    def _rectangle(self, box: Sequence[float], color: Color, line: int) -> None:
        ImageDraw.Draw(self.picture).rectangle(self._corners(box), outline=color, width=line)

    def write(self, box: Sequence[float], text: str, color: Color) -> None:
        """Write upon the box's upper edge, moved inwards where the picture ends."""
        draw = ImageDraw.Draw(self.picture)
        font = _font(self.letters)
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        pad = max(1, self.letters // 8)
        width, height = right - left + 2 * pad, bottom - top + 2 * pad
        x, y, _, _ = self._corners(box)
        y = y - height if y >= height else y
        x, y = max(0, min(x, self.picture.width - width)), max(0, min(y, self.picture.height - height))
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
        ink = _BLACK if _brightness(color) > 140 else _WHITE
        draw.text((x + pad - left, y + pad - top), text, fill=ink, font=font)

    def _corners(self, box: Sequence[float]) -> Box:
        """Return the corners in pixels of the picture, at least one pixel apart, inside of it."""
        x1, y1, x2, y2 = (round(self.scale * value) for value in box)
        x1 = max(0, min(x1, self.picture.width - 1))
        y1 = max(0, min(y1, self.picture.height - 1))
        return x1, y1, max(x1, min(x2, self.picture.width) - 1), max(y1, min(y2, self.picture.height) - 1)


def _brightness(color: Color) -> float:
    red, green, blue = color
    return 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601


@cache
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)
