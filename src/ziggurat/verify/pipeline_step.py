"""The step of `step`, under a plan whose stages lie on different workers: each holds its part of what is compared."""

from __future__ import annotations

import time
import warnings
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.parallel.branches.placement import Placement, place
from ziggurat.parallel.graph.trace import Tracer, spec_of
from ziggurat.parallel.pipeline.balance import StageCost
from ziggurat.parallel.pipeline.pipeline import Work
from ziggurat.parallel.pipeline.timing import Trace, noted
from ziggurat.parallel.spatial import SpatialTensor
from ziggurat.strategies.costs.branch_costs import agree_on_costs
from ziggurat.strategies.costs.cuts import choose_cut
from ziggurat.strategies.level_parallel import LevelParallel
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.pipeline_parallel import PipelineParallel
from ziggurat.verify.losses import make_objective, tensors_of
from ziggurat.verify.memory import PeakBytes
from ziggurat.verify.precision import KeepFloat64
from ziggurat.verify.step import (
    Piece,
    Step,
    Trial,
    detached,
    global_totals,
    place_images,
    sum_parts,
    whole_parts,
)


def cut_model(model: nn.Module, trial: Trial, mesh: Mesh) -> tuple[Trial, tuple[StageCost, ...]]:
    """Choose where a model is cut.

    Args:
        model: With all its weights.
        trial: Its config says how to cut.
        mesh: The workers; all of them call this.

    Returns:
        The trial with the cut, and what its stages cost.
    """
    model.train()
    pieces = trial.pieces()
    config = trial.config.pipeline
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network's own
        cut = choose_cut(
            model,
            Tracer(model),
            spec_of(pieces[0]),
            mesh,
            config,
            len(pieces),
            compute=lambda: KeepFloat64(),
        )
    return replace(trial, cut=cut.layers), cut.costs


def place_branches(model: nn.Module, trial: Trial, mesh: Mesh) -> tuple[Trial, Placement]:
    """Choose where the calls of a model are computed under a plan with lp; all workers call this.

    Returns:
        The trial with the costs of the calls, and the placement of the first microbatch's.
    """
    model.train()
    tracer, spec = Tracer(model), spec_of(trial.pieces()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network's own
        costs = agree_on_costs(model, tracer, spec, mesh, compute=lambda: KeepFloat64())
        with KeepFloat64():
            placement = place(tracer.trace(spec), costs, mesh.lp.size)
    return replace(trial, costs=costs), placement


def run_pipeline_step(
    model: nn.Module, trial: Trial, mesh: Mesh, count_bytes: bool = False, trace: Trace | None = None
) -> Step:
    """Take one step as `run_step` does, by stages or by branches.

    Args:
        model: Its gradients and buffers are changed; what other workers' stages use loses its memory.
        trial: The step, with its cut.
        mesh: The workers; all of them call this.
        count_bytes: Whether to count the bytes of tensors, which slows the step.
        trace: Where it is noted what this worker does when; started here, together with the others'.

    Raises:
        UnsupportedOperation: If the network does what cannot run on bands.

    Placement:
        Outputs and losses are on the workers of the last stage, the images' gradient on those of the first.
    """
    model.train()
    model.zero_grad(set_to_none=True)
    mesh.name_layers(model)
    images = trial.pieces()
    leaves: dict[int, Tensor] = {}
    given: dict[int, Tensor] = {}
    pieces: dict[int, Piece] = {}
    with closing(_join(model, trial, mesh)) as parallel:
        counts = [len(one) for one in images]
        objective = make_objective(model, trial.images.shape, counts, trial.config, trial.seed, mesh)
        memory = PeakBytes([*model.parameters(), *model.buffers()]) if count_bytes else nullcontext()
        if trace is not None:
            assert isinstance(parallel, PipelineParallel)
            parallel.pipeline.trace_to(trace)
            mesh.workers.barrier()
            trace.start()
        begin, sent = time.perf_counter(), parallel.pipeline.channel.bytes_sent
        with memory, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the network's own, once for each worker
            parallel.start(len(images))
            totals = global_totals(objective, len(images), mesh)

            def give(index: int) -> Tensor:
                number = parallel.mine[index]
                leaves[number], given[number] = place_images(images[number], mesh)
                return given[number]

            def loss(outputs: Any, index: int) -> Tensor:
                number = parallel.mine[index]
                kept = [detached(output) for output in tensors_of(outputs)]
                loss = objective.loss(outputs, number, totals)
                share = (
                    loss.local.detach()
                    if isinstance(loss, SpatialTensor)
                    else sum_parts(loss.detach().clone(), mesh)
                )
                pieces[number] = Piece(kept, share, None)
                return loss

            def seed(index: int) -> None:
                torch.manual_seed(trial.seed + parallel.mine[index])

            parallel.step(Work(len(parallel.mine), give, loss, seed, compute=lambda: KeepFloat64()))
            with noted(trace, "sum", "gradients and statistics"):
                parallel.finish_gradients()
                parallel.finish_statistics()
        seconds = time.perf_counter() - begin
        own, sent = parallel.own, parallel.pipeline.channel.bytes_sent - sent
    for number, leaf in leaves.items():
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        pieces[number] = replace(
            pieces.get(number, Piece(None, None, None)),
            input_gradient=whole_parts(given[number], gradient),
        )
    return Step(
        pieces=pieces,
        gradients={
            name: torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in model.named_parameters()
            if name in own
        },
        buffers={name: b.detach().clone() for name, b in model.named_buffers() if name in own},
        seconds=seconds,
        peak_bytes=memory.peak if isinstance(memory, PeakBytes) else 0,
        bytes_sent=sent,
    )


def _join(model: nn.Module, trial: Trial, mesh: Mesh) -> PipelineParallel | LevelParallel:
    with KeepFloat64(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network's own
        if mesh.lp.size > 1:
            return LevelParallel(model, Tracer(model), trial.costs, mesh)
        return PipelineParallel(
            model,
            Tracer(model),
            trial.cut,
            spec_of(trial.pieces()[0]),
            mesh,
            trial.config.pipeline,
        )
