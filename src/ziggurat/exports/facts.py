"""What an export says of itself: all that a program needs that has nothing of ours."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ziggurat.config import RunConfig, flatten, override
from ziggurat.errors import UserError
from ziggurat.exports.averaging import AveragedModel
from ziggurat.models.images import Normalization
from ziggurat.runs.folder import Run, weights_sha256
from ziggurat.tasks.graph import GraphOutput
from ziggurat.tasks.registry import find_task

KEY = "ziggurat"  # of the metadata of a file
FormatName = Literal["pt2", "onnx", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class Facts:
    """What is known of an export.

    Attributes:
        format: Of the file.
        precision: What it computes in.
        task: The kind of work.
        model: The name of the network, or of each with plus signs between.
        classes: The name of each label.
        category_ids: The COCO category id of each label.
        bands: Of the images.
        multiple: Rows and columns of a batch are multiples of this number.
        only_size: Rows and columns of the only images that the network takes; None if any.
        mean: Of each band, which the graph takes away after dividing by `white`.
        std: What it divides by then.
        white: What samples are divided by first.
        outputs: Of the graph: name, dims, meaning.
        decode: How outputs become boxes; empty for other tasks.
        licence: Of the weights, as whoever exported them said.
        weights_sha256: Of the weights that went in.
        version: Of Ziggurat.
        config: Of the run, by dotted names.
        parity: What the proof has found, in float.
        members: Of several runs whose predictions the graph averages: the name of each network, and what its images are normalized by.
        accuracy: What a file in int8 was measured to be; empty of others.
        has_unique_keys: Whether its graph orders equal scores by itself, whatever a program's TopK does with them.
    """

    format: FormatName
    precision: Precision
    task: str
    model: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    bands: int
    multiple: int
    only_size: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: float
    outputs: tuple[dict[str, Any], ...]
    decode: dict[str, Any]
    licence: str
    weights_sha256: str
    version: str
    config: dict[str, Any]
    parity: dict[str, Any] = field(default_factory=dict)
    members: tuple[dict[str, Any], ...] = ()
    accuracy: dict[str, Any] = field(default_factory=dict)
    has_unique_keys: bool = False  # in files that do not say so

    @classmethod
    def of_run(
        cls,
        run: Run,
        name: FormatName,
        precision: Precision,
        multiple: int,
        outputs: tuple[GraphOutput, ...],
        licence: str,
    ) -> Facts:
        """Return the facts of an export of a run that is not proved yet."""
        normalization = Normalization.of(run.config.data, run.model)
        flat = flatten(run.config)
        labels = range(run.model.num_classes)
        decode = tuple(one for one in find_task(run.model.task).settings or () if one == "decode.")
        return cls(
            format=name,
            precision=precision,
            task=run.model.task,
            model=" + ".join(_names_of(run)),
            classes=run.classes or tuple(map(str, labels)),
            category_ids=run.category_ids or tuple(labels),
            bands=len(normalization.mean),
            multiple=multiple,
            only_size=getattr(run.model, "only_size", None),
            mean=normalization.mean,
            std=normalization.std,
            white=normalization.white,
            outputs=tuple({**asdict(one), "dims": list(one.dims)} for one in outputs),
            decode={key: value for key, value in flat.items() if key.startswith(decode)},
            licence=licence,
            weights_sha256=weights_sha256(run.model),
            version=version("ziggurat"),
            config=flat,
            members=run.model.facts() if isinstance(run.model, AveragedModel) else (),
            has_unique_keys=True,
        )

    def run_config(self) -> RunConfig:
        """Return the config of the run that was exported."""
        return override(RunConfig(), self.config)

    def text(self) -> str:
        """Return the facts as JSON, as they stand in the file."""
        return json.dumps(asdict(self))

    def _check(self) -> None:
        """Raise a TypeError for what only another program would have written."""
        kinds = {
            str: (self.format, self.precision, self.task, self.model, self.licence, self.weights_sha256, *self.classes),
            int: (self.bands, self.multiple, *self.category_ids, *([] if self.only_size is None else [self.only_size])),
            float: (self.white, *self.mean, *self.std),
            bool: (self.has_unique_keys,),
            dict: (self.config, self.decode, self.parity, self.accuracy, *self.outputs),
        }  # fmt: skip
        for kind, values in kinds.items():
            if not all(isinstance(one, (int, float) if kind is float else kind) for one in values):
                raise TypeError(f"a field is no {kind.__name__}")
        if not all(isinstance(one.get("name"), str) for one in self.outputs) or self.multiple < 1:
            raise TypeError("outputs without names")

    @classmethod
    def read(cls, text: str | None, path: Path) -> Facts:
        """Return what a file says of itself.

        Raises:
            UserError: If it is no export of ours.
        """
        try:
            fields: dict[str, Any] = json.loads(text or "")
            known: Any = {
                key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
            }
            facts = cls(**known)
            facts._check()
            return facts
        except (ValueError, TypeError, AttributeError):
            raise UserError(
                f"{path} is no export of Ziggurat: it does not say its classes, preprocessing and settings; make one with "
                "`ziggurat export`"
            ) from None


def _names_of(run: Run) -> tuple[str, ...]:
    return run.model.names if isinstance(run.model, AveragedModel) else (run.config.model.name,)
