"""The parity matrix tells what rounding alone decides from what is wrong."""

import runpy
from pathlib import Path

import pytest
import torch

from ziggurat.config import DecodeConfig
from ziggurat.data.detections import Detections

decided = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "export" / "ties.py"))[
    "decided_by_rounding"
]
A, NEAR_A, HALF, FAR = (
    [0.0, 0, 40, 40],
    [0.0, 2, 40, 42],
    [0.0, 0, 40, 24],
    [60.0, 60, 90, 90],
)  # HALF: IoU 0.6 with A


def found(*things, **more):
    """Detections of (box, score) or (box, score, label)."""
    boxes, scores = torch.tensor([one[0] for one in things]), torch.tensor([one[1] for one in things])
    labels = torch.tensor([one[2] if len(one) > 2 else 0 for one in things])
    return Detections(boxes, scores, labels, **more)


@pytest.mark.parametrize(
    ("candidates", "ours", "theirs", "expected"),
    [
        # the better one of two is open within rounding; of another score or class it is not
        ([(A, 0.9), (NEAR_A, 0.9 - 1e-6)], [0], [1], True),
        ([(A, 0.9), (NEAR_A, 0.9 - 1e-5)], [0], [1], False),
        ([(A, 0.9), (NEAR_A, 0.9 - 1e-6, 1)], [0], [1], False),
        # both or one remain at the threshold, and not beside it
        ([(A, 0.9), (HALF, 0.5)], [0, 1], [0], True),
        ([(A, 0.9), (NEAR_A, 0.5)], [0], [0, 1], False),
        # what a tie decides decides what it puts out
        ([(A, 0.9), (HALF, 0.5), ([0.0, 0, 40, 22], 0.3)], [0, 1], [0, 2], True),
        # one that is lost is lost
        ([(A, 0.9), (FAR, 0.8)], [0, 1], [0], False),
        ([(A, 0.9), (FAR, 0.05 + 1e-6)], [0, 1], [0], True),
    ],
)  # fmt: skip
def test_what_rounding_decides(candidates, ours, theirs, expected):
    every = found(*candidates)
    lists = [found(*(candidates[index] for index in chosen)) for chosen in (ours, theirs)]
    assert decided(every, *lists, DecodeConfig()) is expected


def test_what_the_network_has_not_found_is_no_tie():
    every = found((A, 0.9))
    assert not decided(every, every, found((A, 0.9), (FAR, 0.9)), DecodeConfig())


def test_the_last_of_a_full_list():
    every = found((A, 0.9), (FAR, 0.5), ([100.0, 0, 120, 20], 0.5 - 1e-6))
    first, second = (found(*((A, 0.9), one)) for one in ((FAR, 0.5), ([100.0, 0, 120, 20], 0.5 - 1e-6)))
    assert decided(every, first, second, DecodeConfig(max_detections=2))
    assert not decided(every, first, second, DecodeConfig(max_detections=3))
