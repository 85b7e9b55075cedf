"""Handwritten digits, drawn smoothly at any height."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from ziggurat.errors import UserError

_MARGIN = 2  # empty pixels around the 8 x 8 of a digit, so that its edges fade out
_FINE = 8  # how many times finer the outline is than the pixels
_INK = 0.45  # where a digit's edge is, as a share of the darkest ink
_SLOPE = 0.6  # how much of the darkest ink an edge rises within one pixel of 8 x 8


@dataclass(frozen=True)
class Glyph:
    """A drawn digit, cut out tightly.

    Attributes:
        alpha: Share of ink in each pixel, float32, in [0, 1], shape ``(height, width)``.
        ink: Pixels with at least half ink, uint8, 0 or 1; the outermost rows and columns hold some.
    """

    alpha: np.ndarray
    ink: np.ndarray

    @property
    def height(self) -> int:
        """Rows."""
        return len(self.alpha)

    @property
    def width(self) -> int:
        """Columns."""
        return len(self.alpha[0])


@dataclass(frozen=True)
class DigitPixels:
    """scikit-learn's handwritten digits.

    Attributes:
        images: The ink of each digit, in [0, 1], with a margin.
        outlines: Points on the edge of each digit's ink, in pixels from its middle (x, y), shape ``(P, 2)``.
        labels: Which digit it is, shape ``(1797,)``.
    """

    images: list[Image.Image]
    outlines: list[np.ndarray]
    labels: np.ndarray


def scikit_learn_file(name: str) -> Path:
    """Return a file that ``sklearn.datasets`` ships.

    The file is found without importing scikit-learn, which takes a second, loads an OpenMP library of its own, and
    changes the environment of this process and its children.
    """
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the embedded data set needs scikit-learn: pip install scikit-learn")
    return Path(spec.submodule_search_locations[0]) / "datasets" / name


@cache
def digit_pixels() -> DigitPixels:
    """Read the digits; once in a process."""
    # each line: the ink of 8 x 8 pixels, 0 to 16, then which digit it is
    table = np.loadtxt(scikit_learn_file("data/digits.csv.gz"), delimiter=",")
    digits = table[:, :-1].reshape(-1, 8, 8) / 16
    padded = np.pad(digits, [(0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)])
    images = [Image.fromarray(digit) for digit in padded.astype(np.float32)]
    return DigitPixels(images, [_outline(image) for image in images], table[:, -1].astype(np.int64))


def _outline(image: Image.Image) -> np.ndarray:
    side = image.width * _FINE
    ink = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) >= _INK
    rows = np.flatnonzero(ink.any(axis=1))
    first, last = ink[rows].argmax(axis=1), side - ink[rows, ::-1].argmax(axis=1)
    corners = [np.stack([x, y], axis=1) for x in (first, last) for y in (rows, rows + 1)]
    return (np.concatenate(corners) - side / 2) / _FINE


def make_glyph(number: int, height: float, angle: float, shear: float) -> Glyph:
    """Draw a digit.

    Args:
        number: Which of the 1797.
        height: Rows of its ink, up to rounding.
        angle: Turn against the clock, in radians.
        shear: Shift of the upper part to the right, for each row.
    """
    pixels = digit_pixels()
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    matrix = turn @ np.array([[1.0, -shear], [0.0, 1.0]])
    points = pixels.outlines[number] @ matrix.T
    low, high = points.min(axis=0), points.max(axis=0)
    scale = height / (high[1] - low[1])
    columns, rows = (np.ceil((high - low) * scale).astype(int) + 4).tolist()
    # from the middle of the drawing back to the digit's own pixels
    back = np.linalg.inv(matrix) / scale
    middle = back @ (-np.array([columns, rows]) / 2)
    middle += np.linalg.inv(matrix) @ ((low + high) / 2) + pixels.images[number].width / 2
    affine = (back[0, 0], back[0, 1], middle[0], back[1, 0], back[1, 1], middle[1])
    drawn = pixels.images[number].transform(
        (columns, rows), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC
    )
    # an edge as wide as a pixel of the drawing, whatever the scale
    edge = min(0.6, 1.2 * _SLOPE / scale)
    alpha = np.clip((np.asarray(drawn) - _INK) / edge + 0.5, 0, 1)
    ink = alpha >= 0.5
    inked_rows, inked_columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    tight = np.ix_(
        np.arange(inked_rows[0], inked_rows[-1] + 1), np.arange(inked_columns[0], inked_columns[-1] + 1)
    )
    return Glyph(alpha[tight].astype(np.float32), ink[tight].astype(np.uint8))
