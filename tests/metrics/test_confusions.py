"""What is taken for what, by hand and against scikit-learn."""

import numpy as np
import torch
from sklearn.metrics import confusion_matrix

from support.scenes import found, random_scenes, truth
from ziggurat.metrics.confusions import classification_confusion, detection_confusion

BOX, OTHER, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)


def test_detection_by_hand():
    objects = truth((*BOX, 0), (*OTHER, 1), (*FAR, 1))
    detections = found(
        (*BOX, 0.9, 1),  # the object 0, mistaken
        (*BOX, 0.8, 0),  # right, but the better one has it
        (*OTHER, 0.7, 1),
        (70, 70, 80, 80, 0.6, 0),  # nothing is there
        (*FAR, 0.2, 1),  # too unsure
    )
    expected = [[0, 1, 0], [0, 1, 1], [2, 0, 0]]
    assert detection_confusion([objects], [detections], 2).tolist() == expected


def test_crowds_do_not_count():
    counts = detection_confusion([truth((*BOX, 0, True))], [found((*BOX, 0.9, 0), (*BOX, 0.8, 1))], 2)
    assert counts.tolist() == [[0] * 3] * 3


def test_every_object_and_every_shown_detection_counts_once():
    all_truth, all_found = random_scenes(0)
    all_truth = [
        truth(*torch.column_stack([t.boxes_xyxy, t.labels]).tolist()) for t in all_truth
    ]  # no crowds
    counts = detection_confusion(all_truth, all_found, 4)
    objects = torch.cat([one.labels for one in all_truth]).bincount(minlength=4)
    shown = torch.cat([one.labels[one.scores >= 0.3] for one in all_found]).bincount(minlength=4)
    assert counts[:4].sum(axis=1).tolist() == objects.tolist()
    assert counts[:, :4].sum(axis=0).tolist() == shown.tolist()
    assert counts[4, 4] == 0


def test_classification_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand((100, 300), generator=generator)
    labels = torch.randint(0, 300, (100,), generator=generator)
    labels[:3] = 255  # a mask's ignored value is a class like any other here
    expected = confusion_matrix(labels, probabilities.argmax(dim=1), labels=range(300))
    assert np.array_equal(classification_confusion(probabilities, labels), expected)
