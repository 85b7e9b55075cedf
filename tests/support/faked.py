"""Predictions made from the truth with noise, and models that give them back for the images that they belong to."""

import hashlib
import json
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.functional import max_pool2d, one_hot

from ziggurat.config import DataConfig, DigitsConfig, RunConfig
from ziggurat.data.detections import Detections
from ziggurat.data.digits import DigitLabels, DigitMasks, DigitScenes
from ziggurat.inference.evaluate import Evaluation
from ziggurat.tasks.base import Task
from ziggurat.tasks.classification.task import ClassificationTask
from ziggurat.tasks.detection.task import DetectionTask
from ziggurat.tasks.segmentation.task import SegmentationTask

CONFIG = RunConfig(dtype="fp32", data=DataConfig(crop=128))


class Remembering(nn.Module):
    """Knows the prediction of each image of a data set by its pixels."""

    mean, std, size_multiple = (0.0,) * 3, (1.0,) * 3, 32

    def __init__(self, dataset, predictions, num_classes):
        super().__init__()
        self.num_classes, self.level_names = num_classes, ()
        pixels = [dataset.image(index) for index in range(len(dataset))]
        self.known = {_key(image): prediction for image, prediction in zip(pixels, predictions, strict=True)}

    def forward(self, images_BCHW):
        found = [self.known[_key((255 * image).round().byte())] for image in images_BCHW]
        return {"logits": torch.stack(found)} if isinstance(found[0], torch.Tensor) else found


class Remembered(DetectionTask):
    """The task of a detector that remembers."""

    def __init__(self, model, config):
        Task.__init__(self, model, config)  # there is no head

    def detections(self, outputs, sizes):
        return outputs


def evaluated(task, dataset, predictions):
    """Return the evaluation of a prediction for each image."""
    metric = task.metric(dataset)
    for index, prediction in enumerate(predictions):
        metric.update(index, prediction)
    metric.merge([metric.state()])
    return Evaluation(metric.compute(), metric)


def _key(image_CHW):
    return hashlib.sha256(image_CHW.contiguous().numpy().tobytes()).digest()


def fake_detection(num_images=24, seed=0, **digits):
    """Return data set, evaluation, model and task; boxes are moved, classes mistaken, objects missed and invented."""
    dataset = DigitScenes(DigitsConfig(val_scenes=num_images, **digits), "val")
    generator = torch.Generator().manual_seed(seed)
    found = [_disturb(dataset.objects(index), generator) for index in range(num_images)]
    model = Remembering(dataset, found, 10)
    task = Remembered(model, CONFIG)
    return dataset, evaluated(task, dataset, found), model, task


def _disturb(objects, generator):
    def random(*shape):
        return torch.rand(shape, generator=generator)

    kept = random(len(objects)) < 0.9
    boxes, labels = objects.boxes_xyxy[kept], objects.labels[kept]
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    boxes = boxes + (random(*boxes.shape) - 0.5) * 0.35 * sides
    mistaken = random(len(labels)) < 0.05 + 0.03 * labels
    labels = torch.where(mistaken, (labels + 1 + (2 * random(len(labels))).long()) % 10, labels)
    scores = (0.95 - 0.4 * random(len(labels)) - 0.3 * mistaken).clamp(0.06)
    corner = 90 * random(2, 2)
    boxes = torch.cat([boxes, torch.cat([corner, corner + 10 + 28 * random(2, 2)], dim=1)]).float()
    scores = torch.cat([scores, 0.55 * random(2)])
    labels = torch.cat([labels, torch.randint(0, 10, (2,), generator=generator)])
    order = scores.argsort(descending=True, stable=True)
    return Detections(boxes[order], scores[order], labels[order])


def fake_classification(num_images=24, seed=0, noise=2.5):
    """Return data set, evaluation, model and task."""
    dataset = DigitLabels(DigitsConfig(val_scenes=num_images, count_min=1, count_max=1), "val")
    labels = torch.tensor([dataset.label(index) for index in range(num_images)])
    generator = torch.Generator().manual_seed(seed)
    logits = 5.0 * one_hot(labels, 10) + noise * torch.randn((num_images, 10), generator=generator)
    probabilities = logits.softmax(dim=1)
    model = Remembering(dataset, logits, 10)
    task = ClassificationTask(model, CONFIG)
    return dataset, evaluated(task, dataset, probabilities), model, task


def fake_segmentation(num_images=24, seed=0):
    """Return data set, evaluation, model and task; ink is thickened, and digits are mistaken or missed."""
    dataset = DigitMasks(DigitsConfig(val_scenes=num_images), "val")
    generator = torch.Generator().manual_seed(seed)
    logits, labels = [], []
    for index in range(num_images):
        mask = dataset.mask(index)
        thick = max_pool2d(mask[None].float(), 3, 1, 1)[0].byte() if index % 2 else mask.clone()
        for label in thick.unique().tolist()[1:]:
            if torch.rand((), generator=generator) < 0.05 + 0.04 * label:
                thick[thick == label] = int(torch.randint(0, 11, (), generator=generator))
        labels.append(thick)
        logits.append(one_hot(thick.long(), 11).permute(2, 0, 1).float())
    model = Remembering(dataset, logits, 11)
    task = SegmentationTask(model, CONFIG)
    return dataset, evaluated(task, dataset, labels), model, task


FAKES = {"detect": fake_detection, "classify": fake_classification, "segment": fake_segmentation}


def write_history(folder, num_steps=300, evaluations=4):
    """Write a ``metrics.jsonl`` of two terms that fall."""
    generator = torch.Generator().manual_seed(1)
    lines = []
    for step in range(1, num_steps + 1):
        noise = 1 + 0.5 * torch.rand(2, generator=generator)
        classes, boxes = ((2 * 30 / (30 + step) + 0.1) * noise).tolist()
        lr = 3e-3 * min(step / 20, 1 - 0.99 * step / num_steps)
        row = {
            "kind": "train",
            "step": step,
            "loss": classes + boxes,
            "loss_classes": classes,
            "loss_boxes": boxes,
        }
        lines.append(row | {"lr": lr})
        if step % max(num_steps // evaluations, 1) == 0:
            lines.append(
                {"kind": "val", "step": step, "map": 0.5 * step / num_steps, "map50": 0.8 * step / num_steps}
            )
            lines[-1] |= {"map_large": None, "map_per_class": {"0": 0.5}}
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")


class Board:
    """Keeps what it is shown."""

    def __init__(self):
        self.shown = {}

    def add_image(self, tag, img_tensor, global_step=None, *, dataformats):
        self.shown[tag] = SimpleNamespace(pixels=img_tensor, step=global_step, format=dataformats)
