"""Random targets of a detector's level, for tests of its class loss."""

from __future__ import annotations

import torch

from ziggurat.tasks.detection.assignment import LevelTargets, Places

IMAGES, ANCHORS, CLASSES, ROWS, COLUMNS = 2, 3, 4, 5, 6


def random_targets(positives: int, ignored: int) -> LevelTargets:
    chosen = torch.randperm(IMAGES * ANCHORS * ROWS * COLUMNS)[: positives + ignored]
    parts = torch.unravel_index(chosen, (IMAGES, ANCHORS, ROWS, COLUMNS))
    image, anchor, row, column = ([part[:positives], part[positives:]] for part in parts)
    places = [Places(image[i], row[i], column[i], anchor[i]) for i in range(2)]
    boxes = torch.zeros(positives, 4)
    return LevelTargets(places[0], places[1], boxes, boxes, torch.randint(0, CLASSES, (positives,)))
