"""Proving an export: the file is run on real images, and compared with the network that it was made of."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ziggurat.exports.engines import Engine
from ziggurat.exports.samples import Batch
from ziggurat.models.images import AsSamples, Normalization
from ziggurat.models.vision import takes_samples
from ziggurat.runs.folder import Run
from ziggurat.tasks.graph import Difference
from ziggurat.tasks.registry import make_task

ERROR, BOX_ERROR = 1e-4, 0.05  # largest differences of scores or logits, and of sides of boxes in pixels


@dataclass
class Proof:
    """What comparing has found.

    Attributes:
        images: Different images.
        comparisons: How often one was compared.
        sizes: Rows and columns of the batches.
        batches: Images of the batches.
        max_error: The largest difference of scores, or of logits.
        max_box_error: The largest difference of sides of boxes, in pixels.
        same_detections: Whether the same things were found in each image.
        worst: The image with the largest difference, and its size.
        said: What differs there.
        seconds: Of the network, and of the file.
    """

    images: int = 0
    comparisons: int = 0
    sizes: list[list[int]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    max_error: float = 0.0
    max_box_error: float = 0.0
    same_detections: bool = True
    worst: str = ""
    said: str = ""
    seconds: dict[str, float] = field(default_factory=lambda: {"torch": 0.0, "exported": 0.0})

    @property
    def ok(self) -> bool:
        """Whether the file is as good as the network."""
        return self.same_detections and self.max_error <= ERROR and self.max_box_error <= BOX_ERROR

    def facts(self) -> dict[str, Any]:
        """Return what the file says of its proof."""
        found = asdict(self)
        del found["seconds"], found["said"]
        return found | {"bounds": {"error": ERROR, "box_error": BOX_ERROR}}


@dataclass(frozen=True)
class Prover:
    """Compares an export with the run that it was made of, in float32.

    Attributes:
        run: Its model computes on the processor.
    """

    run: Run

    @torch.no_grad()
    def __call__(self, engine: Engine, batches: Iterable[Batch]) -> tuple[Proof, Batch | None]:
        """Return what was found, and the worst batch.

        Args:
            engine: Runs the file.
            batches: Of real images.
        """
        model = self.run.model.eval()
        task = make_task(model, self.run.config)
        preparation = AsSamples if takes_samples(model) else Normalization
        normalization = preparation.of(self.run.config.data, model)
        proof, names = Proof(), set[str]()
        worst, worst_rank = None, (False, -1.0)
        for batch in batches:
            start = time.perf_counter()
            outputs = model(normalization(batch.images_BCHW, batch.sizes))
            middle = time.perf_counter()
            found = engine(batch.images_BCHW, batch.sizes_B2)
            proof.seconds["torch"] += middle - start
            proof.seconds["exported"] += time.perf_counter() - middle
            extent = [*batch.images_BCHW.shape[2:]]
            names.update(batch.names)
            if extent not in proof.sizes:
                proof.sizes.append(extent)
            if len(batch.names) not in proof.batches:
                proof.batches.append(len(batch.names))
            for name, one in zip(batch.names, task.compare_graph(outputs, found, batch.sizes), strict=True):
                one = one._replace(error=_number(one.error), box_error=_number(one.box_error))
                rank = (not one.same, max(one.error / ERROR, one.box_error / BOX_ERROR))
                self._add(proof, one)
                if rank > worst_rank:
                    worst, worst_rank = batch, rank
                    proof.worst = f"{name} at {extent[0]} x {extent[1]}, a batch of {len(batch.names)}"
                    proof.said = one.said
        proof.images = len(names)
        return proof, worst

    @staticmethod
    def _add(proof: Proof, one: Difference) -> None:
        proof.comparisons += 1
        proof.max_error = max(proof.max_error, one.error)
        proof.max_box_error = max(proof.max_box_error, one.box_error)
        proof.same_detections &= one.same


def _number(value: float) -> float:
    """Return a difference; one that is no number is beyond any bound."""
    return value if value == value else float("inf")
