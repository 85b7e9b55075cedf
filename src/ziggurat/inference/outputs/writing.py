"""All formats that a prediction is written in, together: asked, given the rows of images, and ended, or given up, as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ziggurat.data.extents import Region
from ziggurat.errors import UserError
from ziggurat.inference.outputs.base import ImageResults, Row, Target
from ziggurat.inference.outputs.registry import check_formats, check_polygons, make_outputs
from ziggurat.inference.outputs.sources import ImageSource
from ziggurat.inference.reading import Images
from ziggurat.tasks.probabilities import ProbabilitySink

MOST_FAULTS = 20  # of images that are listed


class Outputs:
    """What results are written by, beside the tables.

    Args:
        formats: Their names.
        target: What all images have in common.

    Raises:
        UserError: If a format is not known, or cannot hold such results.
    """

    def __init__(self, formats: Sequence[str], target: Target) -> None:
        check_formats(formats, target.lies_on)
        check_polygons(target.polygons, formats, target.lies_on)
        self._outputs = make_outputs(formats, target)

    @property
    def want_probabilities(self) -> bool:
        """Whether a format holds the probabilities of all classes."""
        return any(output.wants_probabilities for output in self._outputs)

    def check(self, images: Images) -> None:
        """See whether the results of all images can be written.

        Raises:
            UserError: Listing the images whose results cannot be.
        """
        faults = []
        for index in range(len(images) if self._outputs else 0):
            source = ImageSource(images, index)
            faults += [fault for fault in (output.fault(source) for output in self._outputs) if fault]
        if len(faults) > MOST_FAULTS:
            faults[MOST_FAULTS:] = [f"and {len(faults) - MOST_FAULTS} images more"]
        if faults:
            raise UserError(faults)

    @contextmanager
    def pixels(self, images: Images, index: int, stem: str) -> Iterator[ProbabilitySink | None]:
        """Let the formats take the probabilities of an image's pixels in the body; None if none does.

        Args:
            images: Of the prediction.
            index: Of the image, which is this worker's.
            stem: Of files that belong to it.
        """
        source = ImageSource(images, index)
        with ExitStack() as stack:
            sinks = [stack.enter_context(output.pixels(source, stem)) for output in self._outputs]
            taking = [sink for sink in sinks if sink is not None]
            yield _Each(taking) if taking else None

    def image(self, images: Images, index: int, stem: str, rows: Sequence[Row]) -> None:
        """Write what belongs to one image alone; called by the worker whose image it is.

        Args:
            images: Of the prediction.
            index: Of the image.
            stem: Of files that belong to it.
            rows: Its results.
        """
        for output in self._outputs:
            output.image(ImageResults(ImageSource(images, index), stem, rows))

    def write(self, images: Images, stems: Sequence[str], rows: Iterable[Sequence[Row]]) -> list[Path]:
        """Write what holds the results of all images; called by the first worker.

        Args:
            images: Of the prediction.
            stems: Of files that belong to each.
            rows: The results of each, in order.

        Returns:
            The files and folders of all formats.
        """
        try:
            for index, (stem, of_image) in enumerate(zip(stems, rows, strict=True) if self._outputs else ()):
                results = ImageResults(ImageSource(images, index), stem, of_image)
                for output in self._outputs:
                    output.collect(results)
            return [file for output in self._outputs for file in output.close()]
        except BaseException:
            for output in self._outputs:
                output.give_up()
            raise


@dataclass(frozen=True)
class _Each:
    """Several takers of probabilities.

    Attributes:
        sinks: Each is given all of them.
    """

    sinks: Sequence[ProbabilitySink]

    def add(self, region: Region, probabilities_KHW: Tensor, /) -> None:
        for sink in self.sinks:
            sink.add(region, probabilities_KHW)
