"""Training augmentation: a random window of an image at a random scale, mirrored, turned, recoloured.

Only the window's pixels are read and resized, never the whole of a large image. Every function takes what was drawn
as numbers and is pure; `draw_augmentation` draws them, from the generator that belongs to the sample.

Shapes: ``H`` and ``W`` rows and columns of the source image, ``N`` objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from ziggurat.config import DataConfig, read_numbers
from ziggurat.data.batch import IGNORED_PIXEL, Objects
from ziggurat.data.extents import Extent, Region


@dataclass(frozen=True)
class Window:
    """Where a crop takes its pixels from, and where it puts them.

    Attributes:
        source: In the source image.
        target: In the crop, whose pixels around it are zero; of another size where the pixels are resized.
    """

    source: Region
    target: Region


@dataclass(frozen=True)
class Focus:
    """What a crop is placed around, instead of anywhere.

    Attributes:
        region: In pixels of the source image.
        places: In ``[0, 1)``, for each dim: every place that holds the region is as likely.
    """

    region: Region
    places: tuple[float, ...]


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
        canvas: Rows and columns of the crop, where it is not square.
        spread: Mean and deviation of each band, of images whose samples are of their own type: colours are changed in these units.
    """

    window: Window
    mirror: bool
    upside_down: bool
    quarter_turns: int
    brightness: float
    contrast: float
    saturation: float
    spread: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    canvas: Extent | None = None

    def extent_of(self, crop: int) -> Extent:
        """Return rows and columns of a crop that would have `crop` of each if it was square."""
        return (crop,) * len(self.window.target.size) if self.canvas is None else self.canvas


def resize_factors(
    extent: Extent, config: DataConfig, spacing: Sequence[float] | None = None
) -> tuple[float, ...]:
    """Return by how much each dim of an image is resized, before jitter.

    Args:
        extent: Of the image.
        config: With ``resize`` the shortest side becomes that long, and the longest as long as its limit at most; with ``gsd`` or ``mpp``
            a pixel comes to span as much.
        spacing: Distance of the image's own rows and columns, in the unit of the one that is set; None of an image that is taken as it is.

    Example:
        >>> resize_factors((400, 1000), DataConfig(resize=800, resize_limit=1500))
        (1.5, 1.5)
        >>> resize_factors((400, 1000), DataConfig(gsd=0.2), spacing=(0.1, 0.3))
        (0.5, 1.4999999999999998)
        >>> resize_factors((400, 1000), DataConfig())
        (1.0, 1.0)
    """
    wanted = config.gsd or config.mpp
    if wanted and spacing is not None:
        return tuple(own / wanted for own in spacing)
    factor = min(config.resize / min(extent), config.resize_limit / max(extent)) if config.resize else 1.0
    return (factor,) * len(extent)


def draw_augmentation(
    generator: np.random.Generator,
    extent: Extent,
    config: DataConfig,
    spacing: Sequence[float] | None = None,
    focus: Focus | None = None,
    canvas: Extent | None = None,
) -> Augmentation:
    """Draw what happens to one sample.

    All numbers are drawn whatever the settings are, so that changing one setting leaves the other choices alone.

    Args:
        generator: The sample's own.
        extent: Of the image.
        config: Says what may happen.
        spacing: As for `resize_factors`.
        focus: What the crop is placed around; None lets it lie anywhere.
        canvas: Rows and columns of the crop; None takes a square, as `config` says.
    """
    scale, *drawn = generator.random(7 + len(extent)).tolist()
    places, (mirror, flip, turn, *colors) = drawn[: len(extent)], drawn[len(extent) :]
    jitter = _jitter(scale, config)
    factors = resize_factors(extent, config, spacing)
    crops = (config.crop,) * len(extent) if canvas is None else canvas
    sides = [
        _interval(size, crop, jitter * factor, place)
        for size, crop, factor, place in zip(extent, crops, factors, places, strict=True)
    ]
    if focus is not None:
        sides = [
            _around(*one) for one in zip(sides, extent, _intervals(focus.region), focus.places, strict=True)
        ]
    source_start, source_size, target_start, target_size = zip(*sides, strict=True)
    brightness, contrast, saturation = (1 + config.color_jitter * (2 * value - 1) for value in colors)
    return Augmentation(
        Window(Region(source_start, source_size), Region(target_start, target_size)),
        mirror=config.flip != "none" and mirror < 0.5,
        upside_down=config.flip == "both" and flip < 0.5,
        quarter_turns=int(4 * turn) if config.quarter_turns else 0,
        brightness=max(brightness, 0.0),
        contrast=max(contrast, 0.0),
        saturation=max(saturation, 0.0),
        spread=(read_numbers(config.mean), read_numbers(config.std)) if config.mean else None,
        canvas=canvas,
    )


