"""What the tests of runs share: runs that are made once for all that they are compared with."""

import dataclasses

import pytest

from support.promises import world_of
from support.ranks import run_ranks
from support.small_runs import trained


@dataclasses.dataclass(frozen=True)
class Reference:
    """A run: its folder, the hash of its weights, the loss and norm of each step, and its metrics."""

    folder: object
    digest: str
    steps: list
    metrics: dict


def _train(config, plan, folder):
    """Train a config under a plan; all workers say the same of it."""
    results = run_ranks(trained, world_of(plan), (plan, folder, [config]))
    assert len({repr(on_rank) for on_rank in results}) == 1, "the workers agree"
    digest, steps, metrics = results[0][0]
    return Reference(folder / f"{plan}-0", digest, steps, metrics)


@pytest.fixture(scope="session")
def run_under(tmp_path_factory):
    """Return a function that trains a config under a plan, if it has not been yet, and returns its `Reference`."""
    made = {}

    def reference(config, plan):
        if (config, plan) not in made:
            made[config, plan] = _train(config, plan, tmp_path_factory.mktemp("under"))
        return made[config, plan]

    return reference


@pytest.fixture(scope="session")
def one_worker(run_under):
    """Return a function that trains a config on one worker, if it has not been yet, and returns its `Reference`."""
    return lambda config: run_under(config, "dp=1")
