"""`verify` proves the step that trains: faults that are planted in it, one at a time, are each found."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from support.planted import FAULTS, FAULTS_OF_ROWS, norm_forgets_a_slice, one_worker_does_not_step
from support.ranks import run_ranks
from ziggurat.config import RunConfig, override
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.verification.check import check_step
from ziggurat.verification.compare import BOUNDS
from ziggurat.verification.networks import build_network
from ziggurat.verification.step import Trial, run_step

SETTINGS = {
    "model.name": "fcos-test_resnet-fpn", "model.channels": 16, "model.head_depth": 2, "model.levels": "p3-p5",
    "train.clip_norm": 0.1, "train.ema": 0.9, "train.lr": 0.1, "tensor.min_width": 8, "pipeline.unit_bytes": 4096,
    "pipeline.cut": "neck",
}  # fmt: skip


@pytest.fixture(scope="module")
def taken():
    """A network, the step, and what one worker comes to."""
    config = override(RunConfig(), SETTINGS)
    torch.manual_seed(0)
    model = build_network(SETTINGS["model.name"], config.model).double()
    trial = Trial(torch.randn(4, 3, 64, 64, dtype=torch.float64), num_microbatches=4, config=config)
    return model, trial, run_step(copy.deepcopy(model), trial, make_mesh(Workers()))


def checked(workers, plan, taken, fault=None):
    if fault is not None:
        fault(workers.rank)  # in this process alone
    return check_step(workers, plan, *taken).errors


@pytest.mark.sampled(1)
@pytest.mark.parametrize("plan", sorted(set(FAULTS.values())))
def test_without_a_fault_the_step_is_exact(taken, plan):
    for errors in run_ranks(checked, 2, (plan, taken)):
        assert errors.largest <= BOUNDS[torch.float64], errors


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(taken, fault):
    for errors in run_ranks(checked, 2, (FAULTS[fault], taken, fault)):
        assert errors.largest > 1e3 * BOUNDS[torch.float64], errors


@pytest.fixture(scope="module")
def sharded(taken):
    model, trial, reference = taken
    config = override(trial.config, {"pipeline.shard_optimizer": True})
    return model, dataclasses.replace(trial, config=config), reference


def test_a_sharded_optimizer_has_the_bits_of_one_worker(sharded):
    for world in (2, 3):
        for errors in run_ranks(checked, world, (f"dp={world}", sharded)):
            exact = {
                kind: error for (kind, _), error in errors.of.items() if kind in ("gradient", "norm", "state")
            }
            assert set(exact.values()) == {0.0}, errors


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "fault",
    [*FAULTS_OF_ROWS, norm_forgets_a_slice, one_worker_does_not_step],
    ids=lambda fault: fault.__name__,
)
def test_a_planted_fault_of_a_sharded_optimizer_is_found(sharded, fault):
    for errors in run_ranks(checked, 2, ("dp=2", sharded, fault)):
        assert errors.largest > 1e3 * BOUNDS[torch.float64], errors
