"""Makes a microbatch from its samples, in a loader process or beside the model, and says what is in its way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch

from ziggurat.data.batch import Microbatch, Sample, SampleId, stack_padded
from ziggurat.data.crop_sizes import CropShape
from ziggurat.data.extents import largest
from ziggurat.data.targets import TargetKind
from ziggurat.errors import UserError


class Samples(Protocol):
    """Makes samples by their ids."""

    @property
    def kind(self) -> TargetKind:
        """What stacks the samples' targets."""
        ...

    def sample(self, id: SampleId) -> Sample:
        """Return one sample."""
        ...

    def replacements(self, id: SampleId) -> Iterator[SampleId]:
        """Yield what may stand in a sample's place; a pure function."""
        ...

    def at(self, shape: CropShape) -> Samples:
        """Return the same samples in crops of another shape."""
        ...

    def describe(self, id: SampleId) -> str:
        """Name a sample in a message."""
        ...


@dataclass(frozen=True)
class Piece:
    """Names one microbatch.

    Attributes:
        index: Place in the global batch.
        ids: The samples.
        shape: Of their crops; None stands for the samples' own.
    """

    index: int
    ids: tuple[SampleId, ...]
    shape: CropShape | None = None


@dataclass(frozen=True)
class Failure:
    """A user's error in a loader process."""

    faults: list[str]


class Pieces:
    """The loader's view of the samples: from a piece to a microbatch.

    Args:
        samples: Makes the samples.
        on_error: What happens to a sample that cannot be made: ``stop``, or ``skip`` it, which puts another in its
            place; which one depends on its id alone.
    """

    def __init__(self, samples: Samples, on_error: Literal["stop", "skip"]) -> None:
        self._samples = samples
        self._on_error = on_error

    def make(self, piece: Piece) -> Microbatch | Failure:
        """Return a microbatch, or the user's error that is in its way."""
        try:
            samples = self._samples if piece.shape is None else self._samples.at(piece.shape)
            made = [self._make(samples, id) for id in piece.ids]
        except UserError as error:
            return Failure(error.faults)
        microbatch = _collate(piece, [sample for sample, _ in made], samples.kind)
        return replace(microbatch, faults=tuple(fault for _, fault in made if fault))

    def _make(self, samples: Samples, id: SampleId) -> tuple[Sample, str]:
        """Return a sample or what stands in its place, and why."""
        try:
            return samples.sample(id), ""
        except UserError as error:
            if self._on_error == "stop":
                raise
            fault = str(error)
        for other in samples.replacements(id):
            try:
                sample = samples.sample(other)
            except UserError:  # the next one, then; this one will be named when its turn comes
                continue
            return sample, (
                f"{fault}; sample {samples.describe(other)} stands in the place of {samples.describe(id)}"
            )
        raise UserError(f"no image can be read; the last fault: {fault}")


def _collate(piece: Piece, samples: list[Sample], kind: TargetKind) -> Microbatch:
    part = samples[0].part
    if part is not None:
        return Microbatch(
            piece.index,
            piece.ids,
            torch.stack([sample.image_CHW for sample in samples]),
            (part.extent,) * len(samples),
            kind.stack([sample.target for sample in samples], part.own.height, part.own.width),
            part,
        )
    sizes = tuple(tuple(sample.image_CHW.shape[1:]) for sample in samples)
    extent = largest(sizes)
    images = stack_padded([sample.image_CHW for sample in samples], extent)
    rows, columns = extent
    targets = kind.stack([sample.target for sample in samples], rows, columns)
    return Microbatch(piece.index, piece.ids, images, sizes, targets)
