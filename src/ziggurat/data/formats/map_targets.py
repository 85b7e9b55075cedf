"""What the items of PyTorch's map-style data sets have beside their images, in the forms that torchvision gives it.

====================  ===================================================================  ================
a whole number        the label                                                            ``CIFAR10``
an image or array of  the class of each pixel, from 0; `IGNORED_PIXEL` takes no part       ``VOCSegmentation``
whole numbers
a dictionary          ``boxes`` (in pixels: x and y of the first corner, then of the       torchvision's
                      second), ``labels``; perhaps ``iscrowd``, ``area``, ``image_id``     detectors
====================  ===================================================================  ================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from ziggurat.data.batch import IGNORED_PIXEL, Objects
from ziggurat.data.dataset import Annotations
from ziggurat.data.extents import Extent
from ziggurat.errors import UserError

FORMS = "a whole number (its label), an image or array of whole numbers (its mask), or a dictionary with 'boxes' and 'labels'"
_READ_AS_FILES = {
    "coco": "as torchvision's CocoDetection gives it: name its annotation file in the place of the data set, and its folder as "
    "data.images",
    "voc": "as torchvision's VOCDetection gives it: name the folder with JPEGImages and Annotations in the place of the data set",
}


@dataclass(frozen=True)
class Boxed:
    """What a dictionary holds: the objects, and the id of the image if it gives one."""

    annotations: Annotations
    image_id: int | None


def kind_of(target: Any, name: str) -> str:
    """Return the kind of annotation that a target is: ``labels``, ``masks`` or ``boxes``.

    Args:
        target: Of one item.
        name: Of the item, in messages.

    Raises:
        UserError: If it has none of the forms.
    """
    if isinstance(target, Mapping):
        if "boxes" in target and "labels" in target:
            return "boxes"
        remedy = _READ_AS_FILES["voc"] if "annotation" in target else "give it these keys"
        raise UserError(
            f"{_rule(name)}: it is a dictionary of {', '.join(map(str, target)) or 'nothing'}, {remedy}"
        )
    if isinstance(target, list) and all(isinstance(one, Mapping) for one in target):
        raise UserError(
            f"{_rule(name)}: it is a list of {len(target)} dictionaries, {_READ_AS_FILES['coco']}"
        )
    values = _array(target)
    if values is not None and values.dtype.kind in "iub":
        if values.size == 1 and values.ndim < 2:
            return "labels"
        if values.ndim == 2 or (values.ndim == 3 and values.shape[0] == 1):
            return "masks"
    raise UserError(f"{_rule(name)}: it is {_described(target, values)}")


def label_of(target: Any, count: int, name: str) -> int:
    """Return the label of an item.

    Raises:
        UserError: If it is none of `count` classes.
    """
    if kind_of(target, name) != "labels":
        raise UserError(f"{_rule(name)}, the same for all: others are labels, and it is {_described(target)}")
    values = _array(target)
    assert values is not None
    label = int(values.reshape(()))
    if not 0 <= label < count:
        raise UserError(f"labels must be from 0 to {count - 1}, of {count} classes: {name} has {label}")
    return label


def mask_of(target: Any, count: int, extent: Extent, name: str) -> Tensor:
    """Return the mask of an item, uint8, shape ``(H, W)``.

    Raises:
        UserError: If it is none of the image's size, or has values of no class.
    """
    if kind_of(target, name) != "masks":
        raise UserError(f"{_rule(name)}, the same for all: others are masks, and it is {_described(target)}")
    values = _array(target)
    assert values is not None
    rows, columns = extent
    height, width = values.shape[-2:]
    values = values.reshape(height, width)
    if (height, width) != extent:
        raise UserError(
            f"a mask must be of its image's size: {name} has a mask of {width} x {height} pixels, an image of "
            f"{columns} x {rows}; what resizes one must resize the other"
        )
    unknown = np.unique(values[(values < 0) | ((values >= count) & (values != IGNORED_PIXEL))])
    if unknown.size:
        shown = ", ".join(map(str, unknown[:5].tolist()))
        raise UserError(
            f"the values of a mask must be classes from 0 to {count - 1}, or {IGNORED_PIXEL} for pixels that take no part: {name} "
            f"has {shown}; name all classes (data.classes), or map the values"
        )
    return torch.from_numpy(values.astype(np.uint8))


def boxes_of(target: Any, count: int, first: int, extent: Extent, name: str) -> Boxed:
    """Return the objects of an item.

    Boxes that end up to a pixel outside of the image are cut to it.

    Args:
        target: Of the item.
        count: Classes.
        first: The number that the first class has: 1 where 0 stands for the background.
        extent: Rows and columns of the image.
        name: Of the item, in messages.

    Raises:
        UserError: If boxes and labels do not fit each other, the image, or the classes.
    """
    if kind_of(target, name) != "boxes":
        raise UserError(f"{_rule(name)}, the same for all: others have boxes, and it is {_described(target)}")
    boxes_xyxy = _corners(target["boxes"], name)
    labels = _numbers(target["labels"], len(boxes_xyxy), "labels", name).long() - first
    wrong = labels[(labels < 0) | (labels >= count)]
    if len(wrong):
        background = (
            "; 0 stands for the background"
            if first
            else ("; where 0 stands for the background in the data set, name it first, as 'background'")
        )
        raise UserError(
            f"labels must be from {first} to {first + count - 1}, of {count} classes: {name} has {int(wrong[0]) + first}{background}"
        )
    rows, columns = extent
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    limit = torch.tensor([columns, rows])
    bad = (high <= low).any(1) | (low < -1).any(1) | (high > limit + 1).any(1) | ~boxes_xyxy.isfinite().all(1)
    if bad.any():
        raise UserError(
            "a box must lie in its image, the first corner above and left of the second: "
            f"{name} has {boxes_xyxy[bad][0].tolist()} in {columns} x {rows} pixels; boxes are (x, y, x, y) in pixels"
        )
    boxes_xyxy = torch.minimum(boxes_xyxy.clamp(min=0), limit.repeat(2))
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(dim=1)
    if "area" in target:
        areas = _numbers(target["area"], len(labels), "area", name).float()
    crowd = torch.zeros(len(labels), dtype=torch.bool)
    if "iscrowd" in target:
        crowd = _numbers(target["iscrowd"], len(labels), "iscrowd", name).bool()
    image_id = _array(target.get("image_id"))
    known = image_id is not None and image_id.size == 1 and image_id.dtype.kind in "iu"
    return Boxed(
        Annotations(Objects(boxes_xyxy, labels), areas, crowd),
        int(image_id.reshape(())) if known and image_id is not None else None,
    )


def _corners(given: Any, name: str) -> Tensor:
    """Return boxes as corners, float32, shape ``(N, 4)``; torchvision's tensors say which other form they have."""
    boxes = torch.as_tensor(np.asarray(given), dtype=torch.float32)
    if not boxes.numel():
        return boxes.reshape(0, 4)
    form = str(getattr(getattr(given, "format", None), "value", "XYXY")).lower()
    if boxes.ndim != 2 or boxes.shape[1] != 4 or form not in ("xyxy", "xywh", "cxcywh"):
        raise UserError(
            f"boxes must have the shape (N, 4), each (x, y, x, y) in pixels: {name} has {tuple(boxes.shape)} of the form {form}"
        )
    corners: Tensor = box_convert(boxes, form, "xyxy")
    return corners