def shown_extent(
    generator: np.random.Generator,
    extent: Extent,
    config: DataConfig,
    spacing: Sequence[float] | None = None,
    canvas: Extent | None = None,
) -> Extent:
    """Return how many rows and columns of a crop are not black: those that the image fills, with the scale that is drawn.

    Args:
        generator: As `draw_augmentation` would have it, which draws the same scale.
        extent: Of the image.
        config: As for `draw_augmentation`.
        spacing: As for `resize_factors`.
        canvas: As for `draw_augmentation`.
    """
    jitter = _jitter(float(generator.random()), config)
    factors = resize_factors(extent, config, spacing)
    crops = (config.crop,) * len(extent) if canvas is None else canvas
    return tuple(
        min(crop, max(1, round(size * jitter * factor)))
        for size, crop, factor in zip(extent, crops, factors, strict=True)
    )


def _jitter(drawn: float, config: DataConfig) -> float:
    jitter: float = config.scale_min * (config.scale_max / config.scale_min) ** drawn
    return jitter


def _interval(extent: int, crop: int, factor: float, place: float) -> tuple[int, int, int, int]:
    """Place a crop along one dim.

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


def _intervals(region: Region) -> list[tuple[int, int]]:
    return list(zip(region.start, region.end, strict=True))


def _around(
    side: tuple[int, int, int, int], extent: int, interval: tuple[int, int], place: float
) -> tuple[int, int, int, int]:
    """Move a crop along one dim so that it holds an interval of the source image, or lies within one that is longer.

    Args:
        side: As `_interval` returns it; a crop that holds all of the image stays where it is.
        extent: Pixels of the source image.
        interval: First pixel, and the one behind the last.
        place: In ``[0, 1)``; every place is as likely.

    Example:
        >>> [_around((0, 10, 0, 20), 100, (42, 50), place)[0] for place in (0.0, 0.99)]  # 10 pixels that hold 42 to 49
        [40, 42]
        >>> [_around((0, 10, 0, 20), 100, (42, 90), place)[0] for place in (0.0, 0.99)]  # 10 of the 48 pixels
        [42, 80]
        >>> [_around((0, 10, 0, 20), 100, (0, 1), place)[0] for place in (0.0, 0.99)]  # at the edge there is one place
        [0, 0]
    """
    _, length, target_start, target_length = side
    if length == extent:
        return side
    ends = interval[0], interval[1] - length
    low, high = max(0, min(ends)), min(extent - length, max(ends))
    return low + int(place * (high - low + 1)), length, target_start, target_length


def augment_image(image_CHW: Tensor, augmentation: Augmentation, crop: int) -> Tensor:
    """Return the crop of an image.

    Args:
        image_CHW: Shape ``(C, H, W)``; not written to.
        augmentation: What happens to it.
        crop: Rows and columns of the result, where the augmentation has no others.

    Returns:
        Shape ``(C, crop, crop)``, a tensor of its own; where the image does not reach as `empty_canvas` has it.
    """
    window = augmentation.window
    pixels = image_CHW[window.source.last_dims]
    if window.source.size != window.target.size:
        # antialias only acts where the image gets smaller
        pixels = functional.resize(pixels, list(window.target.size), antialias=True)
    pixels = recolor(pixels, augmentation)
    canvas = empty_canvas(image_CHW, augmentation.extent_of(crop))
    canvas[window.target.last_dims] = pixels
    return turn(canvas, augmentation)


def empty_canvas(like_CHW: Tensor, extent: Extent) -> Tensor:
    """Return an image that holds nothing, of the bands and type of another: black in 8 bits, else NaN."""
    nothing = math.nan if like_CHW.is_floating_point() else 0
    return like_CHW.new_full((len(like_CHW), *extent), nothing)


def augment_mask(mask_HW: Tensor, augmentation: Augmentation, crop: int) -> Tensor:
    """Return the crop of a mask, moved as `augment_image` moves the image; each pixel takes its nearest.

    Args:
        mask_HW: The label of each pixel, uint8, shape ``(H, W)``; not written to.
        augmentation: What happens to the image.
        crop: Rows and columns of the result, where the augmentation has no others.

    Returns:
        uint8, shape ``(crop, crop)``; `IGNORED_PIXEL` where the image does not reach.
    """
    window = augmentation.window
    labels = mask_HW[window.source.slices]
    resized = functional.resize(labels[None], list(window.target.size), InterpolationMode.NEAREST_EXACT)
    canvas = mask_HW.new_full((1, *augmentation.extent_of(crop)), IGNORED_PIXEL)
    canvas[window.target.last_dims] = resized
    return turn(canvas, augmentation)[0]


def turn(canvas_CHW: Tensor, augmentation: Augmentation) -> Tensor:
    """Mirror and turn a crop, or a part of one, along its last two dims."""
    if augmentation.mirror:
        canvas_CHW = canvas_CHW.flip(-1)
    if augmentation.upside_down:
        canvas_CHW = canvas_CHW.flip(-2)
    return torch.rot90(canvas_CHW, augmentation.quarter_turns, dims=(-2, -1)).contiguous()


def recolor(pixels_CHW: Tensor, augmentation: Augmentation) -> Tensor:
    """Change brightness, contrast and saturation: of RGB as torchvision does, of other samples as `recolor_samples`."""
    if pixels_CHW.is_floating_point():
        return recolor_samples(pixels_CHW, augmentation)
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


def recolor_samples(samples_CHW: Tensor, augmentation: Augmentation) -> Tensor:
    """Change brightness, contrast and saturation of samples of any bands and type.

    In units of the deviation of each band from its mean over the training data, so that they mean the same in every band::

        z = (sample - mean) / std
        brightness b    z + b - 1           a shift of all bands
        contrast c      c z                 away from the mean, or towards it
        saturation s    s z + (1 - s) z'    z' is the mean of z over all bands that hold something

    Args:
        samples_CHW: float32; NaN stays NaN.
        augmentation: What happens to them.
    """
    drawn = (augmentation.brightness, augmentation.contrast, augmentation.saturation)
    if augmentation.spread is None or drawn == (1, 1, 1):
        return samples_CHW
    mean_C11, std_C11 = (
        torch.tensor(values, dtype=torch.float32).view(-1, *[1] * (samples_CHW.dim() - 1))
        for values in augmentation.spread
    )
    brightness, contrast, saturation = drawn
    units = (samples_CHW - mean_C11) / std_C11 * contrast + (brightness - 1)
    if saturation != 1:
        units = saturation * units + (1 - saturation) * units.nanmean(0, keepdim=True)
    return units * std_C11 + mean_C11


def augment_objects(objects: Objects, augmentation: Augmentation, crop: int, min_visible: float) -> Objects:
    """Return the objects of a crop, in its pixels.

    Args:
        objects: In pixels of the source image.
        augmentation: What happens to the image.
        crop: Rows and columns of the crop, where the augmentation has no others.
        min_visible: Objects that keep less than this share of their box's area are left out, as are those that
            keep nothing.

    Returns:
        Boxes clipped to the crop, of positive area.
    """
    window = augmentation.window
    sides = zip(window.target.size, window.source.size, strict=True)
    scale = _corners([out / size for out, size in sides])
    whole = (objects.boxes_xyxy - _corners(window.source.start)) * scale + _corners(window.target.start)
    low, high = _corners(window.target.start), _corners(window.target.end)
    boxes = torch.minimum(torch.maximum(whole, low), high)
    visible = _area(boxes)
    keep = (visible > 0) & (visible >= min_visible * _area(whole))
    return Objects(_turn_boxes(boxes[keep], augmentation, crop), objects.labels[keep])


def _corners(values: Sequence[float]) -> Tensor:
    """Return a value for each dim as one for each number of a box: x comes first, the last dim."""
    return torch.tensor([*reversed(values)] * 2)


def _area(boxes_xyxy: Tensor) -> Tensor:
    return (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])


def _turn_boxes(boxes_xyxy: Tensor, augmentation: Augmentation, crop: int) -> Tensor:
    """Mirror and turn boxes in a crop, which is square where they are turned; the same moves as in `turn`."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(1)
    rows, columns = augmentation.extent_of(crop)[-2:]
    if augmentation.mirror:
        x1, x2 = columns - x2, columns - x1
    if augmentation.upside_down:
        y1, y2 = rows - y2, rows - y1
    for _ in range(augmentation.quarter_turns):
        # against the clock: what was right is on top, (x, y) goes to (y, crop - x)
        x1, y1, x2, y2 = y1, crop - x2, y2, crop - x1
    return torch.stack([x1, y1, x2, y2], dim=1)
