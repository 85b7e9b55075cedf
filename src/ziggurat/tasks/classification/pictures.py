"""Pictures of classified images: the class and its probability in the corner."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from ziggurat.visualize.boxes import draw_caption


def draw_class(
    image_CHW: Tensor, probabilities_K: Tensor, classes: Sequence[str], true: int | None = None
) -> Image.Image:
    """Write the most probable class, its probability, and the true class where it is another.

    Args:
        image_CHW: uint8, shape ``(3, H, W)``.
        probabilities_K: Of each class.
        classes: The name of each label.
        true: The right label; None where it is not known.
    """
    best = int(probabilities_K.argmax())
    text = f"{classes[best]} {float(probabilities_K[best]):.2f}"
    if true is not None and best != true:
        text += f" (true: {classes[true]})"
    return draw_caption(image_CHW, text, best)
