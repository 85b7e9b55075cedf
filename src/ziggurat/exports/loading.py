"""An export in the place of a run: the same tiles, joining and outputs, with another program computing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.exports.engines import ENGINES, Engine, EngineName, open_engine
from ziggurat.exports.facts import Facts
from ziggurat.models.build import build_model
from ziggurat.models.images import Samples
from ziggurat.models.vision import VisionModel
from ziggurat.runs.folder import Run

FOLDER = "exports"
STEM = "model"


class ExportedModel(VisionModel):
    """A network that another program computes.

    Args:
        facts: Of the file.
        engine: Runs it.
        network: The network as PyTorch has it, which says what its task needs to know; its weights are not used.

    Attributes:
        facts: As the argument.
    """

    takes_samples = True

    def __init__(self, facts: Facts, engine: Engine, network: VisionModel) -> None:
        super().__init__()
        self.facts, self._engine = facts, engine
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
        return self._engine(samples.images_BCHW, samples.sizes_B2)


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
    model = ExportedModel(facts, open_engine(path, facts, engine, threads, dtype), network)
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


def outputs_of(run: Run) -> dict[str, Any]:
    """Return what a run's model says of itself if it is an export; nothing otherwise."""
    return {"weights_sha256": run.model.facts.weights_sha256} if isinstance(run.model, ExportedModel) else {}
