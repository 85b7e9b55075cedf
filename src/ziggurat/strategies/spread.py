"""One image over several workers, in a training loop of one's own: a line about the model, none about the loop."""

from __future__ import annotations

import math
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.spatial import SpatialMesh, SpatialTensor, cut, spatial_mesh
from ziggurat.parallel.spatial.mesh import MIN_ROWS
from ziggurat.strategies.alone import as_alone, refuse_own_groups
from ziggurat.strategies.hooks import HookRules
from ziggurat.strategies.keeping import join_buffers
from ziggurat.strategies.plan import parse_plan

Model = TypeVar("Model", bound=nn.Module)


def spread(model: Model, plan: str, workers: Workers, min_rows: int = MIN_ROWS) -> Model:
    """Let several workers compute each image together, each a band or tile of it.

    The model is unmodified: its first argument, images of which every worker has all or a `SpatialTensor` of its band,
    is cut before its forward. What it returns looks like the whole; a loss computed from it is the loss of the whole,
    and ``loss.backward()`` leaves the whole's gradient in every parameter. Weights are made those of the first worker.

    Args:
        model: Any module.
        plan: ``"sp=2"`` (bands of rows), ``"sp=1x2"`` (of columns) or ``"sp=2x2"`` (tiles).
        workers: As many as the plan has; with one, nothing is changed.
        min_rows: Fewest rows of a worker; smaller levels are computed by all of them.

    Returns:
        The model itself.

    Raises:
        UserError: If the plan has another axis, or another number of workers, or a layer talks to other processes by itself, or a
            parameter or layer has a hook on its gradient, which would see a part. While it runs: the same of hooks that came since, and
            `UnsupportedOperation`, if the model uses an operation that cannot be computed on bands.

    Placement:
        Every worker has all weights, and a band of every map.

    Communication:
        Halos and moments in every layer that needs them; after backward one all-reduce of the gradients.
    """
    parsed = parse_plan(plan)
    degrees = parsed.degrees.get("sp", (1,))
    if parsed.num_workers != math.prod(degrees) or parsed.num_workers != workers.size:
        raise UserError(
            f"a model is spread by a plan of sp alone, with as many workers as there are: got {plan} and "
            f"{workers.size} workers; use --plan sp={workers.size}, or another --nproc-per-node"
        )
    if workers.size == 1:
        return model
    refuse_own_groups(model)
    rules = HookRules(parts="sp", cuts_images=True)
    rules.refuse(model.named_parameters(), model.named_modules())
    mesh = spatial_mesh(workers, degrees, min_rows)
    attach(model, mesh)
    mesh.running = partial(as_alone, workers.device)
    workers.broadcast(list(model.state_dict().values()))

    def cut_images(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        images = args[0] if args else None
        if not isinstance(images, Tensor) or isinstance(images, SpatialTensor):
            return args
        return (cut(images, mesh), *args[1:])

    compute_alone(model, workers.device, rules, mesh)
    model.register_forward_pre_hook(cut_images)
    return model


def compute_alone(model: nn.Module, device: torch.device, rules: HookRules, mesh: SpatialMesh) -> None:
    """Let a model's forward run as on one worker, see `as_alone`; so does backward (`SpatialMesh.running`).

    Args:
        model: Its hooks are looked at before each forward, and those that it registers meanwhile.
        device: Where it computes.
        rules: On hooks.
        mesh: The workers.
    """
    begun: list[ExitStack] = []

    def begin(module: nn.Module, args: Any) -> None:
        if torch.is_grad_enabled():
            rules.refuse(model.named_parameters(), model.named_modules())
        begun.append(ExitStack())
        begun[-1].enter_context(as_alone(device))
        begun[-1].enter_context(rules.watching())

    def end(module: nn.Module, args: Any, output: Any) -> None:
        if begun:  # also where forward has raised
            begun.pop().close()
        if output is not None:
            join_buffers(model, mesh)

    model.register_forward_pre_hook(begin, prepend=True)
    model.register_forward_hook(end, always_call=True)


def attach(model: nn.Module, mesh: SpatialMesh) -> None:
    """Tell a mesh the model's layers, for messages, and the parameters whose gradients it sums."""
    mesh.names.update({id(module): name for name, module in model.named_modules()})
    mesh.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
