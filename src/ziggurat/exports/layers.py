"""Where a file begins to differ from the network that it was made of: layer by layer, in the order of computation.

The values of an ONNX graph have the names of the nodes of PyTorch's program. Those that both have are computed by both.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from ziggurat.exports.engines import EXTRA
from ziggurat.exports.graph import INPUTS
from ziggurat.exports.samples import Batch
from ziggurat.system.packages import extra_package

RELATIVE = 1e-3  # of the largest value of a layer: rounding is far below


def first_difference(program: ExportedProgram, model: Any, batch: Batch) -> str:
    """Return the first layer whose values differ, with by how much; empty if none of those that can be seen does.

    Args:
        program: That the ONNX model was translated from.
        model: ONNX's, as it is run.
        batch: Images that show a difference.
    """
    onnx = extra_package("onnx", EXTRA, "comparing layers")
    runtime = extra_package("onnxruntime", EXTRA, "comparing layers")
    recorder = _Recorder(program)
    recorder.run(batch.images_BCHW, batch.sizes_B2)
    there = {name for node in model.graph.node for name in node.output} & recorder.values.keys()
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    wanted = [name for name in recorder.values if name in there]
    del seen.graph.output[:]
    seen.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    with TemporaryDirectory() as folder:
        path = Path(folder) / "layers.onnx"
        onnx.save(seen, path)
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        given = dict(zip(INPUTS, (batch.images_BCHW.numpy(), batch.sizes_B2.numpy()), strict=True))
        found = dict(zip(wanted, session.run(wanted, given), strict=True))
    for name in wanted:
        ours, theirs = recorder.values[name], torch.from_numpy(found[name])
        scale = max(1.0, float(ours.abs().max())) if ours.numel() else 1.0
        error = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
        if not error <= RELATIVE * scale:
            return f"{recorder.layers[name] or name} ({name}) differs by {error:.3g}, of values up to {scale:.3g}"
    return ""


class _Recorder:
    """Runs a program, and keeps the value of each node that is a map of numbers."""

    def __init__(self, program: ExportedProgram) -> None:
        self.values: dict[str, Tensor] = {}
        self.layers: dict[str, str] = {}
        recorder = self
        module = program.module(check_guards=False)

        class Interpreter(fx.Interpreter):
            def run_node(self, node: fx.Node) -> Any:
                value = super().run_node(node)
                if node.op == "call_function" and isinstance(value, Tensor) and value.is_floating_point():
                    recorder.values[node.name] = value
                    recorder.layers[node.name] = _layer_of(node)
                return value

        self._interpreter = Interpreter(module)

    @torch.no_grad()
    def run(self, *given: Tensor) -> None:
        """Run it."""
        self._interpreter.run(*given)


def _layer_of(node: fx.Node) -> str:
    """Return the innermost layer that a node belongs to, by its name in the model."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return paths[-1].removeprefix("model.") if paths else ""
