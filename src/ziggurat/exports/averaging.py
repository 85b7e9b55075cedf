"""Several networks as one, whose output is the average of theirs: what an export of several runs is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.models.images import Normalization, Samples
from ziggurat.models.vision import VisionModel
from ziggurat.runs.folder import Run
from ziggurat.tasks.base import Task
from ziggurat.tasks.registry import make_task


class GraphNormalization(nn.Module):
    """`Normalization` by operations that a graph can have, of whatever sizes.

    Args:
        normalization: Of the samples.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(normalization.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(normalization.std)[:, None, None])
        self.white = normalization.white

    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Return normalized images, zero behind the sizes and where there is nothing.

        Args:
            images: Samples, float32, shape ``(B, C, H, W)``, padded behind each image.
            sizes: Rows and columns of each image before padding, int64, shape ``(B, 2)``.
        """
        whitened = images / self.white if self.white != 1 else images
        normalized = ((whitened - self.mean) / self.std).nan_to_num(nan=0.0)
        rows, columns = (
            torch.arange(images.shape[dim], device=images.device) < sizes[:, place, None]
            for place, dim in enumerate((2, 3))
        )
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        return torch.where(inside, normalized, 0.0)


class AveragedModel(VisionModel):
    """Networks of one task, each of which normalizes images as its own run does.

    Args:
        runs: Two at least, of the same classes; the first one's facts are those of all.

    Attributes:
        names: Of the networks.
    """

    takes_samples = True

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__()
        first = runs[0].model
        self.task, self.num_classes = first.task, first.num_classes
        self.mean, self.std, self.size_multiple = first.mean, first.std, first.size_multiple
        self.class_layers = ()
        self.only_size = getattr(first, "only_size", None)
        self.names = tuple(run.config.model.name for run in runs)
        self.networks = nn.ModuleList(run.model for run in runs)
        self._normalizations = [Normalization.of(run.config.data, run.model) for run in runs]
        self.preparations = nn.ModuleList(map(GraphNormalization, self._normalizations))
        tasks: list[Task[object, object]] = [make_task(run.model, run.config) for run in runs]
        self._join = tasks[0].join_outputs

    def facts(self) -> tuple[dict[str, Any], ...]:
        """Return what an export says of each network."""
        return tuple(
            {"model": name, "mean": one.mean, "std": one.std, "white": one.white}
            for name, one in zip(self.names, self._normalizations, strict=True)
        )

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        """Return the outputs of the networks, joined as their task joins them."""
        pairs = zip(self.networks, self.preparations, strict=True)
        joined: dict[str, Tensor] = self._join([network(prepare(*samples)) for network, prepare in pairs])
        return joined


def averaged(names: Sequence[str], runs: Sequence[Run]) -> Run:
    """Return several runs as one, whose network averages what theirs say; one run is itself.

    Args:
        names: Of the runs.
        runs: Of the same task and classes (`inference.members`).

    Raises:
        UserError: If their outputs cannot be averaged in one graph; lists every fault.
    """
    first = runs[0]
    if len(runs) == 1:
        return first
    faults = []
    if fault := make_task(first.model, first.config).joining_fault:
        faults.append(f"{', '.join(names)} cannot become one graph: {fault}; export each by itself")
    for name, run in zip(names[1:], runs[1:], strict=True):
        for what, words in (
            ("size_multiple", "multiples that images are padded to"),
            ("only_size", "only size of images"),
        ):
            ours, theirs = (getattr(one.model, what, None) for one in (first, run))
            if ours != theirs:
                faults.append(
                    f"networks of one graph must have the same {words}: {names[0]} has {ours}, {name} has {theirs}; export each by itself"
                )
    if faults:
        raise UserError(faults)
    return first._replace(model=AveragedModel(runs).eval())
