"""Writing a graph as a file: a class for each format."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import torch
from torch.export import ExportedProgram

from ziggurat.exports.engines import (
    EXTRA,
    WEIGHTS,
    EngineName,
    digest_of,
    weights_beside,
)
from ziggurat.exports.facts import KEY, Facts, FormatName
from ziggurat.exports.graph import INPUTS, Traced
from ziggurat.system.packages import extra_package
from ziggurat.tasks.graph import Dialect

OPSET = 18


class Format(Protocol):
    """A format of files.

    Attributes:
        suffix: Of its file.
        dialect: Of the graph that it takes.
        engine: What runs it.
    """

    suffix: str
    dialect: Dialect
    engine: EngineName

    def convert(self, traced: Traced) -> Any:
        """Return a graph in the format's own form."""
        ...

    def save(self, converted: Any, facts: Facts, path: Path) -> None:
        """Write it, with its facts."""
        ...


class Translated(NamedTuple):
    """A graph in ONNX.

    Attributes:
        model: ONNX's.
        program: PyTorch's that it was translated from: values of both have the same names.
    """

    model: Any
    program: ExportedProgram


class Pt2:
    """`torch.export`'s archive."""

    suffix, dialect, engine = ".pt2", "torch", "torch"  # type: tuple[str, Dialect, EngineName]

    def convert(self, traced: Traced) -> Any:
        """Return the program without its example, which would be pickled."""
        traced.program.example_inputs = None
        return traced.program

    def save(self, converted: Any, facts: Facts, path: Path) -> None:
        """Write the archive; the facts are its file ``ziggurat.json``."""
        torch.export.save(converted, path, extra_files={f"{KEY}.json": facts.text()})


class Onnx:
    """ONNX by PyTorch's exporter of `torch.export`'s programs."""

    suffix, dialect, engine = ".onnx", "onnx", "onnx"  # type: tuple[str, Dialect, EngineName]

    def convert(self, traced: Traced) -> Translated:
        """Return the model as ONNX has it."""
        extra_package("onnx", EXTRA, "--format onnx")
        extra_package("onnxscript", EXTRA, "--format onnx")
        with _quiet():
            program = torch.onnx.export(
                traced.program,
                traced.example,
                input_names=list(INPUTS),
                output_names=[one.name for one in traced.outputs],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
                custom_translation_table={torch.ops.ziggurat.keep_apart.default: _suppress},
            )
        assert program is not None
        model = program.model_proto
        _name_dims(model, traced)
        assert program.exported_program is not None
        return Translated(model, program.exported_program)

    def save(self, converted: Translated, facts: Facts, path: Path) -> None:
        """Write the file; the facts are its metadata."""
        onnx = extra_package("onnx", EXTRA, "--format onnx")
        onnx.helper.set_model_props(converted.model, {KEY: facts.text()})
        onnx.save(converted.model, path)


class OpenVino:
    """OpenVINO's two files, of the ONNX model."""

    suffix, dialect, engine = ".xml", "onnx", "openvino"  # type: tuple[str, Dialect, EngineName]

    def convert(self, traced: Traced) -> Any:
        """Return the model as OpenVINO has it."""
        return self.of_onnx(Onnx().convert(traced).model)

    def of_onnx(self, onnx_model: Any) -> Any:
        """Return a model of ONNX as OpenVINO has it."""
        openvino = extra_package("openvino", EXTRA, "--format openvino")
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(onnx_model.SerializeToString())
            model = openvino.Core().read_model(str(path))
            model = model.clone()  # its weights are of the file, which goes
        return model

    def save(self, converted: Any, facts: Facts, path: Path) -> None:
        """Write both files; the facts, and which weights go with them, are information for the runtime."""
        openvino = extra_package("openvino", EXTRA, "--format openvino")
        converted.set_rt_info(facts.text(), [KEY])
        openvino.save_model(converted, str(path), compress_to_fp16=False)
        converted.set_rt_info(digest_of(weights_beside(path)), [WEIGHTS])
        openvino.save_model(
            converted, str(path), compress_to_fp16=False
        )  # the same weights, and their digest


FORMATS: Mapping[FormatName, Format] = {"pt2": Pt2(), "onnx": Onnx(), "openvino": OpenVino()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, and its warnings of itself, away."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (UserWarning, FutureWarning, DeprecationWarning))
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def _suppress(boxes: Any, rank: Any, labels: Any, num_classes: int, threshold: float) -> Any:
    """Return what remains of candidates, in ONNX: see `tasks.detection.graph.keep_apart`.

    ONNX suppresses by image and class; its scores are the ranks, of which no two are equal.
    """
    from onnxscript import opset18 as op  # it is installed where this is called

    classes = op.Range(op.Constant(value_int=0), op.Constant(value_int=num_classes), op.Constant(value_int=1))
    mine = op.Equal(
        op.Unsqueeze(labels, op.Constant(value_ints=[1])),
        op.Unsqueeze(classes, op.Constant(value_ints=[0, 2])),
    )
    scores = op.Where(mine, op.Unsqueeze(rank, op.Constant(value_ints=[1])), op.Constant(value_float=0.0))
    chosen = op.NonMaxSuppression(
        boxes,
        scores,
        op.Shape(rank, start=1, end=2),
        op.Constant(value_float=threshold),
        op.Constant(value_float=0.0),
    )
    places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
    nothing = op.Expand(op.Constant(value_int=0), op.Shape(rank))
    ones = op.Expand(op.Constant(value_int=1), op.Shape(chosen, start=0, end=1))
    return op.Cast(op.ScatterND(nothing, places, ones), to=9)  # bool


def _name_dims(model: Any, traced: Traced) -> None:
    """Call the dims of inputs and outputs by their names, and forget what PyTorch calls those in between."""
    images = model.graph.input[0].type.tensor_type.shape.dim
    known = dict(
        zip(
            (one.dim_param for one in images),
            ("batch", "", *(f"{traced.multiple}*{side}" for side in ("rows", "columns"))),
            strict=True,
        )
    )
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and dim.dim_param in known:
                dim.dim_param = known[dim.dim_param]
