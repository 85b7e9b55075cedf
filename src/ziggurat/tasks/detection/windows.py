"""Objects as a window of their image sees them."""

from __future__ import annotations

import torch
from torch import Tensor

from ziggurat.data.batch import Objects
from ziggurat.data.detections import Detections
from ziggurat.data.extents import Region

LEAST_SEEN = 0.25  # share of a box, of which less would be a line at the window's edge


def inside(found: Detections, window: Region) -> Detections:
    """Return the detections that reach far enough into a window, whole, in pixels of the window."""
    seen = _reaches(found.boxes_xyxy, window)
    boxes = found.boxes_xyxy[seen] - _origin(window)
    return Detections(boxes, found.scores[seen], found.labels[seen])


def objects_inside(objects: Objects, window: Region) -> Objects:
    """Return the objects that reach far enough into a window, whole, in pixels of the window."""
    seen = _reaches(objects.boxes_xyxy, window)
    return Objects(objects.boxes_xyxy[seen] - _origin(window), objects.labels[seen])


def _origin(window: Region) -> Tensor:
    return torch.tensor([window.left, window.top, window.left, window.top])


def _reaches(boxes_xyxy: Tensor, window: Region) -> Tensor:
    bottom, right = window.end
    low = torch.maximum(boxes_xyxy[:, :2], torch.tensor([window.left, window.top]))
    high = torch.minimum(boxes_xyxy[:, 2:], torch.tensor([right, bottom]))
    seen = (high - low).clamp(min=0).prod(dim=1)
    whole = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(dim=1)
    return (seen > 0) & (seen >= LEAST_SEEN * whole)
