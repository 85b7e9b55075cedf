"""Looks for every fault of a data set: what ``ziggurat check`` prints."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.bands import as_all_bands, first_header, resolve_bands
from ziggurat.data.batch import IGNORED_PIXEL
from ziggurat.data.digits import DigitScenes
from ziggurat.data.faults import Fault
from ziggurat.data.formats.classes import declare, note_absent_classes, validate_classes
from ziggurat.data.formats.joining import mask_header_faults
from ziggurat.data.formats.kinds import KINDS
from ziggurat.data.formats.learnable import class_fault, nothing_fault
from ziggurat.data.formats.opening import DIGITS, as_configured, read_table
from ziggurat.data.formats.palette import all_ignored_fault, find_palette
from ziggurat.data.formats.recognise import recognise
from ziggurat.data.formats.sound import emptiness, examine
from ziggurat.data.formats.table import Split, Summary, Table
from ziggurat.data.formats.validate import (
    doubled_boxes,
    note_overhang,
    validate_boxes,
    validate_outlines,
)
from ziggurat.data.masks import INEXACT, Palette, judge_mask
from ziggurat.data.readers.layout import Reading
from ziggurat.data.readers.seen import Seen, SeenImages, look_at, look_at_header
from ziggurat.errors import UserError
from ziggurat.system.forking import die_with_parent, fork_context, without_ctrl_c

_FEW = 32  # images that one process decodes before others are worth starting

Result = TypeVar("Result")
Progress = Callable[[int, int], None]


def nobody_watches(done: int, total: int) -> None:
    """Take no note of how far something is."""


def find_faults(
    path: str, config: DataConfig, progress: Progress = nobody_watches
) -> tuple[list[Fault], Summary]:
    """Return every fault of a data set, in all its splits and for all that it serves; all images are decoded.

    Args:
        path: A folder, an annotation file, or ``digits``.
        config: How images and masks are read.
        progress: Called for each file that is decoded with how many are, and all of its split.

    Raises:
        UserError: If there is no such data set or none is recognised.
    """
    if path == "digits":
        return [], _digits_summary()
    if not path:
        raise UserError("no data set is given: name a folder, an annotation file, or 'digits'")
    found = recognise(Path(path))
    kinds = list(found.kinds)
    faults: list[Fault] = []
    summaries, seen = [], SeenImages()
    for kind, sources in found.splits.items():
        if KINDS[kind].within in found.splits:
            continue  # the same annotations: outlines are validated with their boxes
        if len(set(sources.values())) == 1:  # one file serves as all splits; its faults are listed once
            sources = dict(list(sources.items())[:1])
        tables = {
            split: read_table(as_configured(source, split, config)) for split, source in sources.items()
        }
        for part in [one for one in kinds if KINDS[one].within == kind]:
            if not all(map(KINDS[part].is_there, tables.values())):
                kinds.remove(part)
        classes, new = _judge(tables, config, seen, progress)
        faults += new
        notes = tuple(dict.fromkeys(note for table in tables.values() for note in table.notes))
        few = class_fault(kind, classes, path) if classes else None
        notes += (few,) if few is not None else ()
        summaries.append(replace(_summary(found.format, _counts(tables), classes), notes=notes))
    return faults, replace(summaries[0], kinds=tuple(kinds), samples=seen.facts())


def _judge(
    tables: dict[Split, Table], config: DataConfig, seen: SeenImages, progress: Progress
) -> tuple[tuple[str, ...], list[Fault]]:
    """Return the classes of a data set and all faults of its splits."""
    first = next(iter(tables.values()))
    faults: list[Fault] = []
    classes = tuple(declare(first, config))
    if first.source.masks:
        classes = ()
        for split, table in tables.items():
            try:
                palette = find_palette(table, config, None)
            except UserError as error:
                places = [table.source.class_file or table.source.masks[0]]
                faults += [Fault(str(place), None, f"no classes: {error}") for place in places]
                faults += _table_faults(table, (), config, seen, progress)
            else:
                classes = classes or palette.names
                faults += [
                    *_table_faults(table, (), config, seen, progress),
                    *_pixel_faults(table, palette, config, split == "train", progress),
                ]
        return classes, list(dict.fromkeys(faults))
    for split, table in tables.items():
        faults += _table_faults(table, classes, config, seen, progress)
        if split == "train":
            note_absent_classes(table, classes)
    return classes, faults


def _counts(tables: dict[Split, Table]) -> dict[str, dict[str, int]]:
    return {
        split: {"images": len(table.images), "annotations": table.num_annotations}
        for split, table in tables.items()
    }


def _summary(format: str, splits: dict[str, dict[str, int]], classes: tuple[str, ...]) -> Summary:
    images = sum(counts["images"] for counts in splits.values())
    annotations = sum(counts["annotations"] for counts in splits.values())
    return Summary(format, images, annotations, splits, classes)


def _digits_summary() -> Summary:
    scenes = [DigitScenes(DigitsConfig(), "train"), DigitScenes(DigitsConfig(), "val")]
    splits: dict[str, dict[str, int]] = {
        dataset.split: {
            "images": len(dataset),
            "annotations": sum(len(dataset.objects(index)) for index in range(len(dataset))),
        }
        for dataset in scenes
    }
    return replace(_summary("digits", splits, scenes[0].classes), kinds=tuple(DIGITS))


def _table_faults(
    table: Table, classes: tuple[str, ...], config: DataConfig, seen: SeenImages, progress: Progress
) -> list[Fault]:
    """Return the faults of annotations and images; those of masks' pixels are not among them."""
    examined = examine(table, as_all_bands(config))
    bad = {fault.row for fault in examined.faults.all if fault.scope == "image"}
    for index in sorted(row for row in bad if row is not None):
        path = examined.paths[index]
        seen.add(look_at_header(path) if path is not None else Seen(""))
    found = [
        (index, path) for index, path in enumerate(examined.paths) if path is not None and index not in bad
    ]
    reading = Reading.of(resolve_bands(config, first_header([path for _, path in found])))
    looking = partial(look_at, max_pixels=config.max_pixels, reading=reading)
    for (index, path), one in zip(
        found, _spread(looking, [path for _, path in found], progress), strict=True
    ):
        seen.add(one)
        if one.fault:
            place = table.images[index].place
            examined.faults.add(Fault(str(path), place, f"undecodable image: {one.fault}", "image", index))
    if table.source.masks:
        examined.faults.add(*mask_header_faults(examined, config))
    else:
        examined.faults.add(
            *validate_boxes(table, examined.sizes),
            *doubled_boxes(table),
            *validate_outlines(table, examined.sizes),
            *validate_classes(table, classes),
        )
        note_overhang(table, examined.sizes)
    stopped = any(map(examined.faults.stops, table.faults))
    is_unlabelled_test = table.source.split == "test" and bool(table.images)
    return examined.faults.all + ([] if stopped or is_unlabelled_test else emptiness(examined))


