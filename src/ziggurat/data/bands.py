"""Which bands of its images a network sees, decided once, from the first training image, before training begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ziggurat.config import DataConfig
from ziggurat.data.dataset import Dataset
from ziggurat.data.readers.composite import all_bands, colours, is_deep
from ziggurat.data.readers.layout import read_bands
from ziggurat.data.readers.opened import ImageInfo
from ziggurat.data.readers.registry import open_image_file
from ziggurat.data.regions import RegionDataset
from ziggurat.errors import UserError


def as_all_bands(config: DataConfig) -> DataConfig:
    """Return a config by which the headers of all images pass whose bands may be chosen; unchanged where they are chosen already."""
    return replace(config, bands="all") if is_open(config) else config


def is_open(config: DataConfig) -> bool:
    """Whether the first image decides what ``data.bands=auto`` is."""
    return config.bands == "auto" and not config.range.strip() and config.extra == "refuse"


def first_header(paths: Iterable[Path]) -> ImageInfo | None:
    """Return what the header of the first image says; None where there is none.

    An image whose header cannot be read is passed over: who reads it says so.
    """
    for path in paths:
        try:
            with open_image_file(path) as image:
                return image.info
        except UserError:
            continue
    return None


def paths_of(dataset: Dataset | None) -> Iterator[Path]:
    """Yield the files of a data set's images, where they are files."""
    if isinstance(dataset, RegionDataset):
        dataset = dataset.whole
    path = getattr(dataset, "path", None)  # sets of a program have none
    if dataset is not None and path is not None:
        yield from (path(index) for index in range(len(dataset)))


def resolve_bands(config: DataConfig, first: ImageInfo | None) -> DataConfig:
    """Return a config whose ``data.bands`` are numbers, and that says which of them pictures show; as it is where they are ``rgb``.

    What is ``auto`` still stands for ``rgb`` from then on: of runs of before, too.

    Args:
        config: As the user gave it.
        first: What the header of the first training image says; None where there is none.

    Raises:
        UserError: If numbers are repeated, or are named to be shown and not seen.

    Example:
        >>> info = ImageInfo(((8, 8),), "uint16", ("red", "green", "blue", "other"), bits=16)
        >>> resolved = resolve_bands(DataConfig(), info)
        >>> resolved.bands, resolved.shown, resolved.layout
        ('1,2,3,4', '1,2,3', '4 uint16')
    """
    if config.bands == "auto" and (not is_open(config) or first is None or _is_plain(first)):
        return config
    bands = read_bands("all" if config.bands == "auto" else config.bands)
    if bands is None:
        return config
    if not bands:
        if first is None:
            raise UserError(
                "data.bands=all needs image files, whose headers say how many there are: name them, such as data.bands=1,2,3,4"
            )
        bands = all_bands(first)
    if len(set(bands)) < len(bands):
        raise UserError(f"data.bands must name each band once: got {config.bands}")
    shown = read_bands(config.shown) if config.shown.strip() else _natural(bands, first)
    if not set(shown or ()) <= set(bands):
        raise UserError(_not_seen(config.shown, bands))
    layout = config.layout
    if first is not None and not layout:
        layout = f"{len(all_bands(first))} {first.dtype}" if config.bands in ("auto", "all") else first.dtype
    return replace(config, bands=_listed(bands), shown=_listed(shown or bands[:1]), layout=layout)


def _is_plain(info: ImageInfo) -> bool:
    """Whether an image is grey or coloured, of up to 8 bits."""
    return not is_deep(info) and len(all_bands(info)) == len(colours(info))


def _natural(bands: tuple[int, ...], first: ImageInfo | None) -> tuple[int, ...]:
    """Return the bands that an image shows: its colours, else the first three, or the first as grey."""
    if first is not None and {"red", "green", "blue"} <= set(first.roles):
        own = tuple(place + 1 for place in colours(first))
        if set(own) <= set(bands):
            return own
    return bands[:3] if len(bands) >= 3 else bands[:1]


def _not_seen(shown: str, bands: tuple[int, ...]) -> str:
    return f"data.shown must be among the bands that are seen, {_listed(bands)}: got {shown}"


def _listed(bands: tuple[int, ...]) -> str:
    return ",".join(map(str, bands))


def shown_as(config: DataConfig, begun: DataConfig) -> DataConfig:
    """Return a config whose pictures show those bands of the network that a run's pictures show, by their numbers in other files.

    Args:
        config: Names as many bands as the run, in the files that are read now.
        begun: Of the run.

    Example:
        >>> begun = DataConfig(bands="1,2,3,4", shown="4,2,1")
        >>> shown_as(DataConfig(bands="5,6,7,8", shown="4,2,1"), begun).shown
        '8,6,5'
    """
    was, now = read_bands(begun.bands), read_bands(config.bands)
    if not was or not now or len(was) != len(now) or config.shown != begun.shown:
        return config
    places = [was.index(number) for number in read_bands(begun.shown) or ()] if begun.shown else []
    return replace(config, shown=_listed(tuple(now[place] for place in places)))


def band_faults(config: DataConfig, count: int) -> list[str]:
    """Return what is wrong with settings that have a number for each band.

    Args:
        config: Its bands are resolved.
        count: Bands that the network sees.
    """
    faults = []
    if bool(config.mean) != bool(config.std):
        faults.append("data.mean and data.std belong together: give both, or none")
    for name, text in (("mean", config.mean), ("std", config.std)):
        if text and len(text.split(",")) != count:
            faults.append(f"data.{name} must have a number for each of {count} bands: got {text}")
    shown = read_bands(config.shown) if config.shown else ()
    seen = read_bands(config.bands)
    if seen and not set(shown or ()) <= set(seen):
        faults.append(_not_seen(config.shown, seen))
    if config.stretch and len(config.stretch.split(",")) != len(shown or ()):
        faults.append(
            f"data.stretch must have LOW:HIGH for each band that is shown ({config.shown or 'none'}): got {config.stretch}"
        )
    return faults
