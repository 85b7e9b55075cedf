"""Opens a split of a data set for training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.dataset import Dataset
from ziggurat.data.digits import DigitLabels, DigitMasks, DigitScenes
from ziggurat.data.faults import sentences
from ziggurat.data.formats import builtin  # noqa: F401 - registers the formats of our own
from ziggurat.data.formats.blocks import part_of
from ziggurat.data.formats.classes import declare, ids_of, note_absent_classes
from ziggurat.data.formats.joining import Joined, join_boxes, join_labels, join_masks, join_outlines
from ziggurat.data.formats.own import own_data, own_split
from ziggurat.data.formats.palette import find_palette
from ziggurat.data.formats.recognise import NotServedError, Recognised, recognise
from ziggurat.data.formats.registry import FORMATS
from ziggurat.data.formats.table import Source, Split, Table
from ziggurat.data.formats.validate import drop_empty_rows
from ziggurat.data.readers.spacing import Scaling
from ziggurat.errors import UserError

DIGITS: dict[str, type[DigitScenes] | type[DigitLabels] | type[DigitMasks]] = {
    "boxes": DigitScenes,
    "labels": DigitLabels,
    "masks": DigitMasks,
}
_JOIN = {"boxes": join_boxes, "outlines": join_outlines, "labels": join_labels}


def open_split(
    path: str,
    split: Split,
    annotations: Sequence[str],
    config: DataConfig,
    digits: DigitsConfig,
    classes: tuple[str, ...] | None = None,
) -> Dataset | None:
    """Open one split of a data set; its images are not decoded yet.

    Args:
        path: A folder, an annotation file (which serves as every split), or ``digits``, the embedded data set.
        split: ``train``, ``val`` or ``test``.
        annotations: The kinds of annotations that are wanted, the best first; the data set must have one of them.
        config: How images and masks are read.
        digits: How the embedded data set looks.
        classes: Names of the labels, such as those that a model was trained with; None takes those of the
            training split, or of this one where there is none.

    Returns:
        The split, or None if there is no ``val`` split. With ``data.split=blocks``, the training images of a data set without a
        ``val`` split are divided into both.

    Raises:
        NotServedError: If it has other annotations only.
        UserError: If nothing is recognised, for faults that make training impossible, all of which are listed, or if its images
            cannot be divided.
    """
    if config.split == "blocks" and split != "test" and not _has_validation(path, annotations):
        whole = _open_given(path, "train", annotations, config, digits, classes)
        assert whole is not None  # only the validation split may be missing
        return part_of(whole, split, path, config)
    return _open_given(path, split, annotations, config, digits, classes)


def _has_validation(path: str, annotations: Sequence[str]) -> bool:
    """Whether a data set has a validation split of its own; an annotation file, which serves as each split, has not."""
    own = own_data(path)
    if own is not None:
        return "val" in own.splits
    if path == "digits":
        return True
    sources = recognise(_given(path)).sources(path, annotations)
    return "val" in sources and sources["val"] != sources.get("train")


def _open_given(
    path: str,
    split: Split,
    annotations: Sequence[str],
    config: DataConfig,
    digits: DigitsConfig,
    classes: tuple[str, ...] | None,
) -> Dataset | None:
    """Open a split as the data set gives it; see `open_split`."""
    own = own_data(path)
    if own is not None:
        if not set(own.kinds) & set(annotations):
            raise NotServedError(path, annotations, Recognised(path, {kind: {} for kind in own.kinds}))
        return _checked(own_split(own, path, split, config, classes), path, config)
    if path == "digits":
        kind = next((kind for kind in annotations if kind in DIGITS), None)
        if kind is None:
            raise UserError(
                f"digits has {', '.join(DIGITS)}: got a task that needs {' or '.join(annotations)}"
            )
        if split == "test":
            raise UserError("digits has no test split: only train, val was found")
        scenes = DIGITS[kind](digits, split)
        if classes not in (None, scenes.classes):
            raise UserError(
                f"the run must know the classes of digits, {', '.join(scenes.classes)}: it knows {', '.join(classes or ())}"
            )
        return _checked(scenes, path, config)
    sources = {
        one: as_configured(source, one, config)
        for one, source in recognise(_given(path)).sources(path, annotations).items()
    }
    if split not in sources:
        if split == "val":
            return None
        remedy = "; a test split needs annotations" if split == "test" else ""
        raise UserError(
            f"the data set {path} has no {split} split: only {', '.join(sources)} was found{remedy}"
        )
    joined = _join(sources, split, config, classes)
    if joined.dataset is None:
        raise UserError(sentences(joined.faults, path))
    return joined.dataset


def _checked(dataset: Dataset | None, path: str, config: DataConfig) -> Dataset | None:
    """Return a data set that is no files, each of whose records says how far its pixels lie apart where a setting asks for it.

    Raises:
        UserError: If some do not, and are not to be kept.
    """
    scaling = Scaling.of(config)
    if scaling is None or scaling.keeps_unscaled or dataset is None:
        return dataset
    if path == "digits":
        raise UserError(
            f"{scaling} needs images that say their resolution: those of digits do not; leave it out"
        )
    records = (dataset.record(index) for index in range(len(dataset)))
    unscaled = [record.name for record in records if record.spacing is None]
    if unscaled:
        raise UserError(scaling.unscaled_images(dict.fromkeys(unscaled, f"{path} does not say it")))
    return dataset


def recognise_annotations(path: str, config: DataConfig) -> tuple[str, ...]:
    """Return the kinds of annotations that a data set has, the most natural first.

    Args:
        path: A folder, an annotation file, or ``digits``.
        config: How images and masks are read.

    Raises:
        UserError: If there is no such data set or none is recognised.
    """
    own = own_data(path)
    if own is not None:
        return own.kinds
    return tuple(DIGITS) if path == "digits" else recognise(_given(path)).kinds


def read_table(source: Source) -> Table:
    """Read the annotations of a split."""
    table = FORMATS[source.format].read[source.kind](source)
    drop_empty_rows(table)
    return table


def as_configured(source: Source, split: Split, config: DataConfig) -> Source:
    """Return a source of a split, whose images may lie in the folder that the user has named, too.

    Raises:
        UserError: If there is no such folder.
    """
    source = replace(source, split=split, label_column=config.label_column)
    if not config.images:
        return source
    if not Path(config.images).is_dir():
        raise UserError(f"data.images must be a folder: there is none at {config.images}")
    return replace(source, elsewhere=Path(config.images))


def _given(path: str) -> Path:
    if not path:
        raise UserError("no data set is given: name a folder, an annotation file, or 'digits'")
    return Path(path)


def _join(
    sources: dict[Split, Source], split: Split, config: DataConfig, classes: tuple[str, ...] | None
) -> Joined:
    """Read a split, and give its labels the meaning that `classes`, or the training split, gives them."""
    table = read_table(sources[split])
    if table.source.masks:
        return join_masks(table, split, find_palette(table, config, classes), classes, config)
    declared = declare(table, config)
    if classes is not None:
        declared = ids_of(classes, declared)
    elif "train" in sources and sources["train"] != sources[split]:
        declared = declare(read_table(sources["train"]), config)
    if split == "train":
        note_absent_classes(table, tuple(declared))
    return _JOIN[table.source.kind](table, split, declared, config)
