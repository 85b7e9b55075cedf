"""A model that is served, on its workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ziggurat.config import RunConfig
from ziggurat.config.serve_config import ServeConfig
from ziggurat.inference.predictor import Predictor
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.runs.folder import Run, weights_sha256
from ziggurat.runs.pretrained import load_published
from ziggurat.runs.reference import find_reference, load_reference
from ziggurat.serving.computer import Computer
from ziggurat.serving.exchange import Card
from ziggurat.strategies.mesh import make_mesh


@dataclass(frozen=True)
class Served:
    """A model that is served, and how.

    Attributes:
        name: By which requests name it.
        run: A run, a checkpoint, or a file of weights.
        config: Of the run, with the settings of the command.
    """

    name: str
    run: str
    config: RunConfig


@contextmanager
def opened(served: Served, config: ServeConfig, workers: Workers) -> Iterator[tuple[Computer, Card]]:
    """Load a model on its workers, which call this together, while a block runs.

    Raises:
        UserError: If the run cannot be loaded, or not spread as its plan says.
    """
    run = _load(served)
    digest = workers.broadcast_object(weights_sha256(run.model) if workers.is_first else "")
    category_ids = run.category_ids or tuple(range(run.model.num_classes))
    with make_mesh(workers, served.config.plan) as mesh:
        predictor = Predictor.of_run(run._replace(config=served.config), mesh)
        computer = Computer(predictor, category_ids, config)
        yield computer, computer.card(served.name, digest)


def _load(served: Served) -> Run:
    reference = find_reference(served.run)
    if reference.folder is None:
        assert reference.file is not None
        return load_published(reference.file, served.config)
    return load_reference(reference)
