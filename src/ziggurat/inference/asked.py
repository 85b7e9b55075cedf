"""What images a prediction is asked for: files that the user names, or a data set, whose ids it keeps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from ziggurat.config import DataConfig
from ziggurat.data.dataset import Dataset, ImageRecord, Spelling, spelling_of
from ziggurat.data.extents import Extent, Region
from ziggurat.data.readers.image_files import expand_paths, inspect_images, picture_names, scaled
from ziggurat.data.readers.images import blanks_of, levels_of, window_of
from ziggurat.data.readers.layout import Reading
from ziggurat.data.readers.spacing import Scaling
from ziggurat.errors import UserError
from ziggurat.inference.reading import Images


def path_of(images: Images, index: int) -> Path | None:
    """Return the file of an image; None of one that is no file."""
    path = getattr(images, "path", None)  # many kinds of images have files, and those of a program none
    found: Path | None = None if path is None else path(index)
    return found


@dataclass(frozen=True)
class Chosen:
    """Some images of others, counted from 0.

    Attributes:
        images: Whose they are.
        indices: The number of each in `images`.
    """

    images: Images
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def record(self, index: int) -> ImageRecord:
        """Return what is known of an image, without decoding it."""
        return self.images.record(self.indices[index])

    def path(self, index: int) -> Path | None:
        """Return the file of an image; None of one that is no file."""
        return path_of(self.images, self.indices[index])

    def image(self, index: int) -> Tensor:
        """Return an image, RGB, uint8, shape ``(3, H, W)``."""
        return self.images.image(self.indices[index])

    def levels(self, index: int) -> tuple[Extent, ...]:
        """Return the rows and columns of each level of resolution of an image, the finest first."""
        return levels_of(self.images, self.indices[index], self.record(index).extent)

    def window(self, index: int, region: Region, level: int = 0) -> Tensor | None:
        """Return a window of a level of an image without the rest of it; None where that is not possible."""
        return window_of(self.images, self.indices[index], region, level)

    def blank(self, index: int, region: Region) -> Tensor | None:
        """Return where in a region of an image no band that is read holds anything; None if that is nowhere."""
        return blanks_of(self.images, self.indices[index], region)


@dataclass(frozen=True)
class Asked:
    """Images that a prediction is asked for.

    Attributes:
        images: Those whose headers are sound.
        pictures: The file name of each image's picture; no two are the same, whatever their suffix.
        category_ids: The COCO category id of each label.
        spelled: How the data set's files write ids.
        spoiled: What is wrong with each image that was left out, by its path or name.
        notes: What there is to say.
    """

    images: Images
    pictures: tuple[str, ...]
    category_ids: Sequence[int]
    spelled: Spelling = field(default_factory=Spelling)
    spoiled: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def ask_for_files(
    paths: Sequence[str | os.PathLike[str]], category_ids: Sequence[int], config: DataConfig
) -> Asked:
    """Look for the files that the user names, and at their headers.

    Raises:
        UserError: If nothing is found under a path; or, unless ``data.on_error`` is ``skip``, images are not readable (each is
            listed).
    """
    spoiled: dict[str, str] = {}
    notes: list[str] = []
    found = expand_paths(paths, notes)
    images = inspect_images(found, config.max_pixels, Reading.of(config), spoiled)
    if spoiled and config.on_error == "stop":
        raise UserError(with_remedy(list(spoiled.values())))
    images = scaled(images, Scaling.of(config), None if config.on_error == "stop" else spoiled, notes)
    return Asked(images, _names(images), category_ids, Spelling(), spoiled, tuple(notes))


def ask_for_dataset(dataset: Dataset, config: DataConfig) -> Asked:
    """Take the images of a data set, with its own ids and names.

    Raises:
        UserError: Unless ``data.on_error`` is ``skip``, listing each image whose header is not readable.
    """
    spoiled: dict[str, str] = {}
    sound, faults = [], []
    for index in range(len(dataset)):
        try:
            dataset.record(index)
            sound.append(index)
        except UserError as error:
            spoiled[f"image {index + 1}"] = str(error)
            faults += error.faults
    if faults and config.on_error == "stop":
        raise UserError(with_remedy(faults))
    images = dataset if len(sound) == len(dataset) else Chosen(dataset, tuple(sound))
    return Asked(images, _names(images), dataset.category_ids, spelling_of(dataset), spoiled)


def with_remedy(faults: Sequence[str]) -> list[str]:
    """Return the faults of images, and at the end of the last one what helps against all."""
    return [*faults[:-1], f"{faults[-1]}; --set data.on_error=skip leaves such images out"]


def _names(images: Images) -> tuple[str, ...]:
    records = [images.record(index) for index in range(len(images))]
    return tuple(picture_names([Path(one.name) for one in records], [one.extent for one in records]))


def without(asked: Asked, spoiled: dict[int, str]) -> Asked:
    """Return what is asked for but for images that could not be decoded, by their numbers."""
    left = [index for index in range(len(asked.images)) if index not in spoiled]
    named = {asked.images.record(index).name: why for index, why in spoiled.items()}
    return replace(
        asked,
        images=Chosen(asked.images, tuple(left)),
        pictures=tuple(asked.pictures[index] for index in left),
        spoiled=asked.spoiled | named,
    )
