"""What a format of results is: it is given the rows of one image after the other, and makes files of them.

Every worker has an output of its own, and calls `Output.image` for those images that are its own: files that belong to one image
(a mask, crops, labels) are written there. The first worker then calls `Output.collect` for all images, in order: files that hold the
results of many images are written there, some thousand rows at a time. So nothing grows with the number of images.

Formats know tasks only by what a row lies on (`Task.lies_on`): boxes, masks (a file of labels that the row names), or whole images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Region
from ziggurat.data.readers.opened import Georeference, ImageInfo, OpenedImage
from ziggurat.errors import UserError
from ziggurat.inference.outputs.polygons import PolygonRules
from ziggurat.tasks.base import LiesOn
from ziggurat.tasks.probabilities import ProbabilitySink
from ziggurat.visualize.composite import SHOWN_AS_THEY_ARE, Composite

Row = dict[str, Any]


class Source(Protocol):
    """The image that results are of."""

    @property
    def record(self) -> ImageRecord:
        """What is known of it without decoding it."""
        ...

    def info(self) -> ImageInfo | None:
        """Return what its header says; None of an image that is no file.

        Raises:
            UserError: If that cannot be read.
        """
        ...

    def opened(self) -> AbstractContextManager[OpenedImage | None]:
        """Open it for the body of a ``with``; None of an image that is no file, or is Pillow's."""
        ...

    def pixels(self, region: Region) -> Tensor:
        """Return a region, RGB, uint8, shape ``(3, *region.size)``."""
        ...


@dataclass(frozen=True)
class ImageResults:
    """What is predicted on one image.

    Attributes:
        source: The image.
        stem: The name, without suffix, of files that belong to the image; no two images have the same.
        rows: As ``predictions.json`` has them.
    """

    source: Source
    stem: str
    rows: Sequence[Row]

    @cached_property
    def info(self) -> ImageInfo | None:
        """What the image's header says."""
        return self.source.info()

    @property
    def georeference(self) -> Georeference | None:
        """Where the image's pixels lie on the ground."""
        return None if self.info is None else self.info.georeference


@dataclass(frozen=True)
class Target:
    """What all images of a prediction have in common.

    Attributes:
        folder: Of all files; exists.
        classes: The name of each label.
        category_ids: The COCO category id of each label, as the rows have them.
        lies_on: What a row of results lies on.
        polygons: What is done to the areas of masks where they are written as polygons.
        composite: What pictures show of the images.
        num_models: How many models' predictions are averaged.
    """

    folder: Path
    classes: Sequence[str]
    category_ids: Sequence[Any]
    lies_on: LiesOn
    polygons: PolygonRules = field(default_factory=PolygonRules)
    composite: Composite = SHOWN_AS_THEY_ARE
    num_models: int = 1

    def label(self, row: Row) -> int:
        """Return the label of a row's class."""
        return list(self.category_ids).index(row["category_id"])


class Output(ABC):
    """Writes results in one format.

    Args:
        target: What all images have in common.

    Attributes:
        name: What ``--format`` calls it.
        takes: What the rows may lie on.
        writes_polygons: Whether it writes the polygons that rows lie on.
        wants_probabilities: Whether the task is to keep those of all classes (`Task.with_probabilities`).
    """

    name: ClassVar[str]
    takes: ClassVar[tuple[LiesOn, ...]] = ("boxes", "masks", "images")
    writes_polygons: ClassVar[bool] = False
    wants_probabilities: ClassVar[bool] = False

    def __init__(self, target: Target) -> None:
        self.target = target

    def fault(self, source: Source) -> str:
        """Return why an image's results cannot be written in this format, with the remedy; asked before anything is computed."""
        return ""

    def pixels(self, source: Source, stem: str) -> AbstractContextManager[ProbabilitySink | None]:
        """Return what takes the probabilities of an image's pixels in the body of a ``with``, before `image`; None for nothing.

        Args:
            source: The image, which is this worker's.
            stem: Of files that belong to it.
        """
        return nullcontext()

    def image(self, results: ImageResults) -> None:  # noqa: B027 - many formats have no files of one image
        """Write what belongs to one image alone; called by the worker whose image it is."""

    def collect(self, results: ImageResults) -> None:  # noqa: B027 - others have nothing else
        """Take the rows of the next image; called by the first worker, image after image."""

    @abstractmethod
    def close(self) -> list[Path]:
        """End the files of all images, and return the files or folders that the format is in."""

    def give_up(self) -> None:  # noqa: B027 - what is not there need not be removed
        """Remove what is unfinished; called instead of `close`."""


def refuse_rows(output: type[Output], lies_on: LiesOn) -> str:
    """Return why a format cannot hold results that lie on these, or nothing if it can."""
    if lies_on in output.takes:
        return ""
    return f"--format {output.name} holds results on {' and '.join(output.takes)}: this task's lie on {lies_on}; leave it out"


def georeference_of(info: ImageInfo | None, name: str, output: str) -> Georeference:
    """Return where an image lies on the ground.

    Raises:
        UserError: If the image does not say.
    """
    if info is None or info.georeference is None:
        raise UserError(
            f"--format {output} writes places on the ground: the image {name} has no georeference; give it one "
            "(gdal_translate -a_srs -a_ullr), or take a format in pixels (coco, csv, yolo, qupath)"
        )
    return info.georeference
