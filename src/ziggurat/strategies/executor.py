"""A model that is run in evaluation by the workers of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Generic

from torch import Tensor

from ziggurat.parallel.runtime.allocator import give_back_freed_memory
from ziggurat.strategies.alone import as_alone
from ziggurat.strategies.base import Setting
from ziggurat.strategies.mesh import Mesh
from ziggurat.strategies.mode import EvaluationMode
from ziggurat.strategies.placing import Placed, join
from ziggurat.strategies.running import Microbatches, Runner
from ziggurat.strategies.state import Model
from ziggurat.torch_internals.prepacked import IN_BLOCKS, PackedConvolutions, Packing


class Executor(Generic[Model]):
    """Runs batches through a placed model, forward alone.

    Args:
        model: Placed.
        mesh: All workers.
        runner: Of the model.
        packing: How weights of convolutions are kept from one run to the next.

    Attributes:
        packed: The weights that are kept.
    """

    def __init__(self, model: Model, mesh: Mesh, runner: Runner, packing: Packing = IN_BLOCKS) -> None:
        self.model, self.mesh, self.runner = model, mesh, runner
        self.packed = PackedConvolutions(model, packing=packing)

    @property
    def at_once(self) -> int:
        """Batches that are given to `run` together, so that no worker of the network is idle for long."""
        return self.runner.at_once

    @contextmanager
    def context(self) -> Iterator[None]:
        """Let a block call `run`, without gradients; from one run to the next, weights of convolutions stay as oneDNN takes them."""
        with self.runner.inference(), self.packed.used():
            yield

    def keep_packed(self) -> AbstractContextManager[None]:
        """Let weights of convolutions stay as oneDNN takes them from one `context` to the next while a block runs, in which none is trained."""
        return self.packed.used()

    def run(self, work: Microbatches) -> list[Any]:
        """Return what ``work.finish`` makes of each batch, on every worker that computes a part of it."""
        with as_alone(self.mesh.workers.device):
            return self.runner.infer(work)

    def keep_company(self, runs: int, images: Callable[[], Tensor], compute: Callable[[], Any]) -> None:
        """Take part in runs of other workers that have more batches, where the workers run the model together."""
        with as_alone(self.mesh.workers.device):
            self.runner.keep_company(runs, images, compute)

    def end(self) -> None:
        """Forget what the runs have left behind."""
        self.runner.end_inference()


def place_for_inference(
    model: Model, mesh: Mesh, setting: Setting, packing: Packing = IN_BLOCKS
) -> Executor[Model]:
    """Place a model for evaluation or prediction; all workers call this.

    Args:
        model: Whole, the same on every worker; what is others' is dropped. Each layer keeps its mode.
        mesh: All workers.
        setting: Its images are a batch of tiles.
        packing: How weights of convolutions are kept from one run to the next.

    Raises:
        UserError: On all workers, if the network cannot be spread so.
    """
    with EvaluationMode(model):
        mesh.name_layers(model)
        placed = Placed([model], mesh, join(model, mesh, setting))
    give_back_freed_memory()  # of what other workers keep
    return Executor(model, mesh, placed.runner(model), packing)