def _numbers(given: Any, count: int, what: str, name: str) -> Tensor:
    numbers = torch.as_tensor(np.asarray(given))
    if numbers.numel() == count == 0:
        return numbers.reshape(0)
    if numbers.shape != (count,):
        raise UserError(
            f"each box must have one of '{what}': {name} has {count} boxes and {what} of shape {tuple(numbers.shape)}"
        )
    return numbers


def _array(target: Any) -> np.ndarray | None:
    """Return a number, an image or an array as an array; None of all else."""
    if isinstance(target, Tensor):
        return (
            target.detach().cpu().float().numpy()
            if target.dtype == torch.bfloat16
            else target.detach().cpu().numpy()
        )
    if isinstance(target, (Image.Image, np.ndarray, np.generic, int, float)):
        return np.asarray(target)
    return None


def _described(target: Any, values: np.ndarray | None = None) -> str:
    values = _array(target) if values is None else values
    if values is None:
        size = f" of {len(target)}" if isinstance(target, Sequence) else ""
        return f"of type {type(target).__name__}{size}"
    hint = (
        "; a mask must not be scaled as an image is (PILToTensor in the place of ToTensor)"
        if values.ndim > 1
        else ""
    )
    return f"of type {type(target).__name__}, {values.dtype} of shape {values.shape}{hint if values.dtype.kind == 'f' else ''}"


def _rule(name: str) -> str:
    return f"beside the image an item must have {FORMS}: {name} has something else"
