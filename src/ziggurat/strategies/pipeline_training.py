"""Training by stages: a run's model, average and optimizer, each worker with the part of its own stages.

whole model, average, optimizer      on every worker, as one worker makes or resumes them
choose_cut                           the first worker measures, all agree
join_stages                          each worker drops what is not of its stages
step, step, ...                      the memory of a worker is that of its stages
whole                                on the first worker, for a checkpoint or the export
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.config import PipelineConfig
from ziggurat.parallel.graph.trace import ImageSpec, Tracer
from ziggurat.parallel.pipeline.messages import Channel
from ziggurat.parallel.pipeline.pipeline import Pipeline, Work
from ziggurat.strategies.costs.cuts import Cut, choose_cut
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.pipeline_parallel import PipelineParallel, drop_states
from ziggurat.strategies.training import PassWork, Training, Whole, first_not_finite
from ziggurat.strategies.whole_state import gather_whole, keep_moments

Compute = Callable[[], AbstractContextManager[Any]]


def image_spec(shape: tuple[int, ...], channels_last: bool, mesh: Mesh) -> ImageSpec:
    """Return what stages depend on, of the images of a microbatch or of a batch of tiles."""
    images = torch.empty(shape, device="meta")
    if channels_last and mesh.spatial is None:
        images = images.contiguous(memory_format=torch.channels_last)
    return ImageSpec(shape, tuple(images.stride()), images.dtype)


def agree_on_cut(
    model: nn.Module,
    spec: ImageSpec,
    mesh: Mesh,
    config: PipelineConfig,
    num_leaves: int,
    compute: Compute,
    file: Path | None = None,
) -> tuple[Tracer, Cut]:
    """Return a model's tracer and where it is cut; see `choose_cut`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network's own
        tracer = Tracer(model, mesh.workers.device)
        return tracer, choose_cut(model, tracer, spec, mesh, config, num_leaves, compute, file)


class PipelineTraining(PipelineParallel, Training):
    """A run's training state, by stages.

    Args:
        state: Whole; its weights are made those of the first worker. What is of other stages is dropped.
        make_optimizer: Makes one of a whole model.
        spec: Of the images of a microbatch.
        mesh: All workers; they call this together.
        config: How to cut, and the schedule.
        num_leaves: Microbatches of a step.
        compute: A context in which the model computes: autocast.
        file: Where the cut is kept.

    Attributes:
        cut: Where the model is cut.
    """

    survives = False  # it has the state of its own stages only

    def __init__(
        self,
        state: Whole,
        make_optimizer: Callable[[Any], torch.optim.Optimizer],
        spec: ImageSpec,
        mesh: Mesh,
        config: PipelineConfig,
        num_leaves: int,
        compute: Compute,
        file: Path,
    ) -> None:
        model, average, optimizer = state
        mesh.workers.broadcast(list(model.state_dict().values()))
        tracer, self.cut = agree_on_cut(model, spec, mesh, config, num_leaves, compute, file)
        self.state, self.make_optimizer = state, make_optimizer
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        with compute():
            super().__init__(model, tracer, self.cut.layers, spec, mesh, config)
        keep_moments(optimizer, names, self.own)
        mesh.pipelines[model] = self.pipeline
        if average is not model:
            drop_states(average, self.own)
            mesh.pipelines[average] = Pipeline(
                average,
                Tracer(average, mesh.workers.device),
                self.cut.layers,
                mesh.pp,
                config.schedule,
                mesh.spatial,
            )

    def loss_leaves(self, work: PassWork) -> list[Tensor]:
        """Run forward and backward of this pipeline's microbatches.

        Args:
            work: Its images are asked for on the first stage, its vectors on the last.

        Returns:
            The vector of each microbatch, float64, on every worker of the pipeline.

        Communication:
            As `Pipeline.step`; then one gather of the vectors over pp.
        """
        terms: dict[int, Tensor] = {}

        def loss(outputs: Any, index: int) -> Tensor:
            share = work.vector(outputs, index)
            terms[index] = share.detach().double()
            return share.sum()

        work.announce("forward", 0)
        self.step(Work(work.count, work.images, loss, work.seed, compute=work.compute))
        return self._of_last([terms[index] for index in sorted(terms)])

    def output_leaves(self, work: PassWork) -> list[Tensor]:
        """Run forward alone, and return the vector of each microbatch on every worker of the pipeline."""
        outputs = self.pipeline.infer(Work(work.count, work.images, None, work.seed, compute=work.compute))
        with torch.no_grad():
            return self._of_last([work.vector(outputs[index], index) for index in sorted(outputs)])

    def whole(self) -> Whole | None:
        """Return the training state of all stages on the first worker, elsewhere None; see `gather_whole`."""
        mesh = self.mesh
        if mesh.dp.rank or mesh.sp.rank:  # others have the same
            return None
        channel = Channel(mesh.pp, in_slots=False)  # all send to one that receives: no circle
        return gather_whole(*self.state, self.own, channel, self.make_optimizer)

    def bad_gradient(self) -> str:
        """Return the first parameter, of the first worker that has one, whose gradient is not finite; or nothing."""
        bad = first_not_finite((name, parameter.grad) for name, parameter in self.parameters.items())
        return next((name for name in self.mesh.pp.gather(bad) if name), "")

    def workers_of_loss(self, place: int) -> range:
        """Return the workers that compute the loss for a place of the dp axis: those of the last stage."""
        sharing, last = self.sharing.size, (self.pipeline.num_stages - 1) % self.mesh.pp.size
        first = (place * self.mesh.pp.size + last) * sharing
        return range(first, first + sharing)

    def describe(self) -> list[str]:
        """Return a line for each stage."""
        return [
            f"stage {number} on worker {number % self.mesh.pp.size} of the pipeline: from {cost.name or 'the input'}, "
            f"{cost.seconds * 1000:.1f} ms a microbatch, {cost.state_bytes / 1e6:.1f} MB of weights"
            for number, cost in enumerate(self.cut.costs)
        ]

    def _of_last(self, mine: list[Tensor]) -> list[Tensor]:
        """Return what the worker of the last stage has."""
        return [t.to(self.workers.device) for t in self.mesh.pp.gather([t.cpu() for t in mine])[-1]]


def stage_for_inference(
    model: nn.Module, spec: ImageSpec, mesh: Mesh, config: PipelineConfig, compute: Compute
) -> None:
    """Cut a model for evaluation or prediction: afterwards the mesh runs it by stages.

    Args:
        model: With all its weights; those of other stages are dropped.
        spec: Of a batch of tiles.
        mesh: All workers; they call this together.
        config: How to cut.
        compute: A context in which the model computes.
    """
    tracer, cut = agree_on_cut(model, spec, mesh, config, 1, compute)
    with compute():
        parallel = PipelineParallel(model, tracer, cut.layers, spec, mesh, config)
    parallel.close()
    mesh.pipelines[model] = parallel.pipeline
