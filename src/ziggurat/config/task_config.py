"""What of a run's config says what a network is trained for, and what its outputs mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ziggurat.config.fields import CLASS_WEIGHTS, COUNT, PROBABILITY, SHARE, between, setting


@dataclass(frozen=True)
class LossConfig:
    """The loss of each task."""

    normalizer: Literal["default", "positives", "images"] = setting(
        "default",
        "What the loss is divided by: ``default`` is the head's own as its paper's reference "
        "implementation has it (FCOS and ATSS: ``positives``; RetinaNet: ``images``), ``positives`` is "
        "the number of positive positions of the global batch (and, for the boxes of ATSS, the sum of "
        "their centernesses), ``images`` weighs each image by its own positives and divides by the images "
        "of the global batch.",
    )
    focal_alpha: float = setting(0.25, "Weight of positives in the focal loss.", PROBABILITY)
    focal_gamma: float = setting(2.0, "Exponent of the focal loss.", between(0.0, 20.0))
    detection: Literal["focal", "equalized"] = setting(
        "focal",
        "The loss of a detector's classes: the focal loss, or the ``equalized`` focal loss, which makes the exponent and the factor of a "
        "class larger the less its positives weigh against its negatives, in gradients summed up over all steps.",
    )
    equalized_scale: float = setting(
        8.0,
        "How much the exponent of the equalized focal loss grows at most, of a class without any positive.",
        between(0.0, 100.0),
    )
    class_weights: str = setting(
        "none",
        "What the true class's part of the loss is multiplied by: ``none``, ``inverse`` to how often a class occurs in the training data "
        "(objects, images, or pixels), to its ``effective`` number (``loss.effective_beta``; of objects or images), or a positive number "
        "for each class with commas between. Means over images and pixels are weighted ones; a detector's positives have the weight in "
        "the class term alone.",
        CLASS_WEIGHTS,
    )
    effective_beta: float = setting(
        0.999,
        "With ``class_weights=effective``: ``n`` examples count for ``(1 - beta**n) / (1 - beta)`` different ones.",
        SHARE,
    )
    box_weight: float = setting(1.0, "Factor of the box term.", between(0.0, 1e4))
    smoothing: float = setting(
        0.0, "Share of a class's target probability that is spread over all classes (classification).", SHARE
    )
    level_weight: float = setting(
        0.3,
        "Factor of the loss of each level's own prediction (``pnn``); 0 supervises the joined one only.",
        between(0.0, 1e4),
    )
    segmentation: Literal["ce", "focal", "dice", "ce+dice", "focal+dice"] = setting(
        "ce",
        "Terms of the segmentation loss: cross-entropy (``ce``), focal loss (``focal``), Dice of the "
        "global batch (``dice``), or a sum of two.",
    )
    dice_weight: float = setting(1.0, "Factor of the Dice term.", between(0.0, 1e4))


@dataclass(frozen=True)
class DecodeConfig:
    """From the network's outputs to boxes."""

    score_threshold: float = setting(0.05, "Boxes with a lower score are dropped.", PROBABILITY)
    nms_threshold: float = setting(
        0.6,
        "Of two boxes of a class whose IoU is larger, the one with the lower score is dropped.",
        PROBABILITY,
    )
    candidates: int = setting(1000, "Best positions of each level that are decoded.", between(1, COUNT))
    max_detections: int = setting(
        300,
        "Most boxes of a tile, and of an image that is not larger than one; what it cuts off is counted "
        "(``truncated``) and said.",
        between(1, COUNT),
    )
    fusion: Literal["weighted", "nms"] = setting(
        "weighted",
        "How the boxes of several runs become one prediction: ``weighted`` averages boxes that lie on each other (weighted boxes "
        "fusion, by the package ``ensemble-boxes``), ``nms`` keeps the best of them.",
    )
