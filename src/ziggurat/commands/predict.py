"""`ziggurat predict`: runs a trained model on images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ziggurat.commands.launching import launch_plan
from ziggurat.commands.notes import say, say_notes
from ziggurat.commands.runs import Members, members_of
from ziggurat.config import RunConfig, run_task
from ziggurat.data.dataset import notes_of
from ziggurat.data.files import files_of
from ziggurat.data.formats.recognise import format_of, is_annotation_file
from ziggurat.data.formats.table import Split
from ziggurat.data.readers.list_files import STANDARD_INPUT, expand_lists
from ziggurat.errors import UserError
from ziggurat.exports.engines import EngineName
from ziggurat.exports.loading import digest_of_model
from ziggurat.inference.journal import FOLDER
from ziggurat.inference.members import digest_of
from ziggurat.inference.outputs.polygons import PolygonRules
from ziggurat.inference.outputs.registry import TABLES, check_formats, check_polygons
from ziggurat.inference.pictures import Pictures
from ziggurat.inference.predict import predict_dataset, predict_files
from ziggurat.inference.predictor import Predictor
from ziggurat.inference.result_files import RESULTS
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.launch import world_from_environment
from ziggurat.runs.lock import locked
from ziggurat.runs.members import RunNames
from ziggurat.runs.progress import Meter
from ziggurat.runs.reference import find_reference
from ziggurat.strategies.mesh import make_mesh
from ziggurat.tasks.opening import open_dataset

_LOOKED_AT = 20  # JSON files beside images


def predict(
    run: RunNames,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    split: Split | None = None,
    overwrite: bool = False,
    resume: bool = False,
    pictures: Pictures = "auto",
    classes: Sequence[str] = (),
    formats: Sequence[str] = TABLES,
    polygons: Mapping[str, float | str] | None = None,
    engine: EngineName | None = None,
) -> dict[str, Any] | None:
    """Run a trained model on images, as `ziggurat predict` does.

    Args:
        run: A run, a checkpoint of it (``runs/x@best``), or a file of weights, whose model is ``model.name`` in the settings; or
            several, whose predictions are averaged (`ziggurat.runs.members`).
        images: Files, folders and globs, one or several, lists of them (``.txt``, a path a line; ``-`` reads standard input); or a data set (its annotation file, ``digits``, or with `split` its
            folder), whose ids the results keep.
        out: Where results and pictures go; None takes the run's ``predictions``, or the next free ``predictions-2``.
        settings: From dotted names to values.
        split: Says that `images` is a data set, and which of its images are meant.
        overwrite: Whether results of before, which lie in `out`, are replaced.
        resume: Whether a prediction that has not ended there goes on; where there is none, it begins.
        pictures: How large pictures are: ``none``, ``overview`` (at most 2,048 pixels a side), ``full``, or ``auto`` (overviews of images
            of more than 16 megapixels).
        classes: Of what is found only these classes count; all if none is named.
        formats: What results are written as, beside ``predictions.json``: ``csv``, ``gpkg``, ``geojson`` ... (docs/outputs.md).
        polygons: What is done to the areas of masks that are written as polygons, in pixels: ``min_area`` (smaller ones are left out),
            ``min_hole`` (smaller holes are closed), ``simplify`` (about how far a border may move for having fewer corners).
        engine: What computes: ``torch``, or ``onnx`` or ``openvino``, which run an export of the run (docs/export.md). None takes PyTorch for
            a run, and for an export, which may stand in the place of a run, what its file is for.

    Returns:
        The fields of the command's JSON object; None on torchrun's workers but the first.

    Raises:
        UserError: If the run, the images, or the settings are not usable.
    """
    check_formats(formats)
    rules = PolygonRules.of(polygons or {})
    check_polygons(rules, formats)
    members = members_of(run, settings or {}, "predict", engine)
    given = [os.fspath(one) for one in ([images] if isinstance(images, (str, os.PathLike)) else images)]
    given = _listed(given)
    data = _dataset(given, split)
    target = Path(out) if out is not None else _free(_own_folder(members.names), overwrite, resume)
    options = {
        "overwrite": overwrite, "resume": resume, "pictures": pictures, "only": tuple(classes), "formats": tuple(formats),
        "polygons": rules,
    }  # fmt: skip
    if data is not None:
        members = members.on(data)
        split = split or "val"
        say_notes(notes_of(_open(members.config, split, None)))
    else:
        say(*_ids_elsewhere(given))
    alone = (
        locked(target) if world_from_environment() is None else nullcontext()
    )  # one prediction in one folder
    with alone:
        result = launch_plan(_predict_worker, (members, given, target, split, options), members.config)
    if result is not None:
        result["members"] = list(members.names)
        say(*(f"note: {note}" for note in result["notes"]))
        say(*(f"left out: {fault}" for fault in result["faults"].values()))
    return result


def _dataset(given: Sequence[str], split: Split | None) -> str | None:
    """Return the data set that is given in the place of images, if one is.

    Raises:
        UserError: If several are given, or one together with images.
    """
    sets = [one for one in given if one == "digits" or is_annotation_file(Path(one))]
    if split is None and not sets:
        return None
    if len(given) > 1:
        what = sets[0] if sets else f"--split {split}"
        raise UserError(
            f"a data set is predicted by itself: got {what} with {len(given)} paths; give one data set, or images"
        )
    return given[0]


def _ids_elsewhere(given: Sequence[str]) -> list[str]:
    """Return a note for each folder of images whose ids in a COCO file beside it are not those of the results."""
    notes = []
    for folder in [Path(one) for one in given if Path(one).is_dir()]:
        beside = [*files_of(folder, (".json",)), *files_of(folder.absolute().parent, (".json",))]
        names = [file.name for file in beside[:_LOOKED_AT] if format_of(file) == "coco"]
        if names:
            notes.append(
                f"note: image_id counts the files of {folder} from 1: to keep the ids of an annotation file "
                f"({', '.join(names[:3])}), give that file in the place of the images"
            )
    return notes


def _own_folder(names: Sequence[str]) -> Path:
    """Return where the predictions of a run lie if nothing else is said; of several in the folder that holds them all."""
    if len(names) > 1:
        folders = {os.path.dirname(os.path.abspath(find_reference(name).folder or name)) for name in names}
        return Path(os.path.relpath(os.path.commonpath(folders))) / "predictions"
    reference = find_reference(names[0])
    if reference.folder is None:
        return Path(names[0]).parent / "predictions"
    return reference.folder / "-".join(filter(None, ("predictions", reference.name)))


def _free(folder: Path, overwrite: bool, resume: bool) -> Path:
    """Return the first of ``predictions``, ``predictions-2`` ... that holds nothing; the first where that is replaced.

    Where a prediction goes on it is the first that has not ended, if one has not.
    """
    number, place = 1, folder
    while not overwrite and ((place / RESULTS).exists() or (place / FOLDER).exists()):
        if resume and (place / FOLDER).exists():
            break
        number += 1
        place = folder.with_name(f"{folder.name}-{number}")
    return place


def _listed(given: list[str]) -> list[str]:
    """Return paths with those of lists in the place of the lists.

    Raises:
        UserError: If a list names nothing; or if standard input is to be read by several processes.
    """
    if STANDARD_INPUT in given and world_from_environment() is not None:
        raise UserError("- reads standard input, which torchrun's workers do not have each: give a list file")
    return expand_lists(given)


def _open(config: RunConfig, split: Split, classes: tuple[str, ...] | None) -> Any:
    data = replace(config.data, split="given")  # images are predicted as wholes
    dataset = open_dataset(data.path, split, run_task(config), data, config.digits, classes)
    if dataset is None:
        raise UserError(
            f"{config.data.path} has no validation split: give --split train or --split test, or name its annotation file"
        )
    return dataset


def _predict_worker(
    workers: Workers,
    members: Members,
    images: list[str],
    out: Path,
    split: Split | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    runs, config = members.load(), members.config
    # of all of the networks, before others' is dropped
    digests = [digest_of_model(run.model) for run in runs] if workers.is_first else [""]
    weights = digest_of(digests, members.configs)
    category_ids = runs[0].category_ids or tuple(range(runs[0].model.num_classes))
    with make_mesh(workers, config.plan) as mesh:
        predictor = Predictor.of_runs(runs, mesh)
        meter = Meter("prediction", "tiles", workers.is_first)
        if split is not None:
            dataset = _open(config, split, runs[0].classes or None)
            found = predict_dataset(predictor, dataset, out, meter, weights=weights, **options)
            return found | {"split": split}
        return predict_files(predictor, category_ids, images, out, meter, weights=weights, **options)
