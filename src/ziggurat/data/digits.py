"""The embedded data set: handwritten digits on photographs, from pixels that scikit-learn ships.

A scene is a piece of a photograph with a few digits on it, whose heights are spread over the range of sizes: a
pyramid is needed to find them all. Training and validation share neither a digit nor a place: digits are divided by
a fixed permutation, photographs by columns. A scene is a pure function of (seed, split, index). With ``digits.imbalance`` the
digits of training scenes have a long tail: digit ``k`` is drawn ``imbalance ** (-k / 9)`` times as often as 0.

Shapes: ``S`` rows and columns of a scene, ``N`` digits of a scene.

References:
    The digits are the test set of: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998
    (1797 digits of 8 x 8 pixels), by ``sklearn.datasets.load_digits``; the photographs are ``china.jpg`` and
    ``flower.jpg`` of ``sklearn.datasets.load_sample_image``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ziggurat.config import DigitsConfig
from ziggurat.data.batch import Objects
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.glyphs import Glyph, digit_pixels, make_glyph, scikit_learn_file
from ziggurat.data.randomness import Purpose, keyed_generator
from ziggurat.errors import UserError

_TRAIN_DIGITS = 1500  # of 1797
_TRAIN_COLUMNS = 400  # of 640: the photographs' columns that training scenes are cut from
_SMALLEST_PLACE = 72  # pixels of a photograph that a scene shows at least
_TRIES = 24  # places that are tried for a digit
_LARGEST_OVERLAP = 0.15  # share of the smaller box that another digit's box may cover
_SHRINK = 0.85  # a digit that finds no place gets smaller


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
        image_CHW: RGB, uint8, shape ``(3, S, S)``.
        objects: Boxes tight around the visible ink, and which digit it is.
        masks: The visible ink of each digit, uint8, 0 or 1, shape ``(N, S, S)``.
    """

    image_CHW: Tensor
    objects: Objects
    masks: Tensor


class DigitScenes:
    """One split of the embedded data set.

    Args:
        config: How scenes look, and how many there are.
        split: ``train`` or ``val``.
    """

    classes = tuple("0123456789")
    category_ids = tuple(range(1, 11))

    def __init__(self, config: DigitsConfig, split: Literal["train", "val"]) -> None:
        self.config = config
        self.split = split
        self._objects: dict[int, Objects] = {}
        self._last: tuple[int, Scene] | None = None

    def __len__(self) -> int:
        return self.config.train_scenes if self.split == "train" else self.config.val_scenes

    def record(self, index: int) -> ImageRecord:
        """Return what is known of scene `index`."""
        return ImageRecord(f"{self.split}-{index:06d}", index + 1, self.config.size, self.config.size)

    def objects(self, index: int) -> Objects:
        """Return the digits of scene `index`; they are kept, as drawing the scene takes milliseconds."""
        if index not in self._objects:
            self._objects[index] = self._scene(index).objects
        return self._objects[index]

    def image(self, index: int) -> Tensor:
        """Return scene `index`, RGB, uint8, shape ``(3, S, S)``."""
        return self._scene(index).image_CHW

    def masks(self, index: int) -> Tensor:
        """Return the visible ink of each of `objects`, uint8, 0 or 1, shape ``(N, S, S)``."""
        return self._scene(index).masks

    def _scene(self, index: int) -> Scene:
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} scenes: got index {index}")
        if self._last is None or self._last[0] != index:
            self._last = index, draw_scene(self.config, self.split, index)
        return self._last[1]


class _OfScenes:
    """What another task sees of the same scenes.

    Args:
        config: How scenes look, and how many there are.
        split: ``train`` or ``val``.
    """

    def __init__(self, config: DigitsConfig, split: Literal["train", "val"]) -> None:
        self.scenes = DigitScenes(config, split)
        self.record = self.scenes.record
        self.image = self.scenes.image

    def __len__(self) -> int:
        return len(self.scenes)


