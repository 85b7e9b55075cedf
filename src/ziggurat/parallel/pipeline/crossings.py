"""What crosses the cuts of a pipeline: which action sends what to whom, as every worker knows it from the stages."""

from __future__ import annotations

from collections.abc import Sequence

from ziggurat.parallel.graph.stages import Stage
from ziggurat.parallel.pipeline.schedules import Action, Order
from ziggurat.parallel.pipeline.slots import Slot, timetable

Address = tuple[int, int, int]  # of a message: the microbatch, the stage that sends, the stage that receives
Name = tuple[str, Address]  # of a message in a step: ``forward`` or ``backward``, and its address


class Crossings:
    """The messages of one step.

    Args:
        stages: Of each microbatch.
        num_workers: Stage ``s`` is on worker ``s % num_workers``.
    """

    def __init__(self, stages: Sequence[Sequence[Stage]], num_workers: int) -> None:
        self.stages, self.num_workers = stages, num_workers

    def worker(self, stage: int) -> int:
        """Return the worker of a stage."""
        return stage % self.num_workers

    def sources(self, stage: Stage) -> list[int]:
        """Return the stages that a stage hears of: those that make what it needs, and the one before it."""
        before = {stage.number - 1} if stage.number else set()
        return sorted(before | stage.receives.keys())

    def targets(self, stage: Stage, num_stages: int) -> list[int]:
        """Return the stages that hear of a stage."""
        after = {stage.number + 1} if stage.number + 1 < num_stages else set()
        return sorted(after | stage.sends.keys())

    def needs(self, action: Action) -> list[Action]:
        """Return the actions, on whichever worker, that must have been done before one."""
        kind, number, index = action
        stage = self.stages[index][number]
        if kind == "forward":
            return [Action("forward", source, index) for source in self.sources(stage)]
        users = [Action("backward", user, index) for user in stage.sends]
        return [Action("forward", number, index), *users]

    def messages(self, action: Action) -> list[tuple[int, Name]]:
        """Return what an action sends to other workers, in order: receivers and names."""
        kind, number, index = action
        stages = self.stages[index]
        stage = stages[number]
        reached = self.targets(stage, len(stages)) if kind == "forward" else list(stage.receives)
        sent = [(self.worker(target), (str(kind), (index, number, target))) for target in reached]
        return [(worker, name) for worker, name in sent if worker != self.worker(number)]

    def timetable(self, orders: Sequence[Order]) -> list[list[Slot[Action, Name]]]:
        """Return what each worker does in each slot of the step, see `slots`."""
        return timetable(orders, self.needs, self.messages)
