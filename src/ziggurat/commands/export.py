"""`ziggurat export`: writes a trained model as a file that other programs run, with a proof that it finds the same."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ziggurat.commands.launching import launch_plan
from ziggurat.commands.notes import say
from ziggurat.commands.runs import Members, members_of
from ziggurat.config import RunConfig, run_task
from ziggurat.data.dataset import CanLeaveOut, Dataset
from ziggurat.data.formats.recognise import is_annotation_file
from ziggurat.data.formats.table import Split
from ziggurat.errors import UserError, nearest
from ziggurat.exports.averaging import averaged
from ziggurat.exports.engines import read_facts
from ziggurat.exports.exporting import Exported, Opener, Request, export_run
from ziggurat.exports.facts import FormatName
from ziggurat.exports.formats import FORMATS
from ziggurat.exports.int8 import CALIBRATION, MAX_DROP, Int8
from ziggurat.exports.loading import FOLDER, INT8_STEM, STEM, exports_folder, load_export
from ziggurat.exports.proof import BOX_ERROR, ERROR
from ziggurat.exports.samples import Batching, embedded_images, first_tiles, single_batches
from ziggurat.inference.evaluate import evaluate
from ziggurat.inference.predictor import Predictor
from ziggurat.inference.reading import Images
from ziggurat.models.images import Normalization
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.runs.folder import Run
from ziggurat.runs.members import RunNames, is_of_members
from ziggurat.strategies.mesh import make_mesh
from ziggurat.tasks.opening import open_dataset
from ziggurat.tasks.registry import make_task

IMAGES = 16
UNSTATED = "not stated"


@dataclass(frozen=True)
class Options:
    """What is asked of an export.

    Attributes:
        format: ``pt2``, ``onnx`` or ``openvino``.
        path: Of the file.
        images: How many it is proved and measured on.
        licence: Of the weights.
        int8: The data set that a file in int8 is calibrated and measured on; empty leaves the file in float.
        max_drop: Points that the file in int8 may lose.
        calibration: Images that it is calibrated on.
    """

    format: FormatName
    path: Path
    images: int = IMAGES
    licence: str = UNSTATED
    int8: str = ""
    max_drop: float = MAX_DROP
    calibration: int = CALIBRATION


def export(
    run: RunNames,
    format: str,
    out: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    images: int = IMAGES,
    licence: str = UNSTATED,
    int8: str | os.PathLike[str] | None = None,
    max_drop: float | None = None,
    calibration: int | None = None,
) -> dict[str, Any] | None:
    """Write a trained model as a file that other programs run, as `ziggurat export` does.

    The file is run on real images, at three sizes and in batches of three numbers, and gets its name only if it finds what the
    network finds: scores or logits within 1e-4, the same detections, boxes within 0.05 pixels.

    Args:
        run: A run, a checkpoint of it (``runs/x@best``), or a file of weights, whose model is ``model.name`` in the settings; or several
            to classify or to segment, whose average becomes one file (`ziggurat.runs.members`).
        format: ``pt2`` (torch.export), ``onnx`` or ``openvino``.
        out: The folder of the file; None takes ``exports`` in the run's, or in that of ``--members``.
        settings: From dotted names to values.
        images: How many images of the validation split it is proved and measured on.
        licence: Of the weights, for the file's metadata.
        int8: A data set: the file computes in integers of 8 bits, calibrated on its training images (validation images where it has no
            others) and measured on its validation images; with ``openvino`` only.
        max_drop: How many points of the task's main metric a file in int8 may lose, 0.5 unless said; else it is refused.
        calibration: How many images it is calibrated on, 300 unless said.

    Returns:
        The fields of the command's JSON object: ``file`` (None if it was refused), ``format``, ``precision``, ``parity``, ``accuracy``
        (of int8), ``metrics``, ``images_per_second``, ``ok``, ``worst``.

    Raises:
        UserError: If the run, the format or the settings are not usable, or the network cannot be exported.
    """
    if format not in FORMATS:
        raise UserError(f"unknown format '{format}': {nearest(format, list(FORMATS))}")
    if not 1 <= images <= 100_000:
        raise UserError(f"--images must lie between 1 and 100000: got {images}")
    _check_int8(format, int8, max_drop, calibration)
    name: FormatName = format  # type: ignore[assignment]  # one of them, as was asked above
    members = members_of(run, settings or {}, "export")
    configs = [replace(one, plan="dp=1", device="cpu", dtype="fp32") for one in members.configs]
    members = members._replace(configs=tuple(configs))
    if int8 is not None and len(members.names) > 1:
        raise UserError(
            f"--int8 is for one run: got {', '.join(members.names)}; export each, or leave --int8 out"
        )
    stem = STEM if int8 is None else INT8_STEM
    options = Options(
        name, _path(run, members, out, name, stem), images, licence, os.fspath(int8 or ""),
        MAX_DROP if max_drop is None else max_drop, CALIBRATION if calibration is None else calibration,
    )  # fmt: skip
    return launch_plan(_export_worker, (members, options), members.config)


def _path(
    run: RunNames, members: Members, out: str | os.PathLike[str] | None, name: FormatName, stem: str
) -> Path:
    """Return the file's path.

    Raises:
        UserError: If several runs lie in no folder of their own, and none is given.
    """
    if out is None and len(members.names) > 1:
        if isinstance(run, (str, os.PathLike)) and is_of_members(run):
            out = Path(run) / FOLDER
        else:
            raise UserError(
                f"several runs have no folder of their own: give --out for the average of {', '.join(members.names)}"
            )
    return exports_folder(members.names[0], out) / (stem + FORMATS[name].suffix)


def _check_int8(
    format: str, int8: str | os.PathLike[str] | None, max_drop: float | None, calibration: int | None
) -> None:
    faults = []
    if int8 is None:
        faults += [
            f"{flag} has no effect without --int8 DATA: leave it out, or name the data set that the file is calibrated on"
            for flag, value in (("--max-drop", max_drop), ("--calibration", calibration))
            if value is not None
        ]
    elif format != "openvino":
        faults.append(
            f"--int8 is for --format openvino: got --format {format}; ask for openvino, or leave --int8 out"
        )
    if max_drop is not None and not 0 <= max_drop <= 100:
        faults.append(f"--max-drop must lie between 0 and 100 points: got {max_drop}")
    if calibration is not None and not 1 <= calibration <= 100_000:
        faults.append(f"--calibration must lie between 1 and 100000 images: got {calibration}")
    if faults:
        raise UserError(faults)


def _export_worker(workers: Workers, members: Members, options: Options) -> dict[str, Any]:
    runs, config = members.load(), members.config
    run = averaged(members.names, runs)
    task = make_task(run.model, config)
    dataset = _validation(run, config)
    bands = len(Normalization.of(config.data, run.model).mean)
    images: Images = embedded_images(config, bands) if dataset is None else dataset
    names, tiles = first_tiles(images, task, options.images)
    asked = _int8(run, config, options, workers) if options.int8 else None
    request = Request(options.format, options.path, names, tiles, config.threads, options.licence, asked)
    exported = export_run(run, request, lambda text: say(f"{text} ..."))
    metrics: dict[str, Any] | None = None
    if exported.path is not None and dataset is not None and asked is None:
        some = _first(dataset, options.images)
        file = load_export(
            exported.path, read_facts(exported.path), FORMATS[options.format].engine, config.threads, "fp32"
        )
        metrics = {
            "torch": _measured(runs, some, workers),
            "exported": _measured([file._replace(config=config)], some, workers),
            "images": len(some),
        }
    return _result(exported, options, metrics, dataset)


def _int8(
    run: Run, config: RunConfig, options: Options, workers: Workers
) -> Callable[[Batching, Opener], Int8]:
    """Return what a file in int8 is calibrated and measured by, and how.

    Raises:
        UserError: If the data set has no images to measure on.
    """
    config = replace(config, data=replace(config.data, path=options.int8))
    task = make_task(run.model, config)

    def opened(split: Split) -> Dataset | None:
        return open_dataset(
            options.int8, split, run_task(config), config.data, config.digits, run.classes or None
        )

    validation = opened("val")
    if validation is None or not len(validation):
        raise UserError(
            f"--int8 measures what is lost on validation images, and {options.int8} has none: name a data set with a validation split"
        )
    training = None if is_annotation_file(Path(options.int8)) else opened("train")
    if training is None or not len(training):
        say(f"note: {options.int8} has no training images: it is calibrated on those that it is measured on")
        training = validation
    names, tiles = first_tiles(training, task, options.calibration)
    metric = task.main_metric

    def value_of(one: Run) -> float:
        found = _measured([one._replace(config=config)], validation, workers).get(metric)
        return math.nan if found is None else float(found)

    def asked(batching: Batching, opened_file: Opener) -> Int8:
        say(f"measuring the network on {len(validation)} images ...")
        reference = value_of(run)
        if not math.isfinite(reference):
            raise UserError(
                f"{metric} of the network cannot be measured on {options.int8}, so that what int8 loses is not known: name a data set "
                "whose validation images have something to find"
            )

        def measure() -> float:
            return value_of(run._replace(model=opened_file()))

        calibration = single_batches(names, tiles, batching)
        return Int8(options.int8, calibration, metric, reference, measure, len(validation), options.max_drop)

    return asked


def _validation(run: Run, config: RunConfig) -> Dataset | None:
    """Return the run's validation images; None where they are not here."""
    try:
        dataset = open_dataset(
            config.data.path, "val", run_task(config), config.data, config.digits, run.classes or None
        )
    except UserError as error:
        say(
            f"note: the run's images are not here ({error.faults[0]}): it is proved on embedded ones, and not measured"
        )
        return None
    if dataset is None or not len(dataset):
        say("note: the run has no validation images: it is proved on embedded ones, and not measured")
        return None
    return dataset


