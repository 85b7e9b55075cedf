"""What images are normalized by, measured over the training data where no published weights say it, and kept in the run's config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ziggurat.config import DataConfig, RunConfig, load_config, read_numbers
from ziggurat.data.dataset import Dataset
from ziggurat.data.readers.layout import read_bands
from ziggurat.data.statistics import Measured, Measuring, joined, units_of
from ziggurat.data.views import share_of
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.heartbeat import phase
from ziggurat.runs.folder import CONFIG
from ziggurat.runs.progress import Meter

_MEASURED = ("mean", "std", "shown", "stretch")  # what training sets


def is_measured(config: DataConfig) -> bool:
    """Whether the mean and deviation of a config have to be measured."""
    if config.mean:
        return False
    return config.normalize == "data" or (config.normalize == "auto" and config.has_own_bands)


def as_begun(config: RunConfig, folder: Path) -> RunConfig:
    """Return the config of a run that goes on with what its folder says was measured; as it is where nothing was yet."""
    if config.data.mean or not (folder / CONFIG).is_file():
        return config
    begun = load_config(folder / CONFIG).data
    return replace(config, data=replace(config.data, **{name: getattr(begun, name) for name in _MEASURED}))


def measured(config: RunConfig, dataset: Dataset, workers: Workers) -> tuple[RunConfig, list[str]]:
    """Return a config with the mean and deviation of each band of the training data, and what there is to say of it.

    Args:
        config: Its bands are resolved.
        dataset: The training data.
        workers: All workers, each of which measures some parts of the images.

    Raises:
        UserError: On every worker, if an image cannot be decoded, or a band holds nothing.

    Communication: one gather of the sums and of some samples.
    """
    data = config.data
    if not is_measured(data):
        return replace(config, data=_with_stretch(data)), []
    bands = read_bands(data.bands) or ()
    shown = [bands.index(number) for number in read_bands(data.shown) or ()] if bands else []
    units = units_of(dataset)
    costs = [unit.region.volume for unit in units]
    mine = units[share_of(workers.rank, workers.size, costs)]
    measuring, faults = Measuring(dataset, shown, len(units)), list[str]()
    with Meter("measuring images", "parts", workers.is_first) as meter:

        def progress(done: int) -> None:
            phase("data")
            meter(done, len(mine))

        try:
            measuring.run(mine, progress)
        except UserError as error:
            faults = error.faults
    gathered = workers.gather((measuring.parts, measuring.drawn, faults))
    if faults := [fault for _, _, some in gathered for fault in some]:
        raise UserError(faults)
    found = joined(
        [part for parts, _, _ in gathered for part in parts],
        [np.concatenate([one for _, drawn, _ in gathered for one in drawn[band]]) for band in shown],
    )
    return _noted(config, found)


def _noted(config: RunConfig, found: Measured) -> tuple[RunConfig, list[str]]:
    data = config.data
    numbers = data.bands.split(",") if read_bands(data.bands) else ["red", "green", "blue"]
    constant = [number for number, std in zip(numbers, found.std, strict=True) if std == 0]
    std = [one or 1.0 for one in found.std]
    stretch = data.stretch
    if found.low and not stretch:
        stretch = ",".join(
            f"{_short(low)}:{_short(high)}" for low, high in zip(found.low, found.high, strict=True)
        )
    changed = replace(data, mean=_listed(found.mean), std=_listed(std), stretch=stretch)
    notes = [
        f"images are normalized by what the training data has in {'band ' if read_bands(data.bands) else ''}{', '.join(numbers)}: mean {_shown(found.mean)}, deviation "
        f"{_shown(std)}"
    ]
    if constant:
        notes.append(
            f"band {', '.join(constant)} is the same in all training images: the network learns nothing from it"
        )
    return replace(config, data=changed), notes


def _with_stretch(data: DataConfig) -> DataConfig:
    """Return a config that says how bands of which the mean is given are shown: two deviations to either side."""
    bands = read_bands(data.bands)
    if not bands or data.stretch or not data.mean:
        return data
    mean, std = read_numbers(data.mean), read_numbers(data.std)
    places = [bands.index(number) for number in read_bands(data.shown) or ()]
    limits = [(mean[place] - 2 * std[place], mean[place] + 2 * std[place]) for place in places]
    return replace(data, stretch=",".join(f"{_short(low)}:{_short(high)}" for low, high in limits))


def _listed(values: Sequence[float]) -> str:
    """Return numbers with commas between, with the digits that tell float32 apart."""
    return ",".join(map(_short, values))


def _short(value: float) -> str:
    return f"{value:.9g}"


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.5g}" for value in values)
