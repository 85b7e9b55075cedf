"""Shows the first training samples before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ziggurat.data.batch import Sample
from ziggurat.errors import UserError
from ziggurat.report.first_batch import NUM_SAMPLES, draw_samples
from ziggurat.runs.log import RunLog
from ziggurat.system.writing import Pictures
from ziggurat.tasks.base import Task
from ziggurat.training.data import TrainingData
from ziggurat.visualize.composite import Composite

FILE = "train_batch.png"


def show_first_batch(data: TrainingData, task: Task[Any, Any], folder: Path, log: RunLog) -> None:
    """Draw the first samples of the first step into ``report/train_batch.png``, on the worker that speaks.

    Every sample is a function of the seed, its epoch and its number: that these are made once more, and whole where
    workers share images, changes nothing. Samples whose image cannot be read are left out; training says so.

    Args:
        data: Of the run.
        task: Of the run.
        folder: Of the run.
        log: Says it if the picture cannot be written: training goes on.
    """
    if not log.active or data.config.train.report != "pictures":
        return
    samples: list[Sample] = []
    names: list[str] = []
    whole = data.samples.at(data.shape(0)).whole()
    for id in (id for piece in data.pieces(0) for id in piece):
        if len(samples) == NUM_SAMPLES:
            break
        try:
            samples.append(whole.sample(id))
        except UserError:
            continue
        names.append(whole.dataset.record(whole.image_index(id.sample)).name)
    if not samples:
        return
    picture = draw_samples(samples, names, task, data.classes, Composite.of(data.config.data))
    log.board.add_image("report/train_batch", np.asarray(picture), 0, dataformats="HWC")
    path = folder / "report" / FILE
    written = Pictures()
    with written.write(path):
        path.parent.mkdir(exist_ok=True)
        picture.save(path)
    if written.faults:
        log.say(str(written))
