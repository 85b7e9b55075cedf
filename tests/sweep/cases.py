"""What each network of a sweep is put through: plans, sizes, microbatches."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sweep.third_party import find_entry

SIZES = {"square": (96, 96), "odd": (99, 115), "prime": (101, 127)}
# many batch norms in a row over a handful of values amplify rounding: the last maps would be of 1 x 2 pixels
LARGE_SIZES = {"square": (160, 160), "odd": (155, 171), "prime": (151, 163)}
# its auxiliary classifier has a window of 5 x 5 on a map that it has pooled
LARGEST_SIZES = {"square": (304, 304), "odd": (301, 315), "prime": (307, 311)}
VIDEO_SIZES = {
    "square": (448, 448),
    "odd": (450, 454),
    "prime": (454, 458),
}  # half of them: it pools 7 x 7 after five halvings
ONE_SIZE = {"square": (224, 224), "odd": (224, 224), "prime": (224, 224)}  # the network takes no other
SIZES_OF = {
    "atss-resnet18-bifpn": LARGE_SIZES,
    "fcos-resnet18-bifpn": LARGE_SIZES,
    "fcos-tf_efficientnet_lite0-fpn": LARGE_SIZES,
    "timm:dla60_res2net": LARGE_SIZES,
    "timm:dla60_res2next": LARGE_SIZES,
    "timm:ghostnetv2_100": LARGE_SIZES,
    "timm:inception_v3": LARGE_SIZES,
    "timm:inception_v4": LARGE_SIZES,
    "timm:inception_resnet_v2": LARGE_SIZES,
    "torchvision:inception_v3": LARGEST_SIZES,
    "torchvision:maxvit_t": ONE_SIZE,
    "torchvision:s3d": VIDEO_SIZES,
    "torchvision:ssd300_vgg16": LARGEST_SIZES,
    "torchvision:vit_b_32": ONE_SIZE,
}
STAGE_SIZE = (64, 64)
# its maps keep the size of the images for a third of its layers: eight workers with batches of 96 pixels need 50 GB
HEAVY = {"pyramidnet-164-270-bottleneck": (32, 32)}  # the size that it was made for
FRAMES = 5
FRAMES_OF = {"torchvision:s3d": 16}  # it pools pairs of frames after three halvings
BATCH = 3  # a batch norm of two values gives 1 and -1 whatever they are: its gradient is rounding
BATCH_OF = {
    "smp:pan/mobilenet_v2": 8
}  # a batch norm after pooling to one position, with gradients larger than others'
SCHEDULES = ("gpipe", "1f1b", "interleaved")
STAGE_PLANS = ("pp=2", "pp=3", "pp=4")
MICROBATCH = 4  # images; the last microbatch of several has one less
MOST_MICROBATCHES = 8


@dataclass(frozen=True)
class Case:
    """One step that is compared.

    Attributes:
        plan: Where it is computed.
        size: Of the images: ``square``, ``odd``, ``prime``, or ``small``.
        schedule: Of the stages, where the plan has some.
        microbatches: Pieces of the batch; 0 takes few images in one piece.
    """

    plan: str
    size: str = "square"
    schedule: str = ""
    microbatches: int = 0

    @property
    def title(self) -> str:
        """Plan, schedule, and in how many microbatches."""
        pieces = f"in {self.microbatches}" if self.microbatches else ""
        return " ".join(word for word in (self.plan, self.schedule, pieces) if word)

    def shape(self, model: Any, family: str, name: str) -> tuple[int, ...]:
        """Return the shape of the images for a network."""
        entry = find_entry(name)
        if entry is not None:
            return (entry.shape[0] * max(1, self.microbatches), *entry.shape[1:])
        several = self.microbatches * MICROBATCH - (self.microbatches > 1)
        batch = several or BATCH_OF.get(name, BATCH)
        only = getattr(model, "only_size", None)
        sizes = SIZES_OF.get(name, SIZES)
        sizes = sizes | {"small": STAGE_SIZE if sizes is SIZES else sizes["square"]}
        if several and name in HEAVY:
            sizes = sizes | {"square": HEAVY[name]}
        rows, columns = (only, only) if only else sizes[self.size]
        if family.endswith("video"):
            return (several or 1, 3, FRAMES_OF.get(name, FRAMES), rows // 2, columns // 2)
        return (batch, 3, rows, columns)


def spatial_cases(number: int) -> tuple[Case, ...]:
    """Return the plans with sp, each at a size of its own: the same for every network."""
    return Case("sp=2", "square"), Case("sp=3", "odd"), Case("sp=2x2", "prime")


def every_pair(number: int) -> tuple[Case, ...]:
    """Return each plan with sp at each size."""
    plans = [case.plan for case in spatial_cases(number)]
    return tuple(Case(plan, size) for plan, size in itertools.product(plans, SIZES))


def stage_cases(number: int) -> tuple[Case, ...]:
    """Return two, three and four stages on as many workers, each in another schedule.

    One of the three has a number of microbatches that goes through 1 to 8, the others have two or three: 72 networks in a row
    go through every combination of plan, schedule and number.

    Example:
        >>> [case.title for case in stage_cases(0)]
        ['pp=2 gpipe in 1', 'pp=3 1f1b in 3', 'pp=4 interleaved in 2']
        >>> varied = [(n // 3 % 3, stage_cases(n)[n // 3 % 3]) for n in range(72)]
        >>> len({case.title for _, case in varied})
        72
    """
    cases = []
    for place, plan in enumerate(STAGE_PLANS):
        varies = place == number // 3 % 3
        count = 1 + number // 9 % MOST_MICROBATCHES if varies else 2 + (number + place) % 3 % 2
        cases.append(Case(plan, "small", SCHEDULES[(number + place) % 3], count))
    return tuple(cases)


AXES = (
    "dp=2,pp=2", "sp=2,pp=2", "dp=2,sp=2,pp=2", "lp=2", "lp=3", "tp=2", "dp=2,tp=2", "fsdp=2", "fsdp=2,sp=2",
)  # fmt: skip


def axis_cases(number: int) -> tuple[Case, ...]:
    """Return products of axes, with two microbatches: the same for every network."""
    return tuple(Case(plan, "square", microbatches=2) for plan in AXES)


def third_party_cases(number: int) -> tuple[Case, ...]:
    """Return two bands; for every third network of the list also tiles, and two stages with two microbatches.

    Example:
        >>> [len(third_party_cases(number)) for number in range(4)]
        [3, 1, 1, 3]
    """
    more = (Case("sp=2x2"), Case("pp=2", microbatches=2))
    return (Case("sp=2"), *(more if number % 3 == 0 else ()))


Cases = Callable[[int], tuple[Case, ...]]
