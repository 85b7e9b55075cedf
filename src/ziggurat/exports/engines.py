"""Running an exported file: what each runtime needs to be told.

An engine takes samples and sizes (`graph`), and returns the outputs of the graph by name. It may be called from several threads.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ziggurat.errors import UserError
from ziggurat.exports.archives import check_archive
from ziggurat.exports.facts import KEY, Facts
from ziggurat.exports.graph import INPUTS
from ziggurat.system.packages import extra_package

EngineName = Literal["torch", "onnx", "openvino"]
EXTRA = "export"
WEIGHTS = "ziggurat_weights"  # what a graph of OpenVINO says of the file of weights beside it
# What can run which files, by their suffix; the first is the usual one.
ENGINES: Mapping[str, tuple[EngineName, ...]] = {
    ".pt2": ("torch",),
    ".onnx": ("onnx", "openvino"),
    ".xml": ("openvino",),
}


class Engine(Protocol):
    """An open file."""

    def __call__(self, images_BCHW: Tensor, sizes_B2: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the graph by name.

        Args:
            images_BCHW: Samples, float32.
            sizes_B2: Rows and columns of each image before padding, int64.
        """
        ...


@dataclass(frozen=True)
class TorchEngine:
    """A ``.pt2`` file, run by PyTorch.

    Attributes:
        names: Of the outputs.
        run: The program.
    """

    names: Sequence[str]
    run: Callable[..., tuple[Tensor, ...]]

    def __call__(self, images_BCHW: Tensor, sizes_B2: Tensor) -> dict[str, Tensor]:
        """Run the program."""
        with torch.no_grad():
            return dict(zip(self.names, self.run(images_BCHW, sizes_B2), strict=True))


@dataclass(frozen=True)
class OnnxEngine:
    """An ONNX file, run by ONNX Runtime.

    Attributes:
        names: Of the outputs.
        session: Of ONNX Runtime.
    """

    names: Sequence[str]
    session: Any

    def __call__(self, images_BCHW: Tensor, sizes_B2: Tensor) -> dict[str, Tensor]:
        """Run the session."""
        given = {
            name: tensor.cpu().numpy() for name, tensor in zip(INPUTS, (images_BCHW, sizes_B2), strict=True)
        }
        found = self.session.run(list(self.names), given)
        return {name: torch.from_numpy(one) for name, one in zip(self.names, found, strict=True)}


@dataclass(frozen=True)
class OpenVinoEngine:
    """A file that OpenVINO has compiled.

    Attributes:
        names: Of the outputs.
        compiled: The model.
    """

    names: Sequence[str]
    compiled: Any

    def __call__(self, images_BCHW: Tensor, sizes_B2: Tensor) -> dict[str, Tensor]:
        """Run the model."""
        request = self.compiled.create_infer_request()  # one has a single thread
        given = {
            name: tensor.cpu().numpy() for name, tensor in zip(INPUTS, (images_BCHW, sizes_B2), strict=True)
        }
        found = request.infer(given)
        return {name: torch.from_numpy(found[name].copy()) for name in self.names}


def read_facts(path: Path) -> Facts:
    """Return what an exported file says of itself.

    Raises:
        UserError: If it is no export of ours, or a package is missing.
    """
    return Facts.read(READERS[path.suffix](path), path)


def open_engine(path: Path, facts: Facts, engine: EngineName, threads: int, dtype: str) -> Engine:
    """Open an exported file.

    Args:
        path: The file.
        facts: Its own.
        engine: What runs it, one of `ENGINES` for its suffix.
        threads: That it computes with.
        dtype: ``bf16`` or ``fp32``: what OpenVINO computes in; what is int8 stays so.

    Raises:
        UserError: If the file is damaged, or a package is missing.
    """
    names = tuple(one["name"] for one in facts.outputs)
    try:
        if engine == "torch":
            return TorchEngine(names, _pt2_module(path))
        if engine == "onnx":
            return OnnxEngine(names, _onnx_session(path, threads, names))
        compiled = compile_openvino(str(path), threads, dtype, facts.has_unique_keys)
        _check_names(compiled.inputs, compiled.outputs, names, lambda one: set(one.get_names()))
        return OpenVinoEngine(names, compiled)
    except UserError:
        raise
    except (RuntimeError, ValueError, OSError, KeyError, zipfile.BadZipFile) as error:  # each runtime's own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} cannot be run by {engine}: {reason}; export it again") from None


