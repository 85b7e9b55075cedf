"""All formats that a prediction is written in, together: asked, given the rows of images, and ended, or given up, as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ziggurat.errors import UserError
from ziggurat.inference.outputs.base import ImageResults, Row, Target
from ziggurat.inference.outputs.registry import check_formats, make_outputs
from ziggurat.inference.outputs.sources import ImageSource
from ziggurat.inference.reading import Images

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
        self._outputs = make_outputs(formats, target)

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
