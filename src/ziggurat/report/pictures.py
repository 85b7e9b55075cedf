"""Pictures of what a model predicts, beside what is there, for every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from ziggurat.config import RunConfig
from ziggurat.data.batch import Objects
from ziggurat.data.dataset import (
    ClassificationDataset,
    Dataset,
    DetectionDataset,
    ImageRecord,
    SegmentationDataset,
)
from ziggurat.inference.classify import classify_images
from ziggurat.inference.detect import detect_as_configured
from ziggurat.inference.segment import segment_images
from ziggurat.inference.tiles import compute_as_configured
from ziggurat.models.vision import VisionModel
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.visualize.boxes import draw_caption, draw_comparison
from ziggurat.visualize.labels import draw_label_comparison


def draw_examples(
    model: VisionModel,
    task: Any,
    dataset: Dataset,
    indices: Sequence[int],
    config: RunConfig,
    device: torch.device,
) -> list[Image.Image]:
    """Run a model on some images of a data set, and draw its predictions and the truth.

    Args:
        model: Is run by this worker alone.
        task: The task of the model.
        dataset: With the labels of the model.
        indices: Of the images.
        config: Of the run.
        device: Where the model is.

    Returns:
        A picture for each index: found boxes in colour with the annotated ones in white; the predicted class in the
        image's corner, with the true one where they differ; or predicted and true labels of the pixels.

    Raises:
        UserError: Listing each image that cannot be decoded.
    """
    alone = make_mesh(Workers(device=device))
    images = _Chosen(dataset, tuple(indices))
    if model.task == "detect":
        found = detect_as_configured(model, task, images, config, alone)
        return [
            draw_comparison(images.image(i), detections, images.objects(i), dataset.classes)
            for i, detections in enumerate(found)
        ]
    compute = compute_as_configured(config, alone)
    if model.task == "classify":
        probabilities = classify_images(model, images, config.data, compute)
        return [_draw_class(images, i, one) for i, one in enumerate(probabilities)]
    labels = segment_images(model, images, config.data, compute)
    return [
        draw_label_comparison(images.image(i), labels[i], images.mask(i), dataset.classes)
        for i in range(len(images))
    ]


def _draw_class(images: _Chosen, index: int, probabilities_K: Tensor) -> Image.Image:
    """Write the most probable class, its probability, and the true class where it is another."""
    predicted, true = int(probabilities_K.argmax()), images.label(index)
    text = f"{images.classes[predicted]} {float(probabilities_K[predicted]):.2f}"
    if predicted != true:
        text += f" (true: {images.classes[true]})"
    return draw_caption(images.image(index), text, predicted)


@dataclass(frozen=True)
class _Chosen:
    """Some images of a data set, counted from 0.

    Attributes:
        dataset: Whose images they are.
        indices: The number of each image in `dataset`.
    """

    dataset: Dataset
    indices: tuple[int, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes

    def __len__(self) -> int:
        return len(self.indices)

    def record(self, index: int) -> ImageRecord:
        return self.dataset.record(self.indices[index])

    def image(self, index: int) -> Tensor:
        return self.dataset.image(self.indices[index])

    def objects(self, index: int) -> Objects:
        return cast(DetectionDataset, self.dataset).objects(self.indices[index])

    def label(self, index: int) -> int:
        return cast(ClassificationDataset, self.dataset).label(self.indices[index])

    def mask(self, index: int) -> Tensor:
        return cast(SegmentationDataset, self.dataset).mask(self.indices[index])
