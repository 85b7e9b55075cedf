"""`ziggurat convert`: a data set in another format.

What a format cannot say is lost: crowds (all but COCO), outlines (all but masks), classes of no image (VOC, CSV,
ImageFolder), and the parts of boxes outside of the image (YOLO).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.dataset import Dataset
from ziggurat.data.formats import FORMATS, open_split, recognise_annotations, write_dataset
from ziggurat.data.formats.recognise import recognise
from ziggurat.data.formats.table import Split
from ziggurat.data.formats.writing import check_out
from ziggurat.errors import UserError, nearest
from ziggurat.runs.progress import Meter
from ziggurat.tasks.registry import tasks_of


def written_formats() -> list[str]:
    """Return the names of the formats that are written."""
    return [name for name, format in FORMATS.items() if format.write]


def convert(path: str, out: Path, format: str, config: DataConfig, digits: DigitsConfig) -> dict[str, Any]:
    """Convert a data set, as ``ziggurat convert`` does; image files are linked where possible, else copied.

    Args:
        path: The data set: a folder, an annotation file, or ``digits``.
        out: The folder of the new data set; it must not exist, or be empty.
        format: One of `written_formats`.
        config: How images and masks are read.
        digits: How the embedded data set looks.

    Returns:
        The fields ``format``, ``task``, ``out``, ``classes`` and the images of each of the ``splits``.

    Raises:
        UserError: If the format is not known or does not hold what the data set serves, for faults of the data set,
            or if the folder cannot be written.
    """
    written = written_formats()
    if format not in written:
        raise UserError(
            f"--format must be one of {', '.join(written)}: got {format}; {nearest(format, written)}"
        )
    check_out(out)
    annotations, held = recognise_annotations(path, config), tuple(FORMATS[format].write)
    kind = next((kind for kind in held if kind in annotations), None)
    if kind is None:
        possible = [name for name in written if set(FORMATS[name].write) & set(annotations)]
        raise UserError(
            f"{format} holds data for the task {' or '.join(tasks_of(held))}: {path} serves "
            f"{' and '.join(tasks_of(annotations))}; give --format {' or '.join(possible)}"
        )
    if config.bands == "auto":  # files are passed on as they are, whatever a network would see of them
        config = replace(config, bands="all")
    splits: dict[Split, Dataset] = {}
    for split in _split_names(path, kind):
        dataset = open_split(path, split, [kind], config, digits)
        if dataset is not None:
            splits[split] = dataset
    with Meter("convert", "images") as meter:
        write_dataset(splits, out, format, kind, meter)
    return {
        "format": format,
        "task": tasks_of([kind])[0],
        "out": str(out),
        "classes": list(next(iter(splits.values())).classes),
        "splits": {split: len(dataset) for split, dataset in splits.items()},
    }


def _split_names(path: str, kind: str) -> list[Split]:
    """Return the splits that are written; of an annotation file, which serves as both, there is one."""
    if path == "digits":
        return ["train", "val"]
    sources = recognise(Path(path)).sources(path, [kind])
    return ["train"] if len(sources) > 1 and len(set(sources.values())) == 1 else list(sources)
