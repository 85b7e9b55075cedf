"""PyTorch's map-style data sets as data sets of ours: ``data[index]`` is an image and what is to be predicted of it.

Images are what `data.readers.in_memory` takes, and targets have one of the forms of `map_targets`. An item is the same each time: what is
random is done by training itself (``data.flip`` ...), keyed by sample and epoch, so that every worker sees the same.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ziggurat.config import DataConfig
from ziggurat.data.batch import Objects
from ziggurat.data.dataset import Annotations, ImageRecord
from ziggurat.data.extents import Extent
from ziggurat.data.formats.map_items import names_of, read_pair, same
from ziggurat.data.formats.map_targets import boxes_of, kind_of, label_of, mask_of
from ziggurat.data.readers.in_memory import pixels_of
from ziggurat.data.readers.layout import AS_THEY_ARE, Reading
from ziggurat.errors import UserError

_BACKGROUND = ("background", "__background__", "_background_")
_READ_TWICE = 4  # items that are read twice, to see that they stay the same


@dataclass(frozen=True)
class _Facts:
    """What is kept of an item: all but its pixels.

    Attributes:
        extent: Rows and columns of the image.
        image_id: As the item says it; None where it does not.
        annotations: Of an item with boxes.
    """

    extent: Extent
    image_id: int | None = None
    annotations: Annotations | None = None


class MapStyle:
    """A map-style data set.

    Args:
        dataset: Has a length, and items by their places from 0.
        name: In messages.
        classes: Names of the labels; empty as long as nobody has named them.
    """

    kind: ClassVar[str]

    def __init__(self, dataset: Any, name: str, classes: tuple[str, ...] = ()) -> None:
        self._dataset, self.name, self.classes = dataset, name, classes
        self._reading = AS_THEY_ARE
        self._facts: dict[int, _Facts] = {}
        self._last: tuple[int, Any, Any] | None = None
        self._opened: dict[Any, Self] = {}

    def configured(self, config: DataConfig, model_classes: tuple[str, ...] | None) -> Self:
        """Return the data set as a config has it: with the names of its classes, and the range or bands of its samples.

        Args:
            config: ``data.classes``, ``data.range`` and ``data.bands``.
            model_classes: Of the model, which name those of a data set that has no names.

        Raises:
            UserError: If nobody names the classes.
        """
        named = tuple(part.strip() for part in config.classes.split(",") if part.strip())
        classes = named or names_of(self._dataset, self.name) or model_classes or ()
        if not classes or len(set(classes)) < len(classes):
            raise UserError(
                f"the classes of {self.name} must be named, each once: give them in the order of labels, in its attribute 'classes' "
                f"or as data.classes; got {', '.join(classes) or 'none'}"
            )
        reading = Reading.of(config)
        if (classes, reading) not in self._opened:  # what is known of its items is kept
            self._opened[classes, reading] = self._named_so(classes, reading)
        return self._opened[classes, reading]

    def _named_so(self, classes: tuple[str, ...], reading: Reading) -> Self:
        other = copy.copy(self)
        other.classes, other._reading, other._facts, other._last = classes, reading, {}, None
        other._opened = {}
        return other

    @property
    def category_ids(self) -> tuple[int, ...]:
        """From 1."""
        return tuple(range(1, len(self.classes) + 1))

    @property
    def notes(self) -> tuple[str, ...]:
        """What its items were taken as: nobody has said it."""
        names = ", ".join(self.classes[:8]) + (", ..." if len(self.classes) > 8 else "")
        return (
            f"the items of {self.name} are taken as images with {self.kind} of {len(self.classes)} classes: {names}",
        )

    def __len__(self) -> int:
        return len(self._dataset)

    def record(self, index: int) -> ImageRecord:
        """Return what is known of an image: it is read once for that.

        Raises:
            UserError: If the item is not usable.
        """
        facts = self._known(index)
        number = index + 1 if facts.image_id is None else facts.image_id
        rows, columns = facts.extent
        return ImageRecord(f"item-{index}", number, rows, columns)

    def image(self, index: int) -> Tensor:
        """Return an image, RGB, uint8, shape ``(3, H, W)``.

        Raises:
            UserError: If the item is not usable.
        """
        pixels: Tensor = self._item(index)[0]
        return pixels

    def look(self) -> None:
        """Read the first items twice.

        Raises:
            UserError: If they are not usable, or not the same each time.
        """
        for index in range(min(_READ_TWICE, len(self))):
            first = self._item(index)
            self._last = None
            if not same(first, self._item(index)):
                raise UserError(
                    f"an item must be the same each time: {self._named(index)} was another the second time; leave random "
                    "transforms to training, which draws anew each epoch (data.flip, data.color_jitter, ...)"
                )

    def _known(self, index: int) -> _Facts:
        if index not in self._facts:
            self._item(index)
        return self._facts[index]

    def _item(self, index: int) -> tuple[Tensor, Any]:
        """Return the pixels and the target of an item; the last one is kept."""
        last = self._last
        if last is not None and last[0] == index:
            return last[1], last[2]
        name = self._named(index)
        image, target = read_pair(self._dataset, index, name)
        pixels = pixels_of(image, name, self._reading)
        rows, columns = pixels.shape[1:]
        known = self._facts.get(index)
        if known is None:
            self._facts[index] = self._read((rows, columns), target, name)
        elif known.extent != (rows, columns):
            raise UserError(
                f"an item must be the same each time: {name} had {known.extent[1]} x {known.extent[0]} pixels, and has "
                f"{columns} x {rows}; leave random transforms to training (data.crop, data.flip, ...)"
            )
        self._last = index, pixels, target
        return pixels, target

    def _read(self, extent: Extent, target: Any, name: str) -> _Facts:
        """Return what is kept of an item, whose target is looked at if that costs nothing."""
        return _Facts(extent)

    def _named(self, index: int) -> str:
        return f"item {index} of {self.name}"


class MapLabels(MapStyle):
    """A map-style data set with a label for each image."""

    kind = "labels"

    def label(self, index: int) -> int:
        """Return the label of an image.

        Raises:
            UserError: If the item is not usable.
        """
        return label_of(self._item(index)[1], len(self.classes), self._named(index))


class MapMasks(MapStyle):
    """A map-style data set with a label for each pixel."""

    kind = "masks"

    def mask(self, index: int) -> Tensor:
        """Return the label of each pixel, uint8, shape ``(H, W)``.

        Raises:
            UserError: If the item is not usable.
        """
        pixels, target = self._item(index)
        return mask_of(target, len(self.classes), tuple(pixels.shape[1:]), self._named(index))


class MapBoxes(MapStyle):
    """A map-style data set with objects; a background that its classes name first, as torchvision's detectors have it, is none."""

    kind = "boxes"
    _first = 0

    def _named_so(self, classes: tuple[str, ...], reading: Reading) -> Self:
        has_background = len(classes) > 1 and classes[0].lower() in _BACKGROUND
        other = super()._named_so(classes[has_background:], reading)
        other._first = int(has_background)
        return other

    def objects(self, index: int) -> Objects:
        """Return the objects of an image that a detector is trained on: no crowds."""
        every, single = self.all_objects(index), ~self.crowd(index)
        return Objects(every.boxes_xyxy[single], every.labels[single])

    def all_objects(self, index: int) -> Objects:
        """Return every object of an image, with crowds."""
        return self._annotations(index).objects

    def crowd(self, index: int) -> Tensor:
        """Return which of `all_objects` are crowds, bool, shape ``(N,)``."""
        return self._annotations(index).crowd

    def areas(self, index: int) -> Tensor:
        """Return the area of each of `all_objects` in pixels, float32, shape ``(N,)``."""
        return self._annotations(index).areas

    def _annotations(self, index: int) -> Annotations:
        found = self._known(index).annotations
        assert found is not None
        return found

    def _read(self, extent: Extent, target: Any, name: str) -> _Facts:
        if not self.classes:  # they are not named yet
            return _Facts(extent)
        boxed = boxes_of(target, len(self.classes), self._first, extent, name)
        return _Facts(extent, boxed.image_id, boxed.annotations)


_KINDS: dict[str, type[MapStyle]] = {one.kind: one for one in (MapLabels, MapMasks, MapBoxes)}


def is_map_style(dataset: Any) -> bool:
    """Whether an object has items by their places, and is no data set of ours."""
    if hasattr(dataset, "record"):
        return False
    has_items = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    return has_items or isinstance(dataset, (Dataset, DataLoader))


def adapt(dataset: Any, name: str) -> MapStyle:
    """Return a map-style data set as one of ours.

    Args:
        dataset: Has a length, and pairs of an image and a target by their places.
        name: In messages.

    Raises:
        UserError: If its items are something else, or random.
    """
    if isinstance(dataset, DataLoader):
        raise UserError(f"{name} must be a data set, and is a DataLoader: give its data set (loader.dataset)")
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or not len(dataset):
        raise UserError(f"{name} must have items by their places, from 0 on: it has none, or no length")
    target = read_pair(dataset, 0, f"item 0 of {name}")[1]
    adapted = _KINDS[kind_of(target, f"item 0 of {name}")](dataset, name)
    adapted.look()
    return adapted
