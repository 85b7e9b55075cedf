"""A run that goes on to another length than it was defined for.

The learning rate is a function of the step and of the run's length. A run that is made longer has the schedule of its old length up to
where it is, and that of the new length from there on:

    steps          1 ........ 300        301 ........ 800
    learning rate  that of 300 steps     that of 800 steps, from its 301st on

So its bits are those of any other run that was defined for 300 steps and made longer there, on any number of workers; they are not
those of a run that was defined for 800 steps.
"""

from __future__ import annotations

from pathlib import Path

from ziggurat.config import RunConfig, earlier_definition, load_config
from ziggurat.errors import UserError
from ziggurat.runs.folder import CONFIG
from ziggurat.training.data import TrainingData
from ziggurat.training.optimization import learning_rate


def earlier_definitions(folder: Path) -> tuple[str, ...]:
    """Return what earlier versions called the run in a folder, for the checkpoints that they have written."""
    return (earlier_definition(load_config(folder / CONFIG)),) if (folder / CONFIG).is_file() else ()


def extension_of(folder: Path, config: RunConfig, data: TrainingData, done: int) -> str | None:
    """Return what is said of a run that goes on to another length; None if its length is as it was.

    Args:
        folder: Of the run, with the config that it has had.
        config: With the length that it is to have.
        data: Of the run.
        done: Steps that are done.

    Raises:
        UserError: If it has done as many steps already, or more.
    """
    before = load_config(folder / CONFIG)
    old, new = data.length(before.train), data.num_steps
    if old == new:
        return None
    if new <= done:
        raise UserError(
            f"a run goes on to more steps than it has done: {folder} has done {done}, and {new} are asked for; give more, "
            "or leave --steps and --epochs away"
        )
    rates = [
        learning_rate(min(done, length - 1), length, one.train)
        for length, one in ((old, before), (new, config))
    ]
    return (
        f"the run was defined for {old} steps and goes on to {new}: from step {done + 1} on the learning rate is that of a run of "
        f"{new} steps, {rates[1]:.2e} now, where it was {rates[0]:.2e}"
    )