class DigitLabels(_OfScenes):
    """The embedded data set for classification: the label of a scene is that of its largest digit.

    Raises:
        UserError: If a scene may have no digit.
    """

    classes = DigitScenes.classes
    category_ids = DigitScenes.category_ids

    def __init__(self, config: DigitsConfig, split: Literal["train", "val"]) -> None:
        if config.count_min < 1:
            raise UserError(
                f"digits.count_min must be positive: a scene to classify needs a digit, got {config.count_min}"
            )
        super().__init__(config, split)

    def label(self, index: int) -> int:
        """Return which digit the largest one of scene `index` is."""
        return int(self.scenes.objects(index).labels[0])  # the largest is drawn first

    def height(self, index: int) -> float:
        """Return the rows of the largest digit of scene `index`."""
        _, top, _, bottom = self.scenes.objects(index).boxes_xyxy[0].tolist()
        return float(bottom - top)


class DigitMasks(_OfScenes):
    """The embedded data set for segmentation: the ink of each digit, on background."""

    classes = ("background", *DigitScenes.classes)
    category_ids = tuple(range(11))

    def mask(self, index: int) -> Tensor:
        """Return the label of each pixel of scene `index`, uint8, shape ``(S, S)``; 0 is background."""
        masks_NSS, labels = self.scenes.masks(index), self.scenes.objects(index).labels
        labels_NSS = masks_NSS * (labels + 1).to(torch.uint8)[:, None, None]
        return labels_NSS.amax(dim=0) if len(labels) else labels_NSS.new_zeros(labels_NSS.shape[1:])


def draw_scene(config: DigitsConfig, split: Literal["train", "val"], index: int) -> Scene:
    """Draw one scene: a photograph, and digits from the largest to the smallest, each upon those before.

    There are ``count_min`` to ``count_max`` digits, unless so many do not fit and some are hidden wholly.
    """
    generator = keyed_generator(config.seed, Purpose.SCENE, int(split == "val"), index)
    canvas = _background(generator, config.size, split)
    count = int(generator.integers(config.count_min, config.count_max + 1))
    numbers, labels = _handwriting(split), []
    placed: list[tuple[Glyph, int, int]] = []
    for height in _heights(generator, config, count):
        number = _draw_number(generator, numbers, config.imbalance if split == "train" else 1.0)
        placed.append(_find_place(generator, config, number, height, placed))
        labels.append(int(digit_pixels().labels[number]))
    masks = np.zeros((count, config.size, config.size), dtype=np.uint8)
    for layer, (glyph, top, left) in enumerate(placed):
        rows, columns = slice(top, top + glyph.height), slice(left, left + glyph.width)
        alpha, under = glyph.alpha[:, :, None], canvas[rows, columns]
        under += alpha * (_contrasting_color(generator, under, glyph) - under)
        masks[:layer, rows, columns] &= glyph.ink == 0
        masks[layer, rows, columns] = glyph.ink
    boxes = np.array([_tight_box(mask) for mask in masks], dtype=np.float32).reshape(-1, 4)
    seen = torch.from_numpy(boxes[:, 2] > boxes[:, 0])
    image = torch.from_numpy(np.rint(canvas).astype(np.uint8)).permute(2, 0, 1).contiguous()
    objects = Objects(torch.from_numpy(boxes)[seen], torch.tensor(labels, dtype=torch.int64)[seen])
    return Scene(image, objects, torch.from_numpy(masks)[seen])


def _draw_number(generator: np.random.Generator, numbers: np.ndarray, imbalance: float) -> int:
    """Draw the number of a digit; of two neighbours the lower digit is the more frequent one where classes are unequal."""
    if imbalance > 1:
        weights = imbalance ** -(np.arange(10) / 9)
        digit = generator.choice(10, p=weights / weights.sum())
        numbers = numbers[digit_pixels().labels[numbers] == digit]
    return int(numbers[generator.integers(len(numbers))])


def _heights(generator: np.random.Generator, config: DigitsConfig, count: int) -> list[float]:
    """Return a height from each of `count` equal parts of the (logarithmic) range, the largest first."""
    places = (np.arange(count)[::-1] + generator.random(count)) / max(count, 1)
    ratio = config.height_max / config.height_min
    return [float(height) for height in config.height_min * ratio**places]


