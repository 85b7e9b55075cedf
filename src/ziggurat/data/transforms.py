"""Training augmentation: a random window of an image at a random scale, mirrored, turned, recoloured.

Only the window's pixels are read and resized, never the whole of a large image. Every function takes what was drawn
as numbers and is pure; `draw_augmentation` draws them, from the generator that belongs to the sample.

Shapes: ``H`` and ``W`` rows and columns of the source image, ``N`` objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from ziggurat.config import DataConfig
from ziggurat.data.batch import IGNORED_PIXEL, Objects


@dataclass(frozen=True)
class Window:
    """Where a crop takes its pixels from, and where it puts them.

    Attributes:
        top: First row in the source image.
        left: First column in the source image.
        height: Rows in the source image.
        width: Columns in the source image.
        out_height: Rows that they become.
        out_width: Columns that they become.
        out_top: First row in the crop; the rows around are zero.
        out_left: First column in the crop.
    """

    top: int
    left: int
    height: int
    width: int
    out_height: int
    out_width: int
    out_top: int
    out_left: int


@dataclass(frozen=True)
class Augmentation:
    """Everything that is random about one sample.

    Attributes:
        window: What is cropped.
        mirror: Whether columns are reversed.
        upside_down: Whether rows are reversed.
        quarter_turns: Turns by 90 degrees against the clock.
        brightness: Factor of the brightness.
        contrast: Factor of the contrast.
        saturation: Factor of the saturation.
    """

    window: Window
    mirror: bool
    upside_down: bool
    quarter_turns: int
    brightness: float
    contrast: float
    saturation: float


def resize_factor(height: int, width: int, resize: int, resize_limit: int) -> float:
    """Return the factor that makes the shorter side `resize` and the longer at most `resize_limit` pixels.

    Example:
        >>> resize_factor(400, 1000, resize=800, resize_limit=1500)
        1.5
        >>> resize_factor(400, 1000, resize=0, resize_limit=1500)
        1.0
    """
    if not resize:
        return 1.0
    return min(resize / min(height, width), resize_limit / max(height, width))


def draw_augmentation(
    generator: np.random.Generator, height: int, width: int, config: DataConfig
) -> Augmentation:
    """Draw what happens to one sample.

    All numbers are drawn whatever the settings are, so that changing one setting leaves the other choices alone.

    Args:
        generator: The sample's own.
        height: Rows of the image.
        width: Columns of the image.
        config: Says what may happen.
    """
    scale, row, column, mirror, flip, turn, *colors = generator.random(9).tolist()
    jitter = config.scale_min * (config.scale_max / config.scale_min) ** scale
    factor = jitter * resize_factor(height, width, config.resize, config.resize_limit)
    top, rows, out_top, out_rows = _interval(height, config.crop, factor, row)
    left, columns, out_left, out_columns = _interval(width, config.crop, factor, column)
    brightness, contrast, saturation = (1 + config.color_jitter * (2 * value - 1) for value in colors)
    return Augmentation(
        Window(top, left, rows, columns, out_rows, out_columns, out_top, out_left),
        mirror=config.flip != "none" and mirror < 0.5,
        upside_down=config.flip == "both" and flip < 0.5,
        quarter_turns=int(4 * turn) if config.quarter_turns else 0,
        brightness=max(brightness, 0.0),
        contrast=max(contrast, 0.0),
        saturation=max(saturation, 0.0),
    )


def _interval(extent: int, crop: int, factor: float, place: float) -> tuple[int, int, int, int]:
    """Place a crop along one side.

    Args:
        extent: Pixels of the source image.
        crop: Pixels of the crop.
        factor: Pixels of the crop for one of the source.
        place: In ``[0, 1)``; every place is as likely.

    Returns:
        Start and length in the source, start and length in the crop.
    """
    if extent * factor <= crop:
        out_length = max(1, round(extent * factor))
        return 0, extent, int(place * (crop - out_length + 1)), out_length
    length = min(extent, max(1, round(crop / factor)))
    return int(place * (extent - length + 1)), length, 0, crop


def augment_image(image_CHW: Tensor, augmentation: Augmentation, crop: int) -> Tensor:
    """Return the crop of an image.

    Args:
        image_CHW: uint8, shape ``(3, H, W)``; not written to.
        augmentation: What happens to it.
        crop: Rows and columns of the result.

    Returns:
        uint8, shape ``(3, crop, crop)``, a tensor of its own; zero where the image does not reach.
    """
    window = augmentation.window
    pixels = image_CHW[:, window.top : window.top + window.height, window.left : window.left + window.width]
    if (window.height, window.width) != (window.out_height, window.out_width):
        # antialias only acts where the image gets smaller
        pixels = functional.resize(pixels, [window.out_height, window.out_width], antialias=True)
    pixels = recolor(pixels, augmentation)
    canvas = image_CHW.new_zeros((3, crop, crop))
    rows = slice(window.out_top, window.out_top + window.out_height)
    columns = slice(window.out_left, window.out_left + window.out_width)
    canvas[:, rows, columns] = pixels
    return turn(canvas, augmentation)


def augment_mask(mask_HW: Tensor, augmentation: Augmentation, crop: int) -> Tensor:
    """Return the crop of a mask, moved as `augment_image` moves the image; each pixel takes its nearest.

    Args:
        mask_HW: The label of each pixel, uint8, shape ``(H, W)``; not written to.
        augmentation: What happens to the image.
        crop: Rows and columns of the result.

    Returns:
        uint8, shape ``(crop, crop)``; `IGNORED_PIXEL` where the image does not reach.
    """
    window = augmentation.window
    labels = mask_HW[window.top : window.top + window.height, window.left : window.left + window.width]
    size = [window.out_height, window.out_width]
    resized = functional.resize(labels[None], size, InterpolationMode.NEAREST_EXACT)
    canvas = mask_HW.new_full((1, crop, crop), IGNORED_PIXEL)
    rows = slice(window.out_top, window.out_top + window.out_height)
    columns = slice(window.out_left, window.out_left + window.out_width)
    canvas[:, rows, columns] = resized
    return turn(canvas, augmentation)[0]


def turn(canvas_CHW: Tensor, augmentation: Augmentation) -> Tensor:
    """Mirror and turn a crop, or a part of one."""
    if augmentation.mirror:
        canvas_CHW = canvas_CHW.flip(2)
    if augmentation.upside_down:
        canvas_CHW = canvas_CHW.flip(1)
    return torch.rot90(canvas_CHW, augmentation.quarter_turns, dims=(1, 2)).contiguous()


def recolor(pixels_CHW: Tensor, augmentation: Augmentation) -> Tensor:
    """Change brightness, contrast and saturation."""
    if augmentation.brightness != 1:
        pixels_CHW = functional.adjust_brightness(pixels_CHW, augmentation.brightness)
    if augmentation.contrast != 1:
        # torchvision's own takes the mean in floating point, whose last bit depends on the number of threads
        grey = functional.rgb_to_grayscale(pixels_CHW)
        mean = int(grey.sum(dtype=torch.int64)) / grey.numel()
        shift = mean * (1 - augmentation.contrast)
        pixels_CHW = (pixels_CHW * augmentation.contrast + shift).clamp_(0, 255).to(torch.uint8)
    if augmentation.saturation != 1:
        pixels_CHW = functional.adjust_saturation(pixels_CHW, augmentation.saturation)
    return pixels_CHW


def augment_objects(objects: Objects, augmentation: Augmentation, crop: int, min_visible: float) -> Objects:
    """Return the objects of a crop, in its pixels.

    Args:
        objects: In pixels of the source image.
        augmentation: What happens to the image.
        crop: Rows and columns of the crop.
        min_visible: Objects that keep less than this share of their box's area are left out, as are those that
            keep nothing.

    Returns:
        Boxes clipped to the crop, of positive area.
    """
    window = augmentation.window
    scale_x, scale_y = window.out_width / window.width, window.out_height / window.height
    scale = torch.tensor([scale_x, scale_y, scale_x, scale_y])
    shift = torch.tensor([window.left, window.top, window.left, window.top])
    place = torch.tensor([window.out_left, window.out_top, window.out_left, window.out_top])
    whole = (objects.boxes_xyxy - shift) * scale + place
    low = torch.tensor([window.out_left, window.out_top] * 2)
    high = low + torch.tensor([window.out_width, window.out_height] * 2)
    boxes = torch.minimum(torch.maximum(whole, low), high)
    visible = _area(boxes)
    keep = (visible > 0) & (visible >= min_visible * _area(whole))
    return Objects(_turn_boxes(boxes[keep], augmentation, crop), objects.labels[keep])


def _area(boxes_xyxy: Tensor) -> Tensor:
    return (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])


def _turn_boxes(boxes_xyxy: Tensor, augmentation: Augmentation, crop: int) -> Tensor:
    """Mirror and turn boxes in a square crop; the same moves as in `turn`."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(1)
    if augmentation.mirror:
        x1, x2 = crop - x2, crop - x1
    if augmentation.upside_down:
        y1, y2 = crop - y2, crop - y1
    for _ in range(augmentation.quarter_turns):
        # against the clock: what was right is on top, (x, y) goes to (y, crop - x)
        x1, y1, x2, y2 = y1, crop - x2, y2, crop - x1
    return torch.stack([x1, y1, x2, y2], dim=1)
