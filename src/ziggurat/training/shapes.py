"""The shape of each step's crops, the same on every worker, and what groups of like aspect ratio save of it."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from ziggurat.config import RunConfig
from ziggurat.data.aspect_groups import Pixels, canvas_of, count_pixels, group_of
from ziggurat.data.crop_sizes import CropShape, crop_size
from ziggurat.data.sampler import Sampler
from ziggurat.data.samples import TrainingSamples
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.heartbeat import phase

_KEPT = 64  # steps whose shape is known, as loaders ask for it again for every microbatch
MOST_SAMPLES = 512  # by which padding is told


def groups_of(samples: TrainingSamples, config: RunConfig, workers: Workers) -> np.ndarray | None:
    """Return the group of aspect ratio of each sample; None where there are no groups.

    Communication: one gather of the groups, as the sizes of images may have to be read from their files.
    """
    if not config.data.aspect_grouping:
        return None
    own = []
    for index in range(workers.rank, len(samples.dataset), workers.size):
        phase("data")
        record = samples.dataset.record(index)
        own.append(group_of(record.extent, config.data, record.spacing))
    groups = np.empty(len(samples.dataset), np.int64)
    for rank, part in enumerate(workers.gather(own)):
        groups[rank :: workers.size] = part
    return samples.of_images(groups)


class StepShapes:
    """From a step to the shape of its crops: a pure function of the seed, the step and the images' sizes.

    Args:
        config: Of the run.
        samples: Make the crops.
        sampler: Says which samples a step has.
    """

    def __init__(self, config: RunConfig, samples: TrainingSamples, sampler: Sampler) -> None:
        self._config, self._samples, self._sampler = config, samples, sampler
        self._known: OrderedDict[int, CropShape] = OrderedDict()

    def __call__(self, step: int) -> CropShape:
        """Return the shape of a step's crops."""
        data = self._config.data
        if not data.aspect_grouping:
            return CropShape(crop_size(data, self._config.seed, step))
        if step not in self._known:
            square = CropShape(crop_size(data, self._config.seed, step))
            canvas = canvas_of(self._samples.at(square), self._sampler.batch(step))
            self._known[step] = CropShape(square.side, canvas)
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return self._known[step]

    def said(self, num_steps: int) -> list[str]:
        """Return how much of the first steps' pixels is padding, and would be in square crops; in a sentence.

        Args:
            num_steps: Of the run.
        """
        data = self._config.data
        if not data.aspect_grouping:
            return []
        first = range(min(num_steps, max(1, MOST_SAMPLES // self._sampler.batch_size)))
        grouped = square = Pixels()
        for step in first:
            shape, ids = self(step), self._sampler.batch(step)
            grouped += count_pixels(self._samples, shape, ids)
            square += count_pixels(self._samples, CropShape(shape.side), ids)
        text = (
            f"data.aspect_grouping={data.aspect_grouping}: of the pixels of the first {len(first)} steps {grouped.padding:.0%} are padding, of "
            f"square crops {square.padding:.0%}; crops have {grouped.all / square.all:.0%} of the pixels of square ones"
        )
        return [text]