def _pixel_faults(
    table: Table, palette: Palette, config: DataConfig, is_trained_on: bool, progress: Progress
) -> list[Fault]:
    """Decode every mask and return what is wrong with its pixels, and with those of all; masks without a pixel that takes part are noted."""
    paths = [row.path for row in table.masks if row.path.suffix.lower() not in INEXACT]
    judge = partial(judge_mask, palette=palette, max_pixels=config.max_pixels)
    judged = list(_spread(judge, paths, progress))
    faults = [
        Fault(str(path), None, fault, "image")
        for path, (found, _) in zip(paths, judged, strict=True)
        for fault in found
    ]
    idle = [path for path, (found, teaches) in zip(paths, judged, strict=True) if not (found or teaches)]
    if idle and len(idle) == len(table.masks) and is_trained_on:
        place = str(table.source.masks[0])
        return [*faults, Fault(place, None, nothing_fault("masks", len(idle), str(table.source.root)))]
    for path in idle:
        table.note(f"a mask of which no pixel takes part: all are {IGNORED_PIXEL}, or data.ignore", str(path))
    ignored = all_ignored_fault(table, palette, config)
    return faults if ignored is None else [*faults, ignored]


def _spread(
    function: Callable[[Path], Result], paths: Sequence[Path], progress: Progress
) -> Iterator[Result]:
    """Yield a function's result for each file; many files are spread over processes."""
    for done, result in enumerate(_results(function, paths), start=1):
        progress(done, len(paths))
        yield result


def _results(function: Callable[[Path], Result], paths: Sequence[Path]) -> Iterator[Result]:
    if len(paths) <= _FEW:
        yield from map(function, paths)
        return
    processes = min(len(os.sched_getaffinity(0)), len(paths) // _FEW + 1)
    with ProcessPoolExecutor(
        processes,
        mp_context=fork_context(),
        initializer=_prepare,
        initargs=(os.getpid(),),
    ) as pool:
        with without_ctrl_c():  # the processes start here
            results = pool.map(function, paths, chunksize=8)
        yield from results


def _prepare(parent: int) -> None:
    """Prepare a process of the pool: Ctrl-C reaches it, too, and is for the one that has started it, with which it ends."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
