"""Every task by its name: the only place that turns a name into a task.

A task from outside is registered as ours are, by a script (`register_task`) or by a package (the group of entry points
``ziggurat.tasks``); see `ziggurat.config.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ziggurat.config import RunConfig
from ziggurat.config.registry import Registry
from ziggurat.errors import UserError
from ziggurat.models.vision import VisionModel
from ziggurat.tasks.base import Task
from ziggurat.tasks.classification.members import ClassificationMembers
from ziggurat.tasks.classification.task import ClassificationTask
from ziggurat.tasks.detection.members import DetectionMembers
from ziggurat.tasks.detection.task import DetectionTask
from ziggurat.tasks.segmentation.members import SegmentationMembers
from ziggurat.tasks.segmentation.task import SegmentationTask

TASKS: Registry[type[Task[Any, Any]]] = Registry("task", "ziggurat.tasks")

# Of a task the one of several models. One that is derived from ours may join predictions in another way: it says so itself.
_MEMBERS: dict[type[Task[Any, Any]], Callable[[Sequence[Task[Any, Any]]], Task[Any, Any]]] = {
    DetectionTask: DetectionMembers,
    ClassificationTask: ClassificationMembers,
    SegmentationTask: SegmentationMembers,
}

AnyTask = TypeVar("AnyTask", bound="type[Task[Any, Any]]")


def register_task(task: AnyTask) -> AnyTask:
    """Give a task its name in `TASKS`; a decorator of a class.

    Raises:
        UserError: If another task has the name.
    """
    TASKS.register(task.name, task)
    return task


for _task in (DetectionTask, ClassificationTask, SegmentationTask):
    register_task(_task)


def find_task(name: str) -> type[Task[Any, Any]]:
    """Return the task of a name.

    Raises:
        UserError: If there is none.
    """
    if name not in TASKS:
        raise UserError(f"task must be one of {', '.join(['auto', *TASKS])}: got '{name}'")
    return TASKS[name]


def make_task(model: VisionModel, config: RunConfig) -> Task[Any, Any]:
    """Return the task of a run: the one that its config names, else the one that its model is declared for."""
    return find_task(model.task if config.task == "auto" else config.task)(model, config)


def join_tasks(tasks: Sequence[Task[Any, Any]]) -> Task[Any, Any]:
    """Return the task of several models whose predictions are averaged; of one model its own.

    Args:
        tasks: Of each model, all of one kind.

    Raises:
        UserError: If predictions of this kind cannot be averaged.
    """
    first = tasks[0]
    if len(tasks) == 1:
        return first
    return _MEMBERS.get(type(first), first.of_members)(tasks)


def model_task(task: type[Task[Any, Any]]) -> str:
    """Return the task that the models of a task are declared for: itself, unless it says otherwise."""
    return task.model_task or task.name


def tasks_of(annotations: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks that kinds of annotations serve, those of the first kind first.

    Example:
        >>> tasks_of(["boxes", "outlines"])
        ('detect', 'segment')
    """
    serves = [name for kind in annotations for name, task in TASKS.items() if kind in task.annotations]
    return tuple(dict.fromkeys(serves))
