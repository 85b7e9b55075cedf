"""A run's folder: what was asked, on what it ran, and the weights that came out."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ziggurat.config import RunConfig, flatten, load_config, override, save_config
from ziggurat.data.balance import ClassCounts
from ziggurat.data.dataset import Dataset
from ziggurat.data.faults import Fault, listing
from ziggurat.data.formats.own import PREFIX as OWN
from ziggurat.errors import UserError
from ziggurat.models.build import build_model
from ziggurat.models.vision import VisionModel
from ziggurat.system.writing import whole_file, write_text

WEIGHTS = "weights.safetensors"
CONFIG = "config.yaml"
CLASSES = "classes.json"
COUNTS = "class_counts.json"
SKIPPED = "skipped.jsonl"
SOUP = "soup.json"  # in the folder of a run whose weights are an average
ENVIRONMENT = "environment.json"
FREE_PLACES = ("data.path", "data.val")
PLACES = (*FREE_PLACES, "data.images")  # the last one is part of what defines a run


def make_run_folder(parent: Path, family: str) -> Path:
    """Create and return the next of ``detect-1``, ``detect-2``, ...; two runs that start together get two."""
    parent.mkdir(parents=True, exist_ok=True)
    numbers = [path.name.removeprefix(f"{family}-") for path in parent.glob(f"{family}-*")]
    number = max((int(number) for number in numbers if number.isdecimal()), default=0)
    while True:
        number += 1
        folder = parent / f"{family}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def start_run_folder(folder: Path, config: RunConfig, dataset: Dataset, resume: bool = False) -> None:
    """Make the folder, with the environment and the classes.

    Raises:
        UserError: If the folder cannot be written, or a run is resumed with other data.
    """
    facts = {"classes": dataset.classes, "category_ids": dataset.category_ids, "images": len(dataset)}
    text = json.dumps(facts) + "\n"
    if resume and (folder / CLASSES).read_text(encoding="utf-8") != text:
        raise UserError(
            f"a run goes on with the data that it was started with: {config.data.path} has {len(dataset)} images "
            f"and the classes {', '.join(dataset.classes)}; {folder / CLASSES} says otherwise"
        )
    with suppress(OSError):  # the first file says what is in the way
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CLASSES, text)
    write_text(folder / ENVIRONMENT, json.dumps(environment(), indent=2) + "\n")


def write_counts(folder: Path, counts: ClassCounts) -> None:
    """Write how often each class occurs in the training data, in the order of labels.

    Raises:
        UserError: If it cannot be written.
    """
    facts = {
        "unit": counts.unit,
        "images": counts.images_K.tolist(),
        "instances": counts.instances_K.tolist(),
    }
    write_text(folder / COUNTS, json.dumps(facts) + "\n")


def list_skipped(folder: Path, by_split: Mapping[str, Sequence[Fault]]) -> None:
    """Write what ``data.on_error`` has left out, if it has: a line for each annotation and image.

    Raises:
        UserError: If the list cannot be written.
    """
    if any(by_split.values()) or (folder / SKIPPED).exists():
        write_text(folder / SKIPPED, listing(by_split))


def declare_run(folder: Path, config: RunConfig) -> None:
    """Write the resolved config, by which a folder is known as that of a run; paths of data are absolute in it.

    Raises:
        UserError: If it cannot be written.
    """
    save_config(with_places(config), folder / CONFIG)


def resume_command(folder: Path) -> str:
    """Return the command by which a run goes on."""
    return f"ziggurat train --out {shlex.quote(str(folder))} --resume"


def environment() -> dict[str, Any]:
    """Return the versions, the commit and the machine that a run depends on."""
    packages = ["ziggurat", "torch", "torchvision", "timm", "numpy", "pillow", "faster-coco-eval"]
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "commit": _commit(),
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "command": sys.argv,
        "folder": os.getcwd(),  # where relative paths of the config begin
    }


def with_places(config: RunConfig) -> RunConfig:
    """Return a config whose data are found from any folder: paths that there are become absolute; names of data sets stay.

    Example:
        >>> with_places(override(RunConfig(), {"data.path": "digits", "data.val": "/"})).data.path
        'digits'
    """
    return override(config, {name: absolute(flatten(config)[name]) for name in FREE_PLACES})


def absolute(value: str) -> str:
    """Return a path of data from the root, if there is something; a name of a data set as it is."""
    return str(Path(value).absolute()) if _is_path(value) and Path(value).exists() else value


def data_as_begun(config: RunConfig, folder: Path) -> tuple[RunConfig, list[str]]:
    """Return the config of a run with its data where they were when it began, or moved to, and what there is to say of it.

    A relative path, of a run of an earlier version, is taken from the folder that the run was started in, if there is something. An absolute
    one at which there is nothing any more, and that lay in the folder that the run was started in, is taken from the present folder, if there
    is something: folders of data and runs may be moved together.

    Args:
        config: Of the run.
        folder: Of the run.
    """
    try:
        began = Path(str(json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))["folder"]))
    except (OSError, ValueError, KeyError, TypeError):  # of an earlier version, or removed
        return config, []
    found, notes = {}, []
    for name in PLACES:
        value = flatten(config)[name]
        if not _is_path(value):
            continue
        before, now = began / value, Path(value).absolute()
        if not Path(value).is_absolute() and before.exists() and before != now:
            found[name] = before
            notes.append(
                f"note: {name}={value} is taken from the folder that the run was started in: {before}"
            )
        elif not before.exists() and before.is_relative_to(began):
            moved = Path(before.relative_to(began)).absolute()
            if moved.exists():
                found[name] = moved
                notes.append(
                    f"note: {name}={value} is not there any more: it is taken from the present folder, {moved}"
                )
    return override(config, {name: str(place) for name, place in found.items()}), notes


def lost_places(config: RunConfig, given: Container[str] = ()) -> list[str]:
    """Return a fault for each path of data at which there is nothing, but for settings that are given anew."""
    return [
        f"{name}={value} is not there any more: say where the data are now, by {name}=... beside --resume"
        for name in FREE_PLACES
        if name not in given and _is_path(value := flatten(config)[name]) and not Path(value).exists()
    ]


def _is_path(value: str) -> bool:
    """Whether a place of data is one of files: not empty, and no name of a data set."""
    return bool(value) and value != "digits" and not value.startswith(OWN)


def _commit() -> str | None:
    """Return the commit of the source, or None where it is not a git checkout."""
    try:
        result = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 over the weights and buffers in the order of their names.

    Of each, the name, the shape, the dtype and then the bytes in C order are added.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name} {list(tensor.shape)} {dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_weights(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write the weights and buffers as safetensors, in C order; an older file is replaced at once, or not at all.

    Raises:
        CannotWrite: If it cannot be written.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with whole_file(path) as partial:
        save_file(tensors, partial, metadata)


class Run(NamedTuple):
    """A finished run.

    Attributes:
        model: With its weights.
        config: As it was run.
        classes: The name of each label.
        category_ids: The COCO category id of each label.
        frequency: How many training images have each class; empty where that was not counted.
    """

    model: VisionModel
    config: RunConfig
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    frequency: tuple[int, ...] = ()


def load_run(folder: str | os.PathLike[str]) -> Run:
    """Build the model of a run and load the weights at its end.

    Raises:
        UserError: If the folder is not that of a finished run.
    """
    weights = Path(folder) / WEIGHTS
    run = build_run(folder, (CONFIG, CLASSES, WEIGHTS))
    try:
        run.model.load_state_dict(load_file(weights))
    except (RuntimeError, OSError, SafetensorError) as error:
        name = run.config.model.name
        raise UserError(f"{weights} does not hold the weights of {name}: {error}") from None
    return run


def build_run(folder: str | os.PathLike[str], needed: Sequence[str] = (CONFIG, CLASSES)) -> Run:
    """Build the model of a run, with random weights.

    Args:
        folder: Of the run.
        needed: Files that it must have.

    Raises:
        UserError: If the folder is not that of a run that has come so far.
    """
    folder = Path(folder)
    for name in needed:
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not the folder of a finished run: it has no {name}")
    config = load_config(folder / CONFIG)
    facts = json.loads((folder / CLASSES).read_text(encoding="utf-8"))
    model = build_model(config.model, len(facts["classes"]))
    classes = tuple(facts["classes"])
    return Run(model.eval(), config, classes, tuple(facts["category_ids"]), _frequency(folder, len(classes)))


def _frequency(folder: Path, num_classes: int) -> tuple[int, ...]:
    """Return how many training images of a run have each class; nothing where that was not counted.

    Raises:
        UserError: If the file holds something else.
    """
    file = folder / COUNTS
    if not file.is_file():
        return ()
    try:
        images = tuple(map(int, json.loads(file.read_text(encoding="utf-8"))["images"]))
    except (ValueError, TypeError, KeyError):
        images = ()
    if len(images) != num_classes:
        raise UserError(
            f"{file} must hold the images of each of {num_classes} classes, as training has written them: remove it, and metrics are not "
            "told by how frequent classes are"
        )
    return images
