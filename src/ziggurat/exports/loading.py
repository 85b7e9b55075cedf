"""An export in the place of a run: the same tiles, joining and outputs, with another program computing."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.exports.engines import ENGINES, Engine, EngineName, open_engine
from ziggurat.exports.facts import Facts
from ziggurat.models.build import build_model
from ziggurat.models.images import Samples
from ziggurat.models.vision import VisionModel
from ziggurat.runs.folder import Run, weights_sha256
from ziggurat.runs.reference import find_reference

FOLDER = "exports"
STEM = "model"
INT8_STEM = f"{STEM}-int8"


class ExportedModel(VisionModel):
    """A network that another program computes.

    Args:
        facts: Of the file.
        run: Runs it.
        network: The network as PyTorch has it, which says what its task needs to know; its weights are not used.
        engine: The name of what runs it.
        dtype: That it computes in.

    Attributes:
        facts: As the argument.
        engine: As the argument.
        dtype: As the argument.
    """

    takes_samples = True

    def __init__(self, facts: Facts, run: Engine, network: VisionModel, engine: str, dtype: str) -> None:
        super().__init__()
        self.facts, self.engine, self.dtype, self._run = facts, engine, dtype, run
        for name, value in vars(network).items():
            if not name.startswith("_") and name != "training" and not isinstance(value, (nn.Module, Tensor)):
                setattr(self, name, value)
        self.task = network.task

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        """Return the outputs of the graph by name.

        Raises:
            UserError: If the images are of a size that the graph does not take.
        """
        rows, columns = samples.images_BCHW.shape[-2:]
        multiple, only = self.facts.multiple, self.facts.only_size
        if rows % multiple or columns % multiple:
            raise UserError(
                f"this export takes images whose rows and columns are multiples of {multiple}: got {rows} x {columns}; "
                f"resize the images, set data.crop to a multiple of {multiple} that is not larger than they are, or take "
                "--engine torch with the run itself"
            )
        if only is not None and (rows, columns) != (only, only):
            raise UserError(
                f"this export takes images of {only} x {only} pixels only: got {rows} x {columns}"
            )
        return self._run(samples.images_BCHW, samples.sizes_B2)


def load_export(path: Path, facts: Facts, engine: EngineName, threads: int, dtype: str) -> Run:
    """Open an export as a run, whose model another program computes.

    Args:
        path: The file.
        facts: Its own.
        engine: What runs it.
        threads: That it computes with.
        dtype: ``bf16`` or ``fp32``.

    Raises:
        UserError: If it cannot be opened.
    """
    config = facts.run_config()
    network = build_model(config.model, len(facts.classes))
    runs = open_engine(path, facts, engine, threads, dtype)
    model = ExportedModel(facts, runs, network, engine, dtype)
    return Run(model.eval(), config, facts.classes, facts.category_ids)


def is_export(given: str | os.PathLike[str]) -> bool:
    """Return whether a file is named that an engine runs, by its suffix."""
    return Path(given).suffix in ENGINES and Path(given).is_file()


def engine_of(path: Path, asked: EngineName | None) -> EngineName:
    """Return what runs a file.

    Raises:
        UserError: If what is asked for cannot.
    """
    able = ENGINES[path.suffix]
    if asked is not None and asked not in able:
        raise UserError(
            f"--engine {asked} cannot run {path}: a {path.suffix} file is run by {' or '.join(able)}"
        )
    return asked or able[0]


def exports_folder(run: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Return where the exports of a run lie, by itself in the run's folder.

    Raises:
        UserError: If there is no such run.
    """
    if out is not None:
        return Path(out)
    reference = find_reference(run)
    if reference.folder is None:
        return Path(run).parent / FOLDER
    return reference.folder / "-".join(filter(None, (FOLDER, reference.name)))


def find_export(run: str | os.PathLike[str], engine: EngineName | None) -> Path | None:
    """Return the file that is run in the place of PyTorch's network; None where that itself is.

    Args:
        run: A run, or the file of an export.
        engine: What is to run it, as was asked for.

    Raises:
        UserError: If the engine cannot run the file, or the run was not exported for it.
    """
    if is_export(run):
        path = Path(run)
        engine_of(path, engine)
        return path
    if engine in (None, "torch"):
        return None
    suffixes = [suffix for suffix, able in ENGINES.items() if engine in able]
    # what was made for the engine before what it can read, too
    places = [exports_folder(run) / f"{STEM}{suffix}" for suffix in reversed(suffixes)]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        integer = exports_folder(run) / f"{INT8_STEM}.xml"
        if engine == "openvino" and integer.is_file():
            raise UserError(
                f"--engine openvino runs what finds the same as the run: {integer} computes in int8, and loses a little; name that "
                "file in the place of the run"
            )
        raise UserError(
            f"--engine {engine} runs an export, and {run} has none for it ({' or '.join(map(str, places))}): "
            f"`ziggurat export {run} --format {engine}` makes one"
        )
    return found


def digest_of_model(model: VisionModel) -> str:
    """Return the SHA-256 of a model's weights; of an export also of what it is run by."""
    if not isinstance(model, ExportedModel):
        return weights_sha256(model)
    facts = model.facts
    text = f"{facts.weights_sha256} {facts.format} {facts.precision} {model.engine} {model.dtype}"
    if facts.accuracy:  # another calibration is another file
        text += json.dumps(facts.accuracy, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
