"""Truth and detections written as rows, and random ones."""

import numpy as np
import torch

from ziggurat.data.detections import Detections
from ziggurat.metrics.coco import GroundTruth


def truth(*rows):
    """Each row: x1, y1, x2, y2, label and, if it is one, whether a crowd."""
    rows = [(*row, 0, 0)[:6] if len(row) == 4 else (*row, 0)[:6] for row in rows]
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    areas = (values[:, 2:4] - values[:, :2]).prod(dim=1)
    return GroundTruth(values[:, :4], values[:, 4].long(), areas, values[:, 5].bool())


def found(*rows):
    """Each row: x1, y1, x2, y2, score, label."""
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].long())


def random_scenes(seed, num_images=30, num_classes=4):
    """A few crowds; detections near an object or anywhere, with many equal scores; the last class never occurs."""
    generator = np.random.default_rng(seed)
    all_truth, all_found = [], []
    for _ in range(num_images):
        count = int(generator.integers(0, 9))
        corner = generator.uniform(0, 60, (count, 2))
        boxes = np.hstack([corner, corner + generator.uniform(8, 40, (count, 2))])
        labels = generator.integers(0, num_classes - 1, count)
        crowd = generator.random(count) < 0.1
        all_truth.append(truth(*np.column_stack([boxes, labels, crowd]).tolist()))
        near = np.repeat(boxes, 2, axis=0)
        near = near + generator.uniform(-5, 5, near.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        anywhere = generator.uniform(0, 60, (3, 2))
        rows = np.vstack([near, np.hstack([anywhere, anywhere + 20])])
        guesses = np.append(np.repeat(labels, 2), [0, 1, 2])
        guesses = np.where(generator.random(len(guesses)) < 0.2, 1, guesses)
        scores = np.sort(generator.integers(1, 20, len(rows)) / 20)[::-1]
        order = generator.permutation(len(rows))
        all_found.append(found(*np.column_stack([rows[order], scores, guesses[order]]).tolist()))
    return all_truth, all_found
