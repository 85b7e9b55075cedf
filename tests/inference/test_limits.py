"""What is said of what a limit has cut off."""

from __future__ import annotations

import pytest

from ziggurat.inference.limits import joined, truncation, truncation_notes
from ziggurat.tasks.base import CutOff
from ziggurat.tasks.detection.task import DetectionTask


class Limited(DetectionTask):
    def __init__(self) -> None:
        """A task without a model: it only names its limit."""


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([{}, {}], None),
        ([{2: CutOff(5, 0.9)}, {}], "has cut off 5 detections in 1 image, 5 of them in 2.png, the best with a score of 0.90"),
        ([{2: CutOff(5, 0.4)}, {0: CutOff(7, 0.8)}], "12 detections in 2 images, 7 of them in 0.png, the best with a score of 0.80"),
        ([{1: CutOff(3, 0.29)}, {0: CutOff(4, 0.1)}], "has cut off 7 detections in 2 images, of scores up to 0.29"),
    ],
)  # fmt: skip
def test_notes(parts: list[dict[int, CutOff]], said: str | None) -> None:
    """What hardly is an object is counted, and not to be mended."""
    cut = joined(parts)
    assert list(cut) == sorted(cut)
    assert truncation(cut) == sum(one.number for part in parts for one in part.values())
    notes = truncation_notes(Limited(), cut, lambda index: f"{index}.png")
    assert len(notes) == (said is not None)
    for note in notes:
        assert note.startswith("decode.max_detections has cut off")
        assert said is not None
        assert said in note
        assert ("--set" in note) == ("the best with" in said)


def test_the_limit_that_has_cut_off_most_is_named() -> None:
    cut = {0: CutOff(2, 0.9, "decode.max_detections"), 4: CutOff(30, 0.5, "decode.candidates")}
    (note,) = truncation_notes(Limited(), cut, lambda index: f"{index}.png")
    assert note.startswith("decode.candidates has cut off 32 detections in 2 images, 30 of them in 4.png")
    assert note.endswith("--set decode.candidates=10000")
