"""Which detection answers for which object, by hand."""

import torch

from support.scenes import found, truth
from ziggurat.metrics.matching import CROWDED, FREE, at_least, match

LEFT, RIGHT = (0, 0, 10, 10), (20, 0, 30, 10)


def test_each_object_is_taken_once_by_the_best_detection():
    objects = truth((*LEFT, 0), (*RIGHT, 0))
    detections = found((1, 0, 11, 10, 0.9, 0), (*LEFT, 0.8, 0), (*RIGHT, 0.7, 0), (50, 50, 60, 60, 0.6, 0))
    assert match(detections, objects, same_class=True).tolist() == [0, FREE, 1, FREE]


def test_the_order_is_that_of_the_scores():
    detections = found((*LEFT, 0.1, 0), (1, 0, 11, 10, 0.9, 0), (*LEFT, 0.9, 0))
    assert match(detections, truth((*LEFT, 0)), same_class=True).tolist() == [FREE, 0, FREE]


def test_a_detection_takes_what_it_overlaps_most_and_of_equal_ones_the_later():
    objects = truth((0, 0, 10, 8), (0, 0, 10, 9), (0, 0, 10, 9))
    assert match(found((0, 0, 10, 10, 0.9, 0)), objects, same_class=True).tolist() == [2]


def test_half_an_overlap_is_enough_and_less_is_not():
    objects = truth((0, 0, 10, 10, 0))
    detections = found((0, 0, 10, 20, 0.9, 0)), found((0, 0, 10, 20.1, 0.9, 0))
    assert [match(one, objects, same_class=True).tolist() for one in detections] == [[0], [FREE]]


def test_classes_are_kept_apart_or_not():
    objects, detections = truth((*LEFT, 1)), found((*LEFT, 0.9, 0), (*LEFT, 0.8, 1))
    assert match(detections, objects, same_class=True).tolist() == [FREE, 0]
    assert match(detections, objects, same_class=False).tolist() == [0, FREE]


def test_a_crowd_swallows_any_number_but_an_object_goes_first():
    objects = truth((0, 0, 100, 100, 0, True), (*LEFT, 0))
    detections = found((*LEFT, 0.9, 0), (*LEFT, 0.8, 0), (40, 40, 50, 50, 0.7, 0), (95, 0, 110, 10, 0.6, 0))
    assert match(detections, objects, same_class=True).tolist() == [1, CROWDED, CROWDED, FREE]


def test_nothing_found_or_nothing_there():
    assert match(found(), truth((*LEFT, 0)), same_class=True).tolist() == []
    assert match(found((*LEFT, 0.9, 0)), truth(), same_class=True).tolist() == [FREE]


def test_at_least_keeps_the_score_itself():
    kept = at_least(found((*LEFT, 0.5, 0), (*RIGHT, 0.49, 1)), 0.5)
    assert torch.equal(kept.boxes_xyxy, torch.tensor([LEFT], dtype=torch.float32))
    assert (len(kept.scores), kept.labels.tolist()) == (1, [0])
