"""One graph from the samples of images to what a task finds in them.

Its inputs are ``images``, float32, ``(batch, bands, rows, columns)``: the samples as they are read (0 to 255 for 8 bits), padded
behind each image to one size, which is a multiple of `Traced.multiple`; and ``sizes``, int64, ``(batch, 2)``: rows and columns of
each image before padding. Normalization is part of the graph, and so is decoding.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ziggurat.errors import UserError
from ziggurat.exports.averaging import GraphNormalization
from ziggurat.models.images import Normalization, Samples
from ziggurat.models.vision import VisionModel, takes_samples
from ziggurat.runs.folder import Run
from ziggurat.tasks.graph import Dialect, GraphDecoder, GraphOutput
from ziggurat.tasks.registry import make_task

INPUTS = ("images", "sizes")
EXAMPLE_PIXELS = (
    300  # of the images that the graph is traced with: so large that no level of a pyramid has one position
)
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)  # of networks that take any size, and branch by it


@dataclass(frozen=True)
class Traced:
    """A graph.

    Attributes:
        program: Takes `INPUTS`.
        outputs: What it returns, in order.
        multiple: What rows and columns are multiples of.
        example: Inputs.
    """

    program: ExportedProgram
    outputs: tuple[GraphOutput, ...]
    multiple: int
    example: tuple[Tensor, Tensor]


class Graph(nn.Module):
    """Normalizes, computes and decodes.

    Args:
        normalization: Of the samples; a model that takes these normalizes them itself.
        model: In evaluation mode.
        decoder: Of its task.
    """

    def __init__(self, normalization: Normalization, model: VisionModel, decoder: GraphDecoder) -> None:
        super().__init__()
        self.prepare = None if takes_samples(model) else GraphNormalization(normalization)
        self.model, self.decoder = model, decoder

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the decoder, in its order."""
        given = Samples(images, sizes) if self.prepare is None else self.prepare(images, sizes)
        found = self.decoder(self.model(given), sizes)
        return tuple(found[one.name] for one in self.decoder.outputs)


def trace(run: Run, dialect: Dialect) -> Traced:
    """Trace a run's network with its preprocessing and decoding, for images of any number and size.

    Args:
        run: Its model is put into evaluation mode.
        dialect: What the graph is for.

    Raises:
        UserError: If the task has no graph, or the network cannot be traced.
    """
    model = run.model.eval()
    decoder = make_task(model, run.config).graph(dialect)
    normalization = Normalization.of(run.config.data, model)
    graph = Graph(normalization, model, decoder).eval()
    bands = len(normalization.mean)
    only_size = getattr(model, "only_size", None)
    fault = ""
    for multiple in [model.size_multiple] if model.size_multiple > 1 else MULTIPLES:
        example = _example(bands, multiple, only_size)
        try:
            with warnings.catch_warnings(), torch.no_grad():
                # PyTorch's own, about what it does while it traces
                warnings.simplefilter("ignore", (UserWarning, FutureWarning, DeprecationWarning))
                program = torch.export.export(graph, example, dynamic_shapes=_dims(multiple, only_size))
        except RuntimeError as error:  # a graph that branches by the size is sought for larger multiples
            fault = fault or str(error).strip().splitlines()[0]
            continue
        return Traced(program, decoder.outputs, multiple, example)
    raise UserError(
        f"the network {run.config.model.name} cannot be made into a graph for images of any size (PyTorch: {fault}): it stays "
        "with PyTorch"
    )


def _example(bands: int, multiple: int, only_size: int | None) -> tuple[Tensor, Tensor]:
    least = -(-EXAMPLE_PIXELS // multiple)
    rows, columns = (
        (least * multiple, (least + 1) * multiple) if only_size is None else (only_size, only_size)
    )
    return torch.zeros(2, bands, rows, columns), torch.tensor([[rows, columns]] * 2)


def _dims(multiple: int, only_size: int | None) -> Any:
    batch = Dim("batch", min=1)
    images: dict[int, Any] = {0: batch}
    if only_size is None:
        images |= {dim: _times(multiple, Dim(name, min=1)) for dim, name in ((2, "rows"), (3, "columns"))}
    return images, {0: batch}


def _times(multiple: int, dim: Any) -> Any:
    return dim if multiple == 1 else multiple * dim
