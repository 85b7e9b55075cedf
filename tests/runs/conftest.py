"""What the tests of runs share: the same run on one worker, which is made once for all plans that it is compared with."""

import dataclasses

import pytest

from support.ranks import run_ranks
from support.small_runs import trained


@dataclasses.dataclass(frozen=True)
class Reference:
    """A run on one worker: its folder, the loss and norm of each step, and its metrics."""

    folder: object
    steps: list
    metrics: dict


@pytest.fixture(scope="session")
def one_worker(tmp_path_factory):
    """Return a function that trains a config on one worker, if it has not been yet, and returns its `Reference`."""
    made = {}

    def reference(config):
        if config not in made:
            folder = tmp_path_factory.mktemp("one-worker")
            (((_, steps, metrics),),) = run_ranks(trained, 1, ("dp=1", folder, [config]))
            made[config] = Reference(folder / "dp=1-0", steps, metrics)
        return made[config]

    return reference