def _background(generator: np.random.Generator, size: int, split: Literal["train", "val"]) -> np.ndarray:
    """Return a piece of a photograph, float32, shape ``(S, S, 3)``."""
    photographs = _places(split)
    photograph = photographs[int(generator.integers(len(photographs)))]
    largest = min(photograph.size)
    side = _SMALLEST_PLACE * (largest / _SMALLEST_PLACE) ** generator.random()
    left, top = (generator.random() * (extent - side) for extent in photograph.size)
    box = (left, top, left + side, top + side)
    piece = np.asarray(photograph.resize((size, size), Image.Resampling.BILINEAR, box=box))
    mirrored = piece[:, ::-1] if generator.random() < 0.5 else piece
    return mirrored * np.float32(generator.uniform(0.6, 1.0))


def _find_place(
    generator: np.random.Generator,
    config: DigitsConfig,
    number: int,
    height: float,
    placed: list[tuple[Glyph, int, int]],
) -> tuple[Glyph, int, int]:
    """Return a digit's glyph with its first row and column, where it covers others least.

    A digit that finds no place is drawn smaller, down to the smallest height; after that it takes the best it found.
    """
    slant = generator.uniform([-0.2, -0.2], [0.2, 0.2])
    while True:
        glyph = make_glyph(number, height, float(slant[0]), float(slant[1]))
        free = config.size - np.array([glyph.height, glyph.width])
        smallest = height <= config.height_min
        if free.min() >= 0:
            tries = generator.integers(0, free + 1, size=(_TRIES, 2))
            overlaps = _overlaps(tries, glyph, placed)
            best = int(np.argmax(overlaps <= _LARGEST_OVERLAP))
            best = best if overlaps[best] <= _LARGEST_OVERLAP else int(np.argmin(overlaps))
            if smallest or overlaps[best] <= _LARGEST_OVERLAP:
                return glyph, int(tries[best, 0]), int(tries[best, 1])
        height = height * _SHRINK if smallest else max(height * _SHRINK, config.height_min)


def _overlaps(tries: np.ndarray, glyph: Glyph, placed: list[tuple[Glyph, int, int]]) -> np.ndarray:
    """Return, for each place, the largest share of the smaller box that the two boxes have in common."""
    worst = np.zeros(len(tries))
    extent = np.array([glyph.height, glyph.width])
    for other, top, left in placed:
        start, size = np.array([top, left]), np.array([other.height, other.width])
        common = np.minimum(tries + extent, start + size) - np.maximum(tries, start)
        area = np.maximum(common, 0).prod(axis=1)
        worst = np.maximum(worst, area / min(extent.prod(), size.prod()))
    return worst


def _contrasting_color(generator: np.random.Generator, under: np.ndarray, glyph: Glyph) -> np.ndarray:
    """Draw a color whose lightness differs from what the ink covers; float32, shape ``(3,)``."""
    lightness = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    covered = under[glyph.ink > 0] @ lightness
    usual = np.quantile(covered, [0.1, 0.5, 0.9])
    colors = generator.uniform(0, 255, size=(24, 3)).astype(np.float32)
    colors[-2:] = [[8], [250]]
    contrast = np.abs((colors @ lightness)[:, None] - usual).min(axis=1)
    enough = contrast >= min(90.0, contrast.max())
    color: np.ndarray = colors[int(np.argmax(enough))]
    return color


def _tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the corners of a mask's pixels, all 0 for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@cache
def _handwriting(split: Literal["train", "val"]) -> np.ndarray:
    """Return the numbers of the digits of a split."""
    order = np.random.Generator(np.random.Philox(1797)).permutation(1797)
    return order[:_TRAIN_DIGITS] if split == "train" else order[_TRAIN_DIGITS:]


@cache
def _places(split: Literal["train", "val"]) -> tuple[Image.Image, ...]:
    """Return the parts of the photographs that a split's scenes are cut from."""
    columns = (0, _TRAIN_COLUMNS) if split == "train" else (_TRAIN_COLUMNS, None)
    places = []
    for name in ("china.jpg", "flower.jpg"):
        with Image.open(scikit_learn_file(f"images/{name}")) as photograph:
            places.append(photograph.crop((columns[0], 0, columns[1] or photograph.width, photograph.height)))
    return tuple(places)
