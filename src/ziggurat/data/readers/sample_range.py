"""From the samples of a file to 8 bits, by a rule of the data set and never by what one image holds.

====================  =============================================================================
8 bits or less        as they are
12 and 16 bits        the largest that they can hold becomes 255; between LOW and HIGH where ``data.range`` is given
32 bits, signed, and  between LOW and HIGH of ``data.range``, below and above are 0 and 255, NaN is 0;
floating point        refused where it is not given
====================  =============================================================================

Stretching each image by its own darkest and brightest pixel, as many viewers do, would give two images of one survey
different brightness, and one with a hot pixel none at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ziggurat.errors import UserError

NO_RANGE = (
    "which have no natural range: say which of them are black and white for the whole data set, such as --set "
    "data.range=0,4095 ('gdalinfo -mm' or ImageMagick's 'identify -verbose' show what occurs)"
)


@dataclass(frozen=True)
class SampleRange:
    """The samples that become 0 and 255.

    Attributes:
        low: Becomes 0, as does all below.
        high: Becomes 255, as does all above; larger than `low`.
    """

    low: float
    high: float

    def eight_bits(self, values: np.ndarray) -> np.ndarray:
        """Return samples as uint8, shape unchanged; NaN becomes 0.

        Example:
            >>> SampleRange(-1, 1).eight_bits(np.array([-2.0, 0.5, 1.0, np.nan])).tolist()
            [0, 191, 255, 0]
        """
        shares = (values.astype(np.float64) - self.low) / (self.high - self.low)
        shares = np.nan_to_num(shares, nan=0.0, posinf=1.0, neginf=0.0)
        pixels: np.ndarray = np.rint(shares.clip(0, 1) * 255).astype(np.uint8)
        return pixels


def read_range(text: str) -> SampleRange | None:
    """Read the setting ``data.range``; None where it is empty.

    Raises:
        UserError: If it is not two finite numbers, the first of them smaller.

    Example:
        >>> read_range("0, 4095"), read_range("")
        (SampleRange(low=0.0, high=4095.0), None)
    """
    if not text.strip():
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = np.nan, np.nan
    if not (np.isfinite([low, high]).all() and low < high):
        raise UserError(
            f"data.range must be two numbers with a comma between, the first smaller, such as 0,4095: got {text}"
        )
    return SampleRange(low, high)


def is_deep(image: Image.Image) -> bool:
    """Whether an opened image has samples of more than 8 bits (Pillow has such images in one channel only)."""
    return image.mode.startswith(("I", "F"))


def check_range(path: Path, image: Image.Image, samples: SampleRange | None) -> None:
    """Refuse an opened image whose samples have no natural range.

    Raises:
        UserError: If they have none, and `samples` is None.
    """
    if samples is None and is_deep(image) and not _is_natural(image):
        kind = "floating-point samples" if image.mode == "F" else "samples of 32 bits, or signed ones"
        raise UserError(f"the image {path} has {kind}, {NO_RANGE}")


def eight_bits(values: np.ndarray, samples: SampleRange | None, top: int = 65535) -> np.ndarray:
    """Return deep samples that `check_range` has let pass as uint8, shape unchanged; `top` is the largest natural one."""
    if samples is not None:
        return samples.eight_bits(values)
    return np.rint(values.astype(np.float32) * 255 / top).astype(np.uint8)


def _is_natural(image: Image.Image) -> bool:
    """Whether samples lie in 0..65535: 16 bits, or a PGM of more than 8, which Pillow scales to 16 and holds in 32."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
