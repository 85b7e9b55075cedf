"""From what the user asked to workers at work: completes the config, checks it, and starts the workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ziggurat.config import RunConfig, flatten, load_config, override
from ziggurat.data.formats import open_dataset
from ziggurat.errors import UserError
from ziggurat.evaluate import evaluate_run
from ziggurat.models.build import build_model
from ziggurat.parallel.launch import WorkerSettings, launch, world_from_environment
from ziggurat.parallel.workers import Workers
from ziggurat.plans.plan import parse_plan
from ziggurat.plans.resolve import resolve_batch, resolve_place
from ziggurat.predict import predict_files
from ziggurat.run import CONFIG, load_run, make_run_folder
from ziggurat.train import open_validation, train

T = TypeVar("T")

# What may differ when a run goes on: where it is computed, and what it is not defined by.
FREE_ON_RESUME = {
    "plan", "device", "data.path", "data.val", "data.workers", "data.cache_bytes",
    "train.checkpoint_every", "train.evaluate_every",
}  # fmt: skip


def start_training(
    data: str | None,
    settings: dict[str, Any],
    out: str | None,
    *,
    resume: bool = False,
    config_file: str | None = None,
    defaults: RunConfig | None = None,
    family: str = "detect",
) -> dict[str, Any] | None:
    """Train as `ziggurat train` does.

    Args:
        data: The data set; None takes the config's.
        settings: From dotted names to values; they win over the config file.
        out: The run's folder; None takes the next ``runs/FAMILY-N``.
        resume: Go on from the newest checkpoint of `out`.
        config_file: A YAML file to start from.
        defaults: The config to start from without a file.
        family: The first part of the folder's name where `out` is None.

    Returns:
        The fields of the command's JSON object; None on torchrun's workers but the first.

    Raises:
        UserError: Listing every fault.
    """
    if resume and config_file is not None:
        raise UserError(f"a run goes on with its own config: remove --config {config_file} or --resume")
    config = defaults or RunConfig()
    if config_file is not None:
        config = load_config(Path(config_file))
    if resume:
        config, settings = _resumed(out, settings)
    if data is not None:
        settings = settings | {"data.path": data}
    config = _resolved(override(config, settings), world_from_environment(), resume)
    return _launch(_train_worker, (config, out, resume, family), config)


def _resumed(out: str | None, settings: dict[str, Any]) -> tuple[RunConfig, dict[str, Any]]:
    """Return the config of the run in `out`, and those settings that say only where it goes on."""
    if out is None or not (Path(out) / CONFIG).is_file():
        raise UserError(f"--resume needs --out with the folder of a run: got {out}")
    config = load_config(Path(out) / CONFIG)
    changed = flatten(override(config, settings))
    faults = [
        f"a run goes on as it was defined: {name} was {value}, and cannot become {changed[name]}; remove it, "
        "or start another run"
        for name, value in flatten(config).items()
        if changed[name] != value and name not in FREE_ON_RESUME
    ]
    if faults:
        raise UserError(faults)
    return config, settings


def _resolved(config: RunConfig, world: int | None, resume: bool) -> RunConfig:
    """Complete the config, and check it together with the model's name and the data; all faults at once."""
    faults: list[str] = []

    def check(part: Callable[[], T]) -> T | None:
        try:
            return part()
        except UserError as error:
            faults.extend(fault for fault in error.faults if fault not in faults)
            return None

    placed = check(lambda: resolve_place(config, world))
    resolved = check(lambda: resolve_batch(placed or config, world))
    check(lambda: build_model(config.model, num_classes=1))
    check(lambda: _check_data(config))
    weights = config.model.weights
    if weights not in ("none", "lite0") and not Path(weights).is_file() and not resume:
        faults.append(f"model.weights must be a file, lite0 or none: there is no file {weights}")
    if faults or resolved is None:
        raise UserError(faults)
    return resolved


def _check_data(config: RunConfig) -> None:
    if not config.data.path:
        raise UserError("no data set: give DATA (a folder, an annotation file, or digits) or data.path")
    dataset = open_dataset(config.data.path, "train", config.digits, config.data.max_pixels)
    if dataset is not None:
        open_validation(config, dataset.classes)


def start_evaluation(folder: Path, data: str, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Evaluate a run on the validation split of a data set, as `ziggurat evaluate` does.

    Raises:
        UserError: If the run, the data, or the settings are not usable.
    """
    config = _of_run(folder, settings | {"data.path": data})
    if open_dataset(data, "val", config.digits, config.data.max_pixels) is None:
        raise UserError(f"{data} has no validation split: name the annotation file itself")
    return _launch(_evaluate_worker, (folder, config), config)


def start_prediction(
    folder: Path, images: list[str], out: Path | None, settings: dict[str, Any]
) -> dict[str, Any] | None:
    """Run a trained model on images, as `ziggurat predict` does.

    Raises:
        UserError: If the run, the images, or the settings are not usable.
    """
    config = _of_run(folder, settings)
    return _launch(_predict_worker, (folder, config, images, out or folder / "predictions"), config)


def _of_run(folder: Path, settings: dict[str, Any]) -> RunConfig:
    """Return the config of a run for evaluation or prediction on this machine."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is not the folder of a run: it has no {CONFIG}")
    here: dict[str, Any] = {"plan": "", "device": "auto"}  # threads stay: they decide the last bits
    config = override(load_config(folder / CONFIG), here | settings)
    return resolve_place(config, world_from_environment())


def _launch(function: Any, args: tuple[Any, ...], config: RunConfig) -> dict[str, Any] | None:
    num_workers = parse_plan(config.plan).num_workers
    result: dict[str, Any] | None = launch(
        function, args, num_workers, WorkerSettings(config.threads, config.device)
    )
    return result


def _train_worker(
    workers: Workers, config: RunConfig, out: str | None, resume: bool, family: str
) -> dict[str, Any]:
    machines = {(one.threads, one.device, one.dtype) for one in workers.gather(config)}
    if len(machines) > 1:
        raise UserError(
            f"threads, device and dtype must be the same on every machine: got {sorted(machines)}; give --threads, "
            "--dtype and --set device=... to all of them"
        )
    # The first worker chooses: under torchrun the others may come when its folder is there already.
    folder, fault = workers.share_of_first(
        _choose_folder(out, resume, family) if workers.is_first else ("", "")
    )
    if fault:
        raise UserError(fault)
    return train(workers, config, Path(folder), resume)


def _choose_folder(out: str | None, resume: bool, family: str) -> tuple[str, str]:
    """Return the folder of a run, and what is wrong with it."""
    try:
        folder = Path(out) if out else make_run_folder(Path("runs"), family)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return "", f"cannot make the run's folder: {error}; choose another --out"
    fault = f"{folder} holds a run already: choose another --out, or go on with --resume"
    return str(folder), fault if not resume and (folder / CONFIG).exists() else ""


def _evaluate_worker(workers: Workers, folder: Path, config: RunConfig) -> dict[str, Any]:
    return evaluate_run(load_run(folder), config, workers)


def _predict_worker(
    workers: Workers, folder: Path, config: RunConfig, images: list[str], out: Path
) -> dict[str, Any]:
    run = load_run(folder)
    return predict_files(run.model, None, run.classes, run.category_ids, images, config, workers, out)
