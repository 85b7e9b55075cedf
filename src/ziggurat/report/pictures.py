"""Pictures of what a model predicts, beside what is there, for every task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ziggurat.data.dataset import Dataset
from ziggurat.data.extents import Region, cut_out, volume
from ziggurat.data.readers.images import window_of
from ziggurat.inference.asked import Chosen
from ziggurat.inference.pictures import FULL_PIXELS, picture_extent, read_picture
from ziggurat.inference.predictor import Predictor

WINDOW_SIDE = 1024  # of a very large image


def draw_examples(predictor: Predictor, dataset: Dataset, indices: Sequence[int]) -> list[Image.Image]:
    """Run a model on some images of a data set, and draw its predictions and the truth.

    Args:
        predictor: Of this worker alone.
        dataset: With the labels of the model.
        indices: Of the images.

    Returns:
        A picture for each index, as the task compares what is predicted with what is there.

    Raises:
        UserError: Listing each image that cannot be decoded.
    """
    return [
        draw_example(predictor, dataset, *one)
        for one in predict_examples(predictor, dataset, indices).items()
    ]


def predict_examples(predictor: Predictor, dataset: Dataset, indices: Sequence[int]) -> dict[int, Any]:
    """Return the prediction for some images of a data set, by their numbers, in the same order."""
    found = predictor.predict(Chosen(dataset, tuple(indices)))
    return {index: found[number] for number, index in enumerate(indices)}


def draw_example(predictor: Predictor, dataset: Dataset, index: int, prediction: Any) -> Image.Image:
    """Draw a prediction and the truth, as the task compares them; of a very large image the window that `shown_window` says."""
    window = shown_window(predictor, dataset, index)
    if window is not None:
        return draw_window(predictor, dataset, index, prediction, window)
    extent = dataset.record(index).extent
    if predictor.task.lies_on == "images":
        shown = picture_extent(extent, "auto")
        assert shown is not None
        return predictor.task.draw_comparison(
            read_picture(dataset, index, shown, predictor.composite), prediction, dataset, index
        )
    picture = predictor.composite(dataset.image(index))
    return predictor.task.draw_comparison(picture, prediction, dataset, index)


def shown_window(predictor: Predictor, dataset: Dataset, index: int) -> Region | None:
    """Return the window in the middle of an image that a report shows in its place; None of images that it shows whole.

    Those whose results lie on places, and that have more than `FULL_PIXELS` pixels, are not decoded for a picture.
    """
    extent = dataset.record(index).extent
    if predictor.task.lies_on == "images" or volume(extent) <= FULL_PIXELS:
        return None
    size = tuple(min(length, WINDOW_SIDE) for length in extent)
    return Region(tuple((length - side) // 2 for length, side in zip(extent, size, strict=True)), size)


def draw_window(
    predictor: Predictor, dataset: Dataset, index: int, prediction: Any, window: Region
) -> Image.Image:
    """Draw a prediction and the truth in a window of an image, without decoding the rest of its file where that is possible."""
    pixels = window_of(dataset, index, window)
    pixels = cut_out(dataset.image(index), window) if pixels is None else pixels
    return predictor.task.draw_region(predictor.composite(pixels), prediction, dataset, index, window)
