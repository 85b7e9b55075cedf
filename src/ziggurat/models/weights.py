"""Loading weights into a model: what fits, and a plain word about what does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from timm.models import adapt_input_conv
from torch import Tensor

from ziggurat.errors import UserError
from ziggurat.models.vision import VisionModel
from ziggurat.models.weight_files import find_file, read_tensors
from ziggurat.models.weight_names import translate


@dataclass(frozen=True)
class Mismatch:
    """A tensor that has one shape in the file and another in the model."""

    name: str
    shape_in_file: tuple[int, ...]
    shape_in_model: tuple[int, ...]


@dataclass(frozen=True)
class WeightsReport:
    """What became of a weights file.

    Attributes:
        path: The file.
        loaded: Names (the model's) of the tensors that were loaded.
        missing: Names of the model's tensors that the file does not have; they keep their initial values.
        unexpected: Names of the file's tensors that the model does not have.
        mismatched: Tensors of the layer that predicts the classes, if the file has another number of classes; they
            keep their initial values.
        widened: Names of convolutions of images of another number of bands, whose weights were spread over the model's.
    """

    path: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    widened: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return the report in a few lines."""
        lines = [f"{self.path}: {len(self.loaded)} tensors loaded"]
        if self.missing:
            lines.append(f"not in the file, start at random: {_by_part(self.missing)}")
        if self.mismatched:
            names = ", ".join(_describe(one) for one in self.mismatched)
            lines.append(f"another number of classes, start at random: {names}")
        if self.widened:
            lines.append(f"for another number of bands, spread over these: {', '.join(self.widened)}")
        if self.unexpected:
            lines.append(f"not in the model, left out: {_by_part(self.unexpected)}")
        return "\n".join(lines)


def load_weights(model: VisionModel, path: str, tensors: Mapping[str, Tensor] | None = None) -> WeightsReport:
    """Load a weights file into a model, as far as it fits.

    Args:
        model: Is changed in place, unless an error is raised.
        path: A safetensors or torch file with the weights of such a model, of torchvision's
            ``fcos_resnet50_fpn`` or ``retinanet_resnet50_fpn``, of a timm or smp network under its own names, or of
            the backbone alone under timm's or torchvision's names; or ``lite0``.
        tensors: What the file holds, by the model's names, where somebody has read it already; `path` is its name then.

    Raises:
        UserError: If the file is not there, is corrupt or would have to be executed, fits nothing, holds numbers
            that are not finite, or holds tensors of another shape (all are listed; only the layer that predicts
            the classes may differ).
    """
    file = Path(path) if tensors is not None else find_file(path)
    state = model.state_dict()
    tensors = dict(tensors) if tensors is not None else translate(read_tensors(file), state.keys())
    widened = _widen(tensors, model)
    both = [name for name in state if name in tensors]
    mismatched = tuple(
        Mismatch(name, tuple(tensors[name].shape), tuple(state[name].shape))
        for name in both
        if tensors[name].shape != state[name].shape
    )
    different = {one.name for one in mismatched}
    fitting = {name: tensors[name] for name in both if name not in different}
    _check(file.name, model, tensors, fitting, mismatched)
    model.load_state_dict(fitting, strict=False)
    return WeightsReport(
        path=str(file),
        loaded=tuple(fitting),
        missing=_without_counters(name for name in state if name not in tensors),
        unexpected=_without_counters(name for name in tensors if name not in state),
        mismatched=mismatched,
        widened=widened,
    )


def _widen(tensors: dict[str, Tensor], model: VisionModel) -> tuple[str, ...]:
    """Spread the weights of convolutions that see images over the bands of a model, and return their names.

    As timm does: of one band they are added up, of others they are repeated, and scaled so that the sum over bands is about the same.

    Args:
        tensors: What the file holds, by the model's names; changed in place.
        model: Sees images of other bands than three, or the file is for others.
    """
    names = []
    for name, value in model.state_dict().items():
        given = tensors.get(name)
        if given is None or given.dim() != 4 or given.shape == value.shape:
            continue
        is_alike = given.shape[0] == value.shape[0] and given.shape[2:] == value.shape[2:]
        if is_alike and given.shape[1] == 3:
            tensors[name] = adapt_input_conv(value.shape[1], given)
            names.append(name)
    return tuple(names)


def _check(
    file: str,
    model: VisionModel,
    tensors: dict[str, Tensor],
    fitting: dict[str, Tensor],
    mismatched: tuple[Mismatch, ...],
) -> None:
    wrong = [one for one in mismatched if one.name.rpartition(".")[0] not in model.class_layers]
    if wrong:
        raise UserError(
            f"weights of another shape in '{file}': {_describe(one)}; choose the model that they belong to"
            for one in wrong
        )
    if not _without_counters(fitting):
        raise UserError(
            f"nothing in the weights file '{file}' fits the model: it holds {_some(tensors)}; the model has "
            f"{_some(model.state_dict())}; choose the model that they belong to"
        )
    broken = [name for name, tensor in fitting.items() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"weights must be finite: '{file}' has NaN or infinity in {', '.join(broken)}; "
            "take an earlier checkpoint"
        )


def _without_counters(names: Iterable[str]) -> tuple[str, ...]:
    """Leave out the counters of batch norms, which change nothing and which many files lack."""
    return tuple(name for name in names if not name.endswith("num_batches_tracked"))


def _describe(one: Mismatch) -> str:
    return f"{one.name} is {one.shape_in_file} in the file and {one.shape_in_model} in the model"


def _by_part(names: Iterable[str]) -> str:
    """Return how many tensors each part of a model has, such as ``neck.lateral (6)``."""
    parts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{part} ({count})" for part, count in parts.items())


def _some(tensors: dict[str, Tensor]) -> str:
    names = list(tensors)
    return ", ".join(names[:3]) + (f", ... ({len(names)} tensors)" if len(names) > 3 else "")
