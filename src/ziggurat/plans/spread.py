"""One image over several workers, in a training loop of one's own: a line about the model, none about the loop."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.parallel.spatial import SpatialMesh, SpatialTensor, cut, spatial_mesh
from ziggurat.parallel.workers import Workers

Model = TypeVar("Model", bound=nn.Module)


def parse_degrees(text: str) -> tuple[int, ...]:
    """Read the degrees of the spatial axes: bands of rows, or rows x columns.

    Raises:
        UserError: If they are not positive whole numbers joined by ``x``.

    Example:
        >>> parse_degrees("2"), parse_degrees("1x2"), parse_degrees("2x2")
        ((2,), (1, 2), (2, 2))
    """
    parts = text.strip().split("x")
    if len(parts) > 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(
            f"the degree of sp must be N (bands of rows), or ROWSxCOLUMNS such as 2x2: got '{text}'"
        )
    return tuple(int(part) for part in parts)


def spread(model: Model, degrees: str, workers: Workers, min_rows: int | None = None) -> Model:
    """Let several workers compute each image together, each a band or tile of it.

    The model is unmodified: its first argument, images of which every worker has all or a `SpatialTensor` of its band,
    is cut before its forward. What it returns looks like the whole; a loss computed from it is the loss of the whole,
    and ``loss.backward()`` leaves the whole's gradient in every parameter. Weights are made those of the first worker.

    Args:
        model: Any module.
        degrees: Workers along the spatial dims: ``"2"`` (bands of rows), ``"1x2"`` (of columns), ``"2x2"`` (tiles).
        workers: As many as the product of the degrees; with one, nothing is changed.
        min_rows: Fewest rows of a worker; smaller levels are computed by all of them.

    Returns:
        The model itself.

    Raises:
        UserError: If the degrees do not fit the workers. While it runs: `UnsupportedOperation`, if the model uses an
            operation that cannot be computed on bands.

    Placement:
        Every worker has all weights, and a band of every map.

    Communication:
        Halos and moments in every layer that needs them; after backward one all-reduce of the gradients.
    """
    parsed = parse_degrees(degrees)
    count = 1
    for degree in parsed:
        count *= degree
    if count != workers.size:
        raise UserError(
            f"sp={degrees} needs {count} workers: there are {workers.size}; change it or --nproc-per-node"
        )
    if workers.size == 1:
        return model
    mesh = spatial_mesh(workers, parsed, **({} if min_rows is None else {"min_rows": min_rows}))
    attach(model, mesh)
    workers.copy_from_first(list(model.state_dict().values()))

    def cut_images(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        images = args[0] if args else None
        if not isinstance(images, Tensor) or isinstance(images, SpatialTensor):
            return args
        return (cut(images, mesh), *args[1:])

    model.register_forward_pre_hook(cut_images)
    return model


def attach(model: nn.Module, mesh: SpatialMesh) -> None:
    """Tell a mesh the model's layers, for messages, and the parameters whose gradients it sums."""
    mesh.names.update({id(module): name for name, module in model.named_modules()})
    mesh.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
