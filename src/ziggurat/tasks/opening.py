"""Data sets as a task sees them: opened by the annotations that it can be trained on."""

from __future__ import annotations

from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.dataset import Dataset
from ziggurat.data.formats import NotServedError, open_split, recognise_annotations
from ziggurat.data.formats.table import Split
from ziggurat.errors import UserError
from ziggurat.tasks.registry import find_task, tasks_of


def open_dataset(
    path: str,
    split: Split,
    task: str,
    config: DataConfig,
    digits: DigitsConfig,
    classes: tuple[str, ...] | None = None,
) -> Dataset | None:
    """Open one split of a data set; its images are not decoded yet.

    Args:
        path: Of the data set; it, and what follows but the task, is as for `open_split`.
        split: Which one.
        task: What the data set is for; it must have such annotations.
        config: How images and masks are read.
        digits: How the embedded data set looks.
        classes: Names of the labels; None takes the data set's.

    Returns:
        The split, or None if there is no ``val`` split.

    Raises:
        UserError: If nothing is recognised, or for faults that make training impossible; all are listed.
    """
    try:
        return open_split(path, split, find_task(task).annotations, config, digits, classes)
    except NotServedError as error:
        serves = tasks_of(error.annotations)
        raise UserError(
            f"the data set must serve the task {task}: {path} was recognised as {error.format}, which serves "
            f"{' and '.join(serves)} here; give --task {next(iter(serves), '')} or another data set"
        ) from None


def recognise_tasks(path: str, config: DataConfig) -> tuple[str, ...]:
    """Return the names of the tasks that a data set can serve, the most natural first.

    Args:
        path: A folder, an annotation file, or ``digits``.
        config: How images and masks are read.

    Raises:
        UserError: If there is no such data set or none is recognised.
    """
    return tasks_of(recognise_annotations(path, config))
