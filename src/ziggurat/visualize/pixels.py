"""Pictures of pixels as they are; small ones are enlarged."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

READABLE_SIDE = 384  # pixels of a picture's longer side that letters and digits need


def enlargement(image_CHW: Tensor) -> int:
    """Return the whole factor that makes a small image readable."""
    return max(1, round(READABLE_SIDE / max(image_CHW.shape[1:])))


def reduction(width: int, height: int) -> float:
    """Return the factor, at most 1, that makes a picture fit into a place of a sheet; wide ones have two places.

    Example:
        >>> reduction(768, 192), reduction(768, 768), reduction(100, 50)
        (1.0, 0.5, 1.0)
    """
    places = 2 if width > 2 * height else 1
    return min(1.0, READABLE_SIDE / height, places * READABLE_SIDE / width)


def draw_pixels(
    image_CHW: Tensor, scale: float | None = None, resampling: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Return an image as a picture.

    Args:
        image_CHW: RGB, uint8, shape ``(3, H, W)``.
        scale: Pixels of the picture for one of the image along each dim; by default its `enlargement`.
        resampling: Where it is enlarged; what is made smaller is averaged.
    """
    factor = enlargement(image_CHW) if scale is None else scale
    picture = Image.fromarray(np.ascontiguousarray(image_CHW.permute(1, 2, 0).cpu().numpy()))
    if factor == 1:
        return picture
    width, height = (max(1, round(factor * length)) for length in picture.size)
    return picture.resize((width, height), resampling if factor > 1 else Image.Resampling.LANCZOS)
