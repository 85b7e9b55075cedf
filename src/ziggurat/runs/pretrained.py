"""A file of weights in the place of a run: torchvision's published detectors, and whatever else others have trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ziggurat.config import RunConfig
from ziggurat.errors import UserError
from ziggurat.models.build import build_model, task_of
from ziggurat.models.vision import VisionModel
from ziggurat.models.weights import WeightsReport, load_weights
from ziggurat.runs.folder import Run
from ziggurat.tasks.registry import find_task


def published_config(name: str, weights: Path) -> RunConfig:
    """Return the config of a model whose weights come from a file: what is usual for its kind, in float32.

    Args:
        name: The model's.
        weights: The file.

    Raises:
        UserError: If no model is named.
    """
    if name == "auto":
        raise UserError(
            f"{weights} is a file: give the model that its weights belong to, such as --model fcos-resnet50-fpn; or "
            "name the folder of a run"
        )
    task = task_of(name)
    return dataclasses.replace(find_task(task).pretrained_settings(name), task=task, dtype="fp32")


def load_published(weights: Path, config: RunConfig) -> Run:
    """Build the model of a config with as many classes as a file of weights has, and load them.

    Labels of a detector with 91 or 80 classes are COCO's; others have the names of the data set that they are
    evaluated on, or are numbered.

    Raises:
        UserError: If the file does not fit the model, or lacks a part of it.
    """
    task = find_task(config.task)
    model, report = _load(weights, config, task.usual_classes)
    if report.mismatched:
        model, report = _load(weights, config, classes_in_file(model, report))
    if report.missing or report.mismatched:
        raise UserError(
            f"the weights of {config.model.name} must be complete to be run without training: {report.summary()}"
        )
    return Run(model.eval(), config, *task.known_classes(model.num_classes))


def classes_in_file(model: VisionModel, report: WeightsReport) -> int:
    """Return the number of classes of a file of weights, from the layers that the model itself names as its classes'.

    Such a layer has a fixed number of outputs for each class: one, or as many as there are anchors.

    Args:
        model: Of another number of classes.
        report: What did not fit, all of it of these layers.

    Raises:
        UserError: If the shapes are not those of one number of classes.
    """
    found = set()
    for one in report.mismatched:
        outputs_of_class, rest = divmod(one.shape_in_model[0], model.num_classes)
        classes, more = divmod(one.shape_in_file[0], outputs_of_class) if outputs_of_class else (0, 1)
        fits = not rest and not more and one.shape_in_file[1:] == one.shape_in_model[1:]
        found.add(classes if fits and one.name.rpartition(".")[0] in model.class_layers else 0)
    count = found.pop() if len(found) == 1 else 0
    if count < 1:
        raise UserError(
            f"the number of classes cannot be told from the weights: {report.summary()}; the layers of the classes are "
            f"{', '.join(model.class_layers)}: choose the model that the weights belong to"
        )
    return count


def _load(weights: Path, config: RunConfig, num_classes: int) -> tuple[VisionModel, WeightsReport]:
    model = build_model(config.model, num_classes)
    return model, load_weights(model, str(weights))
