"""Which differences between two lists of detections rounding alone has decided.

Of two candidates of a class that overlap too far the better one remains: if their scores are nearer than rounding, either may. Of two
whose IoU lies at the threshold within rounding, both may remain or one. Where a limit cuts, either of two equal ones may be the last.
What follows from such a choice (a third candidate that only one of the two would have put out) is decided by it, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ziggurat.config import DecodeConfig
from ziggurat.data.detections import Detections

SCORE_TIE = 2e-6  # scores that are nearer are equal but for rounding
ROUNDED_PIXELS = 2**-13  # float32 of hundreds of pixels, after some operations
SAME_SCORE, SAME_PIXELS = 1e-4, 0.05  # of two detections that are the same one


@dataclass(frozen=True)
class Unmatched:
    """Detections that only one of two lists has.

    Attributes:
        lost: Only ours, by index.
        added: Only theirs, by index.
    """

    lost: list[int]
    added: list[int]


def unmatched(ours: Detections, theirs: Detections) -> Unmatched:
    """Pair each detection with one of its class, score and place, the nearest first, and return those that remain."""
    pixels = (ours.boxes_xyxy[:, None] - theirs.boxes_xyxy).abs().amax(dim=2)
    fits = _same(ours, theirs, pixels)
    lost, added = [], set(range(len(theirs)))
    for mine in range(len(ours)):
        free = fits[mine].nonzero().flatten()
        if not len(free):
            lost.append(mine)
            continue
        chosen = int(free[pixels[mine, free].argmin()])
        fits[:, chosen] = False
        added.remove(chosen)
    return Unmatched(lost, sorted(added))


def decided_by_rounding(
    candidates: Detections, ours: Detections, theirs: Detections, decode: DecodeConfig
) -> bool:
    """Return whether each detection that only one list has follows from a tie.

    Args:
        candidates: Of the network that `ours` is of: all above the score threshold, before any was put out.
        ours: Those of them that remained.
        theirs: What another program has found in the same image.
        decode: How both became detections.
    """
    open_ones = unmatched(ours, theirs)
    members = [_candidate(candidates, ours, mine) for mine in open_ones.lost]
    members += [_candidate(candidates, theirs, one) for one in open_ones.added]
    if not members:
        return True
    if None in members:
        return False  # something that the network has not found at all
    chosen = torch.tensor(members)
    overlap, near = _overlaps(candidates, chosen, decode.nms_threshold)
    equal = (candidates.scores[chosen][:, None] - candidates.scores).abs() <= SCORE_TIE
    explained = ((overlap & equal) | near).any(dim=1)
    explained |= _at_a_limit(candidates.scores[chosen], ours, theirs, candidates, decode)
    linked = overlap[:, chosen]
    while True:  # what an explained one puts out, or no longer does
        following = explained | (linked & explained).any(dim=1)
        if torch.equal(following, explained):
            return bool(explained.all())
        explained = following


def _same(ours: Detections, theirs: Detections, pixels: Tensor) -> Tensor:
    near = (ours.scores[:, None] - theirs.scores).abs() <= SAME_SCORE
    return (ours.labels[:, None] == theirs.labels) & near & (pixels <= SAME_PIXELS)


def _candidate(candidates: Detections, found: Detections, index: int) -> int | None:
    """Return the candidate that a detection was; None if it was none."""
    box, score, label = found.boxes_xyxy[index], found.scores[index], found.labels[index]
    pixels = (candidates.boxes_xyxy - box).abs().amax(dim=1)
    distance = (candidates.scores - score).abs() / SAME_SCORE + pixels / SAME_PIXELS
    fits = (
        (candidates.labels == label)
        & (pixels <= SAME_PIXELS)
        & ((candidates.scores - score).abs() <= SAME_SCORE)
    )
    if not bool(fits.any()):
        return None
    return int(distance.where(fits, torch.inf).argmin())


def _at_a_limit(
    scores: Tensor, ours: Detections, theirs: Detections, candidates: Detections, decode: DecodeConfig
) -> Tensor:
    """Return which have the score of a limit: the threshold, the last detection, or the last candidate."""
    bounds = [decode.score_threshold]
    bounds += [float(one.scores[-1]) for one in (ours, theirs) if len(one) >= decode.max_detections]
    bounds += [one.best_cut for one in (ours, theirs, candidates) if one.candidates_cut]
    near = (scores[:, None] - torch.tensor(bounds, dtype=scores.dtype)).abs() <= SCORE_TIE
    return near.any(dim=1)


def _overlaps(candidates: Detections, chosen: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return which candidates of its class overlap each of some too far but for rounding, and with which rounding decides it."""
    boxes = candidates.boxes_xyxy
    iou = box_iou(boxes[chosen], boxes)
    alike = candidates.labels[chosen][:, None] == candidates.labels
    alike[torch.arange(len(chosen)), chosen] = False
    sides = (boxes[chosen, 2:] - boxes[chosen, :2]).amin(dim=1).clamp(min=1)
    rounding = (ROUNDED_PIXELS * 8 / sides)[:, None].clamp(max=1e-2)  # two boxes of four sides
    return alike & (iou > threshold - rounding), alike & ((iou - threshold).abs() <= rounding)
