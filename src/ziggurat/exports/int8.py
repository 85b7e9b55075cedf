"""An export that computes in integers of 8 bits: calibrated by NNCF, and as good as the accuracy that was measured.

1. Layers (convolutions, matrix products) compute in int8 by the ranges that their values have on training images. What lies before
   the first layer (normalization) and behind the last (decoding, suppression) stays float.
2. The file is measured, as `ziggurat evaluate` measures the run itself. A loss within the bound ends it.
3. Otherwise layers are put back to float, those first that add most noise: one, two, four, eight ... of them, until the loss is
   within the bound, or half of the layers are float: then an int8 file is not worth its loss, and is refused.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ziggurat.exports.engines import EXTRA
from ziggurat.exports.graph import INPUTS
from ziggurat.exports.samples import Batch
from ziggurat.system.packages import extra_package

MAX_DROP = 0.5  # points
CALIBRATION = 300  # images
LAYERS = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "MatMul",
)
NOISE_IMAGES = 4  # by which layers are compared
_WEIGHT_OPS = ("FakeQuantize", "Multiply", "Subtract", "Convert", "Reshape", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class Int8:
    """What is asked of an export in int8.

    Attributes:
        data: The data set that it is calibrated and measured on.
        calibration: Batches of one training image, as the graph takes them.
        metric: What is measured, a share.
        reference: The metric of the network itself.
        measure: Returns the metric of the file that `exporting` has written last.
        images: That it is measured on.
        max_drop: How many points (hundredths) the metric may lose.
    """

    data: str
    calibration: Sequence[Batch]
    metric: str
    reference: float
    measure: Callable[[], float]
    images: int
    max_drop: float = MAX_DROP


@dataclass(frozen=True)
class Measured:
    """What an int8 file was measured to be.

    Attributes:
        value: Its metric.
        drop: The points that it is below the network itself.
        ok: Whether that is within the bound.
        float_layers: Names of the layers that stay float.
        num_layers: Layers, of either kind.
    """

    value: float
    drop: float
    ok: bool
    float_layers: tuple[str, ...]
    num_layers: int

    def facts(self, asked: Int8) -> dict[str, Any]:
        """Return what the file says of its accuracy."""
        return {
            "data": asked.data, "images": asked.images, "calibration_images": len(asked.calibration), "metric": asked.metric,
            "fp32": asked.reference, "int8": self.value, "drop_points": self.drop, "max_drop_points": asked.max_drop,
            "layers": self.num_layers, "float_layers": list(self.float_layers),
        }  # fmt: skip


def int8_model(
    model: Any, asked: Int8, write: Callable[[Any], None], say: Callable[[str], None]
) -> tuple[Any, Measured]:
    """Return a model of OpenVINO in int8, and what it was measured to be; the best that was found, where none is within the bound.

    Args:
        model: In float.
        asked: What is asked for.
        write: Writes a model to the file that is measured.
        say: Called with what is done next.
    """
    layers = layers_of(model)
    say(f"calibrating {len(layers)} layers on {len(asked.calibration)} images")
    current = quantized(model, asked.calibration)
    found = current, _measured(current, asked, layers, write, say)
    if found[1].ok:
        return found
    say("comparing the layers")
    worst = noisiest(model, current, asked.calibration[:NOISE_IMAGES])
    count = 1
    while count <= min(len(layers) // 2, len(worst)):
        say(f"calibrating with {count} of {len(layers)} layers in float")
        current = quantized(model, asked.calibration, worst[:count])
        measured = _measured(current, asked, layers, write, say)
        if measured.drop < found[1].drop:
            found = current, measured
        if measured.ok:
            break
        count *= 2
    write(found[0])
    return found


def _measured(
    model: Any, asked: Int8, layers: Sequence[str], write: Callable[[Any], None], say: Callable[[str], None]
) -> Measured:
    write(model)
    say(f"measuring it on {asked.images} images")
    value = asked.measure()
    drop = 100 * (asked.reference - value)
    kept = tuple(name for name in layers if name not in int8_layers(model))
    return Measured(value, drop, drop <= asked.max_drop, kept, len(layers))  # no number is not within it


def layers_of(model: Any) -> list[str]:
    """Return the names of the layers, in the order of computation."""
    return [node.get_friendly_name() for node in model.get_ordered_ops() if _is_layer(node)]


def int8_layers(model: Any) -> set[str]:
    """Return the names of the layers whose weights are integers of 8 bits."""
    return {
        node.get_friendly_name() for node in model.get_ops() if _is_layer(node) and _has_int8_weights(node)
    }


def quantized(model: Any, calibration: Sequence[Batch], floats: Sequence[str] = ()) -> Any:
    """Return a model in int8.

    Args:
        model: OpenVINO's, in float.
        calibration: Batches that say which ranges values have.
        floats: Names of layers that stay float.
    """
    with _quiet_nncf() as nncf:
        data = nncf.Dataset(list(calibration), _inputs)
        kept = [*_not_of_the_network(model), *floats]
        made = nncf.quantize(
            model.clone(), data, subset_size=len(calibration), ignored_scope=nncf.IgnoredScope(names=kept, validate=False)
        )  # fmt: skip
    return made


def noisiest(floating: Any, integer: Any, batches: Sequence[Batch]) -> list[str]:
    """Return the names of int8 layers, those first that add most noise.

    The noise of a value is the square of its error over the square of the value itself. A layer adds what its output has more than
    its input.

    Args:
        floating: The model in float.
        integer: The same in int8.
        batches: Images.
    """
    names = sorted(int8_layers(integer))
    added = {}
    for name in names:
        right, wrong = (_values(model, name, batches) for model in (floating, integer))
        before, after = (_noise([one[end] for one in right], [one[end] for one in wrong]) for end in (0, 1))
        added[name] = after - before
    return sorted(names, key=lambda name: -added[name])


def _values(model: Any, name: str, batches: Sequence[Batch]) -> list[list[Any]]:
    """Return of each batch the input and the output of a layer, in float.

    One layer at a time: what is behind a value may be computed in its place, so that of many some would be overwritten.
    """
    openvino = extra_package("openvino", EXTRA, "--int8")
    copy = model.clone()
    node = next(one for one in copy.get_ops() if one.get_friendly_name() == name)
    source = node.input_value(0)
    while source.get_node().get_type_name() == "FakeQuantize":
        source = source.get_node().input_value(0)
    results = [openvino.opset13.result(one) for one in (source, node.output(0))]
    part = openvino.Model(results, copy.get_parameters(), "part of the network")
    compiled = openvino.Core().compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = []
    for batch in batches:
        outputs = compiled(_inputs(batch))
        found.append([np.array(outputs[place]) for place in (0, 1)])
    return found


def _noise(right: Sequence[Any], wrong: Sequence[Any]) -> float:
    error = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(right, wrong, strict=True))
    whole = sum(float(np.square(a.astype(np.float64)).sum()) for a in right)
    return error / max(whole, 1e-30)


def _inputs(batch: Batch) -> dict[str, Any]:
    return dict(zip(INPUTS, (batch.images_BCHW.numpy(), batch.sizes_B2.numpy()), strict=True))


def _is_layer(node: Any) -> bool:
    """Return whether a node is a layer with weights."""
    return node.get_type_name() in LAYERS and _weights_of(node) is not None


def _weights_of(node: Any) -> Any:
    """Return the constant that the weights of a node are made of; None if they are computed from the images."""
    source = node.input_value(1).get_node()
    while source.get_type_name() in _WEIGHT_OPS:
        source = source.input_value(0).get_node()
    return source if source.get_type_name() == "Constant" else None


def _has_int8_weights(node: Any) -> bool:
    return _weights_of(node).get_element_type().get_type_name() in ("i8", "u8")


def _not_of_the_network(model: Any) -> list[str]:
    """Return the names of what lies before the first layers, and behind the last ones: it stays float."""
    ordered = [
        node for node in model.get_ordered_ops() if node.get_type_name() not in ("Constant", "Parameter")
    ]
    layers = {node.get_friendly_name() for node in ordered if _is_layer(node)}
    behind: set[str] = set()  # a layer lies before it
    for node in ordered:
        if any(name in layers or name in behind for name in _sources(node)):
            behind.add(node.get_friendly_name())
    before: set[str] = set()  # a layer lies behind it
    for node in reversed(ordered):
        name = node.get_friendly_name()
        if name in layers or name in before:
            before.update(_sources(node))
    names = [node.get_friendly_name() for node in ordered if node.get_type_name() != "Result"]
    return [name for name in names if name not in layers and not (name in behind and name in before)]


def _sources(node: Any) -> list[str]:
    return [node.input_value(place).get_node().get_friendly_name() for place in range(node.get_input_size())]


@contextlib.contextmanager
def _quiet_nncf() -> Iterator[Any]:
    """Import NNCF, which tells nobody of its use then, and keep its progress away from standard output."""
    told = {"NNCF_CI": "1"} if "NNCF_CI" not in os.environ else {}  # read as it is imported
    os.environ.update(told)
    compilers = logging.getLogger("torch.utils.cpp_extension")  # warns that there is no GPU
    level = compilers.level
    compilers.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore", (UserWarning, FutureWarning, DeprecationWarning))
            nncf = extra_package("nncf", EXTRA, "--int8")
            nncf.set_log_level(logging.ERROR)
            yield nncf
    finally:
        compilers.setLevel(level)
        for name in told:
            del os.environ[name]
