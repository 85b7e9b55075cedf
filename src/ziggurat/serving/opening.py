"""A model that is served, on its workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from ziggurat.config import RunConfig
from ziggurat.config.serve_config import ServeConfig
from ziggurat.exports.engines import EngineName
from ziggurat.exports.loading import digest_of_model
from ziggurat.inference.members import digest_of
from ziggurat.inference.predictor import Predictor
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.runs.folder import Run
from ziggurat.serving.computer import Computer
from ziggurat.serving.exchange import Card
from ziggurat.strategies.mesh import make_mesh


class Runs(Protocol):
    """One run, an export in the place of one, or several runs whose predictions are averaged."""

    @property
    def names(self) -> Sequence[str]:
        """Of each run."""
        ...

    @property
    def configs(self) -> Sequence[RunConfig]:
        """Of each run, with the settings of the command; the first one's plan and threads are taken."""
        ...

    @property
    def engine(self) -> EngineName | None:
        """What computes, as was asked for; None leaves it to what is named."""
        ...

    def load(self) -> list[Run]:
        """Return each with its weights and its config."""
        ...


@dataclass(frozen=True)
class Served:
    """A model that is served, and how.

    Attributes:
        name: By which requests name it.
        runs: That it is made of.
    """

    name: str
    runs: Runs

    @property
    def config(self) -> RunConfig:
        """Of the first run."""
        return self.runs.configs[0]


@contextmanager
def opened(served: Served, config: ServeConfig, workers: Workers) -> Iterator[tuple[Computer, Card]]:
    """Load a model on its workers, which call this together, while a block runs.

    Raises:
        UserError: If the run cannot be loaded, or not spread as its plan says.
    """
    runs = served.runs.load()
    digests = [digest_of_model(run.model) for run in runs] if workers.is_first else []
    digest = workers.broadcast_object(digest_of(digests, served.runs.configs) if digests else "")
    category_ids = runs[0].category_ids or tuple(range(runs[0].model.num_classes))
    with make_mesh(workers, served.config.plan) as mesh, ExitStack() as kept:
        predictor = Predictor.of_runs(runs, mesh)
        for member in predictor.compute().members:  # nobody trains what is served
            kept.enter_context(member.executor.keep_packed())
        computer = Computer(predictor, category_ids, config)
        yield computer, computer.card(served.name, digest)