def _first(dataset: Dataset, count: int) -> Dataset:
    if not isinstance(dataset, CanLeaveOut) or len(dataset) <= count:
        return dataset
    return dataset.without(dict.fromkeys(range(count, len(dataset)), "not measured"))


def _measured(runs: Sequence[Run], dataset: Dataset, workers: Workers) -> dict[str, Any]:
    with make_mesh(workers, runs[0].config.plan) as mesh:
        return evaluate(Predictor.of_runs(runs, mesh), dataset).metrics


def _result(
    exported: Exported, options: Options, metrics: dict[str, Any] | None, dataset: Dataset | None
) -> dict[str, Any]:
    proof = exported.proof
    rates = {name: proof.comparisons / seconds for name, seconds in proof.seconds.items()}
    return {
        "file": None if exported.path is None else str(exported.path),
        "format": options.format,
        "precision": exported.facts.precision,
        "ok": exported.ok,
        "parity": {
            "images": proof.images,
            "comparisons": proof.comparisons,
            "sizes": proof.sizes,
            "batches": proof.batches,
            "max_error": _finite(proof.max_error),
            "max_box_error": _finite(proof.max_box_error),
            "same_detections": proof.same_detections,
            "bounds": {"error": ERROR, "box_error": BOX_ERROR},
            "embedded_images": dataset is None,
        },
        "worst": {"image": proof.worst, "difference": proof.said, "layer": exported.layer},
        "accuracy": _accuracy(exported),
        "metrics": metrics,
        "images_per_second": rates,
        "weights_sha256": exported.facts.weights_sha256,
    }


def _accuracy(exported: Exported) -> dict[str, Any] | None:
    """Return what a file in int8 was measured to be; None of others."""
    found = exported.facts.accuracy
    return {
        name: _finite(value) if isinstance(value, float) else value for name, value in found.items()
    } or None


def _finite(value: float) -> float | None:
    """Return a number that JSON has; None for one that is beyond any bound."""
    return value if math.isfinite(value) else None
