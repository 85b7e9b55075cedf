"""Pictures of what a model predicts, beside what is there, for every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from ziggurat.data.dataset import Dataset, ImageRecord
from ziggurat.inference.predictor import Predictor


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
    found = predictor.predict(_Chosen(dataset, tuple(indices)))
    return {index: found[number] for number, index in enumerate(indices)}


def draw_example(predictor: Predictor, dataset: Dataset, index: int, prediction: Any) -> Image.Image:
    """Draw a prediction and the truth, as the task compares them."""
    picture = predictor.composite(dataset.image(index))
    return predictor.task.draw_comparison(picture, prediction, dataset, index)


@dataclass(frozen=True)
class _Chosen:
    """Some images of a data set, counted from 0.

    Attributes:
        dataset: Whose images they are.
        indices: The number of each image in `dataset`.
    """

    dataset: Dataset
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def record(self, index: int) -> ImageRecord:
        return self.dataset.record(self.indices[index])

    def image(self, index: int) -> Tensor:
        return self.dataset.image(self.indices[index])
