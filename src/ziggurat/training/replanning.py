"""When a run asks the planner by itself (``plan.replan=changes``), and what it takes: decisions of the first worker alone.

    cores that it may use   4 4 4 4 2 2 2 4 4 4 2 2 2 2 2 2 2 2 2 2 2 2 2 ...
                                                |<---- HOLDS ---->| asks, unless it has asked in the last `every` steps;
                                                                    what is not better by a margin is not taken

Nothing here reads a clock, a file or the machine: who calls says what there is.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from ziggurat.config import RunConfig, bands_of
from ziggurat.data.extents import Extent

HOLDS = 8  # steps, for which other cores are to be there before anybody is asked; other images for `WINDOW`
WINDOW = 32  # steps over which the size of images is averaged, as it may be another one in each
OTHER_AREA = 1.5  # times as many pixels, or as few, are other images
MARGIN = 0.15  # by which part of it a step must be forecast to be shorter: more than forecasts are wrong by
MOST_MARGIN = 0.3  # that is ever asked for
SIDE = 32  # of which the sides of an average image are multiples, as those of crops are


class Surroundings(NamedTuple):
    """What a plan is chosen for.

    Attributes:
        cores: That the first worker may use.
        crop: Rows and columns of the images of a step, on average.
    """

    cores: int
    crop: Extent

    def differs(self, other: Surroundings) -> str:
        """Return in words what is not as it was in others; nothing where that is the same, or nearly."""
        said = []
        if self.cores != other.cores:
            said.append(f"the cores that it may use are {self.cores} (before: {other.cores})")
        if self.has_other_images(other):
            said.append(f"images are {_by(self.crop)} pixels on average (before: {_by(other.crop)})")
        return " and ".join(said)

    def has_other_images(self, other: Surroundings) -> bool:
        """Whether the size of images is another one than in others."""
        return not 1 / OTHER_AREA < _area(self.crop) / _area(other.crop) < OTHER_AREA


def _area(crop: Extent) -> int:
    rows, columns = crop
    return rows * columns


def _by(crop: Extent) -> str:
    return "x".join(map(str, crop))


@dataclass
class Replanning:
    """Whether it is time to ask the planner, and by how much its answer must be better.

    Attributes:
        every: In how many steps at most one question is asked; 0 asks none.
        crop: That the first plan is taken to be chosen for, as `ziggurat plan` does.
        planned_for: What the present plan was chosen for, or found good in; None before the first step.
        asked_at: Steps that were done at the last question, at the last change of plan, or where this began.
        asked_for: What the question that is open is about.
        now: What there is.
        since: Steps that were done when it began to differ from that for which the plan was chosen.
        left: How often each plan was left because the planner said so.
    """

    every: int
    crop: Extent
    planned_for: Surroundings | None = None
    asked_at: int = 0
    asked_for: Surroundings | None = None
    now: Surroundings | None = None
    since: int = 0
    left: Counter[str] = field(default_factory=Counter)
    _crops: deque[Extent] = field(default_factory=lambda: deque(maxlen=WINDOW))

    @classmethod
    def of(cls, config: RunConfig) -> Replanning:
        """Return the start of a run, or of one that goes on."""
        every = 0 if config.pipeline.replan == "never" else config.pipeline.replan_every
        return cls(every, (config.data.crop, config.data.crop))

    def see(self, done: int, cores: int, crop: Extent) -> None:
        """Take note of what there is before a step.

        Args:
            done: Steps that are done.
            cores: That this process may use.
            crop: Rows and columns of the images of the step.
        """
        self._crops.append(crop)
        if self.planned_for is None:
            self.planned_for, self.asked_at = Surroundings(cores, self.crop), done
        now, before = (
            Surroundings(cores, self._average() or self.planned_for.crop),
            self.now or self.planned_for,
        )
        if now.cores != before.cores or not now.differs(self.planned_for):
            self.since = done
        self.now = now

    def _average(self) -> Extent | None:
        """Return the mean rows and columns of the last steps; None before there are enough."""
        if len(self._crops) < WINDOW:
            return None
        means = (sum(sides) / WINDOW for sides in zip(*self._crops, strict=True))
        return tuple(max(SIDE, SIDE * round(mean / SIDE)) for mean in means)

    def reason(self, done: int) -> str:
        """Return why the planner is to be asked now, in words; nothing as long as it is not."""
        if not self.every or self.now is None or self.planned_for is None or self.asked_for is not None:
            return ""
        holds = (
            WINDOW if self.now.has_other_images(self.planned_for) else HOLDS
        )  # the mean of both is none of them
        if done - self.since < holds or done - self.asked_at < self.every:
            return ""
        return self.now.differs(self.planned_for)

    def ask(self, done: int) -> None:
        """Take note of a question."""
        self.asked_at, self.asked_for = done, self.now

    @property
    def is_stale(self) -> bool:
        """Whether what is asked about is not there any more."""
        return self.asked_for is not None and self.now is not None and bool(self.now.differs(self.asked_for))

    def drop(self) -> None:
        """Forget a question whose answer is for something else than what there is: in some steps it may be asked again."""
        self.asked_for = None

    def settle(self, done: int) -> None:
        """Take note that the plan is good for what there is, as the planner or the user has said."""
        self.planned_for, self.asked_for, self.asked_at = self.asked_for or self.now, None, done

    def margin(self, plan: str) -> float:
        """Return by which part of it a step must be forecast to be shorter under a plan: to come back to one that was left asks for more."""
        return min(MOST_MARGIN, float(MARGIN * 2 ** self.left[plan]))

    def shape(self, config: RunConfig) -> str:
        """Return the images of a step, as `ziggurat plan --input` takes them; empty where they are those that it takes by itself."""
        crop = self.crop if self.now is None else self.now.crop
        if crop == self.crop:
            return ""
        return f"{config.train.batch_size}x{bands_of(config.model)}x{_by(crop)}"


def replan_fault(config: RunConfig, world: int | None) -> str | None:
    """Return why a run cannot ask the planner by itself; None if it can, or need not.

    Args:
        config: With its device.
        world: Workers of the world that torchrun has made, or None.
    """
    if config.pipeline.replan == "never":
        return None
    where = "under torchrun" if world is not None else "on GPUs" if config.device == "cuda" else ""
    if where:
        return (
            f"plan.replan={config.pipeline.replan} lets a run ask the planner while it goes on, which {where} it cannot, as the number of "
            "its workers stays: leave it out (plan.replan=never), and name the plan that `ziggurat plan` finds"
        )
    if config.local_sgd.replicas:
        return (
            f"plan.replan={config.pipeline.replan} asks the planner, which knows the costs of one model, not of replicas: leave it out "
            "(plan.replan=never), or local_sgd.replicas"
        )
    return None