def _onnx_session(path: Path, threads: int, names: Sequence[str]) -> Any:
    runtime = extra_package("onnxruntime", EXTRA, "--engine onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # nothing but what ends the process: errors are raised
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if type(error).__module__.startswith("onnxruntime"):  # its errors have no common base
            raise RuntimeError(str(error)) from None
        raise
    _check_names(session.get_inputs(), session.get_outputs(), names, lambda one: {one.name})
    return session


def _check_names(
    inputs: Sequence[Any], outputs: Sequence[Any], names: Sequence[str], names_of: Callable[[Any], set[str]]
) -> None:
    """See that a graph has the inputs and outputs that its file says.

    Raises:
        RuntimeError: If it is another graph.
    """
    found = [set[str]().union(*map(names_of, ends)) for ends in (inputs, outputs)]
    for what, said, there in (("inputs", INPUTS, found[0]), ("outputs", names, found[1])):
        if missing := sorted(set(said) - there):
            raise RuntimeError(
                f"its graph lacks the {what} {', '.join(missing)}, of which its metadata speak"
            )


def compile_openvino(model: Any, threads: int, dtype: str, has_unique_keys: bool = True) -> Any:
    """Return a model, or the file of one, compiled for the processor.

    Args:
        model: OpenVINO's, or a path.
        threads: That it computes with.
        dtype: ``bf16`` or ``fp32``.
        has_unique_keys: See `Facts`.
    """
    openvino = extra_package("openvino", EXTRA, "--engine openvino")
    core = openvino.Core()
    if isinstance(model, str):
        model = core.read_model(model)
    if not has_unique_keys:
        order_equals(model)
    hint = {"fp32": "f32", "bf16": "bf16"}[dtype]
    return core.compile_model(
        model, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint}
    )


def order_equals(model: Any) -> None:
    """Have OpenVINO's TopK put equal values in the order of their indices, as ONNX says; it does not by itself."""
    for node in model.get_ops():
        if node.get_type_name() == "TopK":
            node.set_attribute("stable", True)


def _pt2_module(path: Path) -> Any:
    """Return the program of a ``.pt2`` file, which is looked into first.

    Raises:
        UserError: If it holds what may run anything.
    """
    check_archive(path)
    try:
        return torch.export.load(path).module(check_guards=False)
    except Exception as error:  # noqa: BLE001 - what is swapped or damaged fails anywhere in PyTorch's loader
        raise RuntimeError(f"{type(error).__name__}: {error}") from None


def _pt2_text(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((one for one in archive.namelist() if one.endswith(f"extra/{KEY}.json")), None)
            return archive.read(name).decode() if name else None
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError, RuntimeError, NotImplementedError, EOFError):
        return None  # what Python's zipfile raises for a file that is no archive, or a damaged one


def _onnx_text(path: Path) -> str | None:
    onnx = extra_package("onnx", EXTRA, f"reading {path}")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # noqa: BLE001 - protobuf's errors have no common base, and the file may be anything
        raise UserError(f"{path} is no ONNX file: {type(error).__name__}") from None
    if any(one.data_location == onnx.TensorProto.EXTERNAL for one in model.graph.initializer):
        raise UserError(
            f"{path} names other files for its weights, and no export of Ziggurat does: it is not opened"
        )
    return next((one.value for one in model.metadata_props if one.key == KEY), None)


def _openvino_text(path: Path) -> str | None:
    openvino = extra_package("openvino", EXTRA, f"reading {path}")
    try:
        model = openvino.Core().read_model(str(path))
    except RuntimeError as error:
        raise UserError(f"{path} is no file of OpenVINO: {str(error).strip().splitlines()[0]}") from None
    if not model.has_rt_info([KEY]):
        return None
    weights = weights_beside(path)
    said = str(model.get_rt_info([WEIGHTS]).value) if model.has_rt_info([WEIGHTS]) else ""
    if not weights.is_file() or said != digest_of(weights):
        raise UserError(
            f"{path} was not written with the weights beside it, {weights.name}: their SHA-256 is another one; copy both files of an "
            "export together, or export it again"
        )
    return str(model.get_rt_info([KEY]).value)


def weights_beside(path: Path) -> Path:
    """Return the file of weights that OpenVINO keeps beside its graph."""
    return path.with_suffix(".bin")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


READERS: Mapping[str, Callable[[Path], str | None]] = {
    ".pt2": _pt2_text,
    ".onnx": _onnx_text,
    ".xml": _openvino_text,
}
