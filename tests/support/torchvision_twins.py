"""A torchvision detector and our own with the same weights, and a batch for both."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection import fcos_resnet50_fpn, retinanet_resnet50_fpn

from support.targets import stack_targets
from ziggurat.config import DecodeConfig, ModelConfig, RunConfig
from ziggurat.data.batch import Microbatch, Objects, pad_and_stack
from ziggurat.models.build import build_model
from ziggurat.models.detector import Detector
from ziggurat.models.weights import load_weights
from ziggurat.tasks.detection.targets import ObjectTargets
from ziggurat.tasks.detection.task import DetectionTask
from ziggurat.tasks.registry import make_task

MAKERS = {"fcos": fcos_resnet50_fpn, "retinanet": retinanet_resnet50_fpn}


def make_twins(kind: str, num_classes: int, folder: Path) -> tuple[nn.Module, Detector, DetectionTask]:
    """Return torchvision's model with random weights that find something, ours with the same, and its task."""
    theirs = MAKERS[kind](weights=None, weights_backbone=None, num_classes=num_classes)
    theirs.transform.min_size, theirs.transform.max_size = (128,), 256  # no image of ours is resized
    with torch.no_grad():
        theirs.head.classification_head.cls_logits.weight.mul_(8)
        theirs.head.classification_head.cls_logits.bias.add_(3)
        theirs.head.regression_head.bbox_reg.weight.mul_(8)
    file = folder / f"{kind}.pth"
    torch.save(theirs.state_dict(), file)
    ours = build_model(ModelConfig(name=f"{kind}-resnet50-fpn"), num_classes)
    report = load_weights(ours, str(file))
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    decode = DecodeConfig(
        theirs.score_thresh, theirs.nms_thresh, theirs.topk_candidates, theirs.detections_per_img
    )
    return theirs, ours, make_task(ours, RunConfig(decode=decode))


def make_batch(sizes: list[tuple[int, int]], counts: list[int], num_classes: int) -> Microbatch:
    """Return images of noise with random boxes of 4 to 84 pixels."""
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    objects = [make_objects(size, count, num_classes) for size, count in zip(sizes, counts, strict=True)]
    return Microbatch(0, (), pad_and_stack(images, 1), tuple(sizes), stack_targets(objects, 0, 0))


def make_objects(size: tuple[int, int], count: int, num_classes: int) -> Objects:
    bounds = torch.tensor([size[1], size[0]])
    low = torch.rand(count, 2) * (bounds - 10)
    high = torch.minimum(low + 4 + 80 * torch.rand(count, 2), bounds)
    return Objects(torch.cat([low, high], 1), torch.randint(0, num_classes, (count,)))


def images_of(batch: Microbatch) -> list[Tensor]:
    """Return the images as torchvision takes them: each of its own size, from 0 to 1."""
    return [
        image[:, :rows, :columns] / 255
        for image, (rows, columns) in zip(batch.images_BCHW, batch.sizes, strict=True)
    ]


def targets_of(batch: Microbatch) -> list[dict[str, Tensor]]:
    return [{"boxes": objects.boxes_xyxy, "labels": objects.labels} for objects in split_objects(batch)]


def split_objects(batch: Microbatch) -> list[Objects]:
    """Return the objects of each image of a microbatch."""
    targets = batch.targets
    assert isinstance(targets, ObjectTargets)
    columns = (targets.boxes_xyxy.split(targets.counts), targets.labels.split(targets.counts))
    return [Objects(boxes, labels) for boxes, labels in zip(*columns, strict=True)]
