"""From a model to its task."""

from __future__ import annotations

from typing import cast

from ziggurat.config import RunConfig
from ziggurat.models.detector import Detector
from ziggurat.models.vision import VisionModel
from ziggurat.tasks.base import Task
from ziggurat.tasks.classification.task import ClassificationTask
from ziggurat.tasks.detection.task import DetectionTask
from ziggurat.tasks.segmentation.task import SegmentationTask


def make_task(model: VisionModel, config: RunConfig) -> Task:
    """Return the task of a model, as a run's configuration defines it."""
    if model.task == "detect":
        return DetectionTask(cast(Detector, model), config.loss, config.decode)
    if model.task == "classify":
        return ClassificationTask(model, config.loss)
    return SegmentationTask(model, config.loss)
