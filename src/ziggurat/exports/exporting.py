"""Writing a run as a file, with its proof: what is not as good as the network gets no name."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from torch import Tensor

from ziggurat.errors import UserError
from ziggurat.exports.engines import open_engine
from ziggurat.exports.facts import Facts, FormatName
from ziggurat.exports.formats import FORMATS, Format, Translated
from ziggurat.exports.graph import Traced, trace
from ziggurat.exports.int8 import Int8, Measured, int8_model
from ziggurat.exports.layers import first_difference
from ziggurat.exports.loading import ExportedModel
from ziggurat.exports.proof import Proof, Prover
from ziggurat.exports.samples import Batch, Batching, batches
from ziggurat.models.vision import VisionModel
from ziggurat.runs.folder import Run
from ziggurat.system.writing import CannotWrite

Opener = Callable[[], VisionModel]  # opens the file that was written last, in the place of the network


@dataclass(frozen=True)
class Exported:
    """What has become of an export.

    Attributes:
        path: Of the file; None if it was refused.
        facts: Of the file.
        proof: What comparing has found.
        measured: What a file in int8 was measured to be; None of others.
        layer: The first layer that differs, where it was refused and one was found.
    """

    path: Path | None
    facts: Facts
    proof: Proof
    measured: Measured | None = None
    layer: str = ""

    @property
    def ok(self) -> bool:
        """Whether the file is as good as it has to be."""
        return self.proof.ok and (self.measured is None or self.measured.ok)


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        format: Of the file.
        path: Of the file.
        names: Of the images that it is proved on.
        tiles: Their samples; see `samples.first_tiles`.
        threads: That the file is run with.
        licence: Of the weights.
        int8: How the file is calibrated and measured that computes in int8; None leaves it in float. Called once the file has
            been proved in float, with how its graph takes images, and what opens the file that was written last.
    """

    format: FormatName
    path: Path
    names: Sequence[str]
    tiles: Sequence[Tensor]
    threads: int
    licence: str
    int8: Callable[[Batching, Opener], Int8] | None = None


def export_run(
    run: Run,
    request: Request,
    say: Callable[[str], None] = lambda text: None,
    formats: Mapping[FormatName, Format] = FORMATS,
) -> Exported:
    """Write a run as a file, prove it, and give it its name if it is as good as the network.

    Args:
        run: Its model computes on the processor.
        request: What is asked for.
        say: Called with what is done next.
        formats: Those that there are.

    Raises:
        UserError: If the network cannot be exported, or the file cannot be written.
    """
    form, path = formats[request.format], request.path
    say("tracing the network")
    traced = trace(run, form.dialect)
    say(f"translating to {request.format}")
    converted = form.convert(traced)
    facts = Facts.of_run(run, request.format, "fp32", traced.multiple, traced.outputs, request.licence)
    folder = _folder_beside(path)
    try:
        partial = folder / path.name
        _write(lambda: form.save(converted, facts, partial), path)
        say("proving it on images")
        engine = open_engine(partial, facts, form.engine, request.threads, "fp32")
        proof, worst = Prover(run)(engine, samples_of(run, request, traced))
        facts = replace(facts, parity=proof.facts())
        if not proof.ok:
            layer = _first_layer(converted, worst)
            return Exported(None, facts, proof, layer=layer)
        del engine  # some keep the file open
        measured = None
        if request.int8 is not None:
            proved = facts

            def opened() -> VisionModel:
                runs = open_engine(partial, proved, form.engine, request.threads, "fp32")
                return ExportedModel(proved, runs, run.model, form.engine, "fp32")

            asked = request.int8(batching_of(run, traced), opened)
            converted, measured = int8_model(
                converted, asked, lambda one: _write(lambda: form.save(one, facts, partial), path), say
            )
            facts = replace(facts, precision="int8", accuracy=measured.facts(asked))
            if not measured.ok:
                return Exported(None, facts, proof, measured)
        _write(lambda: form.save(converted, facts, partial), path)
        for file in sorted(
            folder.iterdir(), key=lambda one: one.suffix == path.suffix
        ):  # what it names first
            _write(lambda file=file: file.replace(path.with_name(file.name)), path)  # type: ignore[misc]  # mypy knows no type of a default
        return Exported(path, facts, proof, measured)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def samples_of(run: Run, request: Request, traced: Traced) -> list[Batch]:
    """Return the batches that an export is proved on."""
    return list(batches(request.names, request.tiles, batching_of(run, traced)))


def batching_of(run: Run, traced: Traced) -> Batching:
    """Return how a graph takes images."""
    multiple = run.model.size_multiple
    pads = multiple > 1 and multiple == traced.multiple
    return Batching(traced.multiple, pads, getattr(run.model, "only_size", None))


def _first_layer(converted: Any, worst: Batch | None) -> str:
    if not isinstance(converted, Translated) or worst is None:
        return ""
    return first_difference(converted.program, converted.model, worst)


def _folder_beside(path: Path) -> Path:
    """Make a folder for files that have no name yet."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(mkdtemp(prefix=f".{path.stem}-", dir=path.parent))
    except OSError as error:
        raise CannotWrite(path, error) from None


def _write(write: Callable[[], Any], path: Path) -> None:
    try:
        write()
    except (OSError, RuntimeError) as error:
        found = error if isinstance(error, OSError) else None
        if found is None:
            raise UserError(f"cannot write {path}: {str(error).strip().splitlines()[0]}") from None
        raise CannotWrite(path, found) from None
