"""Pictures of what was found: boxes on the image, in a colour for each class.

Lines and letters are scaled to the objects as well as to the image: a line takes a twentieth of the common object, so that crowns
of 30 pixels in a panorama are not painted over, and where objects stand so close that what is written about one would
hide another, nothing is written, and a legend below tells the colours. Small images are enlarged before anything is
drawn, so that letters stay sharp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from PIL import Image, ImageDraw
from torch import Tensor

from ziggurat.data.batch import Objects
from ziggurat.data.detections import PICTURE_SCORE, Detections
from ziggurat.visualize.colors import BLACK, WHITE, Color, class_color, ink_on
from ziggurat.visualize.crowding import is_crowded
from ziggurat.visualize.legend import draw_legend, font_of, stack
from ziggurat.visualize.pixels import draw_pixels, enlargement

Box = tuple[float, float, float, float]

_SMALLEST_LETTERS = 10  # pixels
_LINES_OF_AN_OBJECT = 20  # that would fill it


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
        The picture: of the image's size, or, of a small image, a whole multiple of it; below it a legend where several
        classes are too crowded to be named at their boxes.
    """
    return _draw(image_CHW, detections, None, classes, min_score)


def draw_comparison(
    image_CHW: Tensor,
    detections: Detections,
    objects: Objects,
    classes: Sequence[str],
    min_score: float = PICTURE_SCORE,
    scale: float | None = None,
) -> Image.Image:
    """Draw what was found, and what is there as thin white lines upon it.

    Args:
        image_CHW: RGB, uint8, shape ``(3, H, W)``.
        detections: In pixels of the image, the best first.
        objects: The ground truth, in pixels of the image.
        classes: The name of each label.
        min_score: Detections with a lower score are not drawn.
        scale: Pixels of the picture for one of the image: it is made smaller before anything is drawn; by default as
            `draw_detections` does it.

    Returns:
        The picture.
    """
    return _draw(image_CHW, detections, objects, classes, min_score, scale)


def draw_objects(image_CHW: Tensor, objects: Objects, classes: Sequence[str]) -> Image.Image:
    """Draw what is annotated, in the colour of its class, with its name if there are several.

    Args:
        image_CHW: RGB, uint8, shape ``(3, H, W)``.
        objects: In pixels of the image.
        classes: The name of each label.

    Returns:
        The picture, as `draw_detections`.
    """
    marks = [
        _Mark(box, label, classes[label] if len(classes) > 1 else "")
        for box, label in zip(objects.boxes_xyxy.tolist(), objects.labels.tolist(), strict=True)
    ]
    return _draw_marks(image_CHW, marks, [], classes)


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
    sheet = Image.new("RGB", (gap + columns * (width + gap), gap + rows * (height + gap)), WHITE)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        left = gap + column * (width + gap) + (width - picture.width) // 2
        top = gap + row * (height + gap) + (height - picture.height) // 2
        sheet.paste(picture, (left, top))
    return sheet


@dataclass(frozen=True)
class _Mark:
    """A box that is drawn.

    Attributes:
        box: Its corners, in pixels of the image.
        label: Says the colour.
        text: What is written about it; may be empty.
    """

    box: Sequence[float]
    label: int
    text: str


def _draw(
    image_CHW: Tensor,
    detections: Detections,
    objects: Objects | None,
    classes: Sequence[str],
    min_score: float,
    scale: float | None = None,
) -> Image.Image:
    """Draw boxes, the best on top, then the ground truth, then what is written about the boxes."""
    columns = (detections.boxes_xyxy.tolist(), detections.scores.tolist(), detections.labels.tolist())
    marks = [
        _Mark(box, label, f"{classes[label]} {score:.2f}" if len(classes) > 1 else f"{score:.2f}")
        for box, score, label in zip(*columns, strict=True)
        if score >= min_score
    ]
    thin = objects.boxes_xyxy.tolist() if objects is not None else []
    return _draw_marks(image_CHW, marks[::-1], thin, classes, scale)


def _draw_marks(
    image_CHW: Tensor,
    marks: Sequence[_Mark],
    thin: Sequence[Sequence[float]],
    classes: Sequence[str],
    scale: float | None = None,
) -> Image.Image:
    """Draw marks in the colours of their classes, and thin boxes upon them."""
    canvas = _Canvas.of(image_CHW, [mark.box for mark in marks] or thin, scale)
    under = canvas.line == 1  # no line is thinner: upon the boxes it would hide them
    for box in thin if under else ():
        canvas.thin_box(box)
    for mark in marks:
        canvas.box(mark.box, class_color(mark.label))
    for box in () if under else thin:
        canvas.thin_box(box)
    if not is_crowded(
        [mark.box for mark in marks], [canvas.label_box(mark.box, mark.text) for mark in marks]
    ):
        for mark in marks:
            if mark.text:
                canvas.write(mark.box, mark.text, class_color(mark.label))
        return canvas.picture
    labels = sorted({mark.label for mark in marks})
    if len(classes) == 1:
        return canvas.picture
    entries = [(class_color(label), classes[label]) for label in labels]
    return stack([canvas.picture, draw_legend(entries, canvas.picture.width)])


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
    scale: float
    line: int
    letters: int

    @classmethod
    def of(cls, image_CHW: Tensor, boxes: Sequence[Sequence[float]], scale: float | None = None) -> _Canvas:
        """Start with the image, enlarged if it is small."""
        height, width = image_CHW.shape[1:]
        scale = enlargement(image_CHW) if scale is None else scale
        picture = draw_pixels(image_CHW, scale)
        side = scale * max(height, width)
        common = scale * median(min(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes) if boxes else side
        line = max(1, min(round(common / _LINES_OF_AN_OBJECT), max(2, round(side / 500))))
        # Letters of a third of the common object, so that those of a dense scene do not hide it.
        letters = round(min(max(common / 3, _SMALLEST_LETTERS), max(14, side / 45)))
        return cls(picture, scale, line, letters)

    def box(self, box: Sequence[float], color: Color) -> None:
        """Draw a box."""
        self._rectangle(box, color, self.line)

    def thin_box(self, box: Sequence[float]) -> None:
        """Draw a white line of half the width, on a black one so that it is seen on snow."""
        thin = max(1, self.line // 2)
        self._rectangle(box, BLACK, thin + 1)
        self._rectangle(box, WHITE, thin)

    def _rectangle(self, box: Sequence[float], color: Color, line: int) -> None:
        ImageDraw.Draw(self.picture).rectangle(self._corners(box), outline=color, width=line)

    def label_box(self, box: Sequence[float], text: str) -> Box:
        """Return where a text about a box would lie, in pixels of the image; nowhere without a text."""
        if not text:
            return (0.0, 0.0, 0.0, 0.0)
        x, y, width, height = self._place(box, text)
        return x / self.scale, y / self.scale, (x + width) / self.scale, (y + height) / self.scale

    def write(self, box: Sequence[float], text: str, color: Color) -> None:
        """Write upon the box's upper edge, moved inwards where the picture ends."""
        draw = ImageDraw.Draw(self.picture)
        left, top, _, _ = font_of(self.letters).getbbox(text)
        x, y, width, height = self._place(box, text)
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
        place = (x + self._pad - left, y + self._pad - top)
        draw.text(place, text, fill=ink_on(color), font=font_of(self.letters))

    @property
    def _pad(self) -> int:
        return max(1, self.letters // 8)

    def _place(self, box: Sequence[float], text: str) -> tuple[int, int, int, int]:
        """Return left, top, width and height of a text about a box, in pixels of the picture."""
        left, top, right, bottom = map(round, font_of(self.letters).getbbox(text))
        width, height = right - left + 2 * self._pad, bottom - top + 2 * self._pad
        x, y, _, _ = self._corners(box)
        y = y - height if y >= height else y
        return (
            max(0, min(x, self.picture.width - width)),
            max(0, min(y, self.picture.height - height)),
            width,
            height,
        )

    def _corners(self, box: Sequence[float]) -> tuple[int, int, int, int]:
        """Return the corners in pixels of the picture, at least one pixel apart, inside of it."""
        x1, y1, x2, y2 = (round(self.scale * value) for value in box)
        x1 = max(0, min(x1, self.picture.width - 1))
        y1 = max(0, min(y1, self.picture.height - 1))
        return x1, y1, max(x1, min(x2, self.picture.width) - 1), max(y1, min(y2, self.picture.height) - 1)
