"""Whole runs under every plan: training and evaluation of every task, against the same run on one worker.

`support.promises` says how near each plan is; bits on any number of workers under dp are in test_parity.py.
"""

import dataclasses

import numpy as np
import pytest

from support.promises import BRANCHING, EMA, NARROW, SHARDED, UNEVEN, Bounds, Case, training_cases, world_of
from support.ranks import run_ranks
from support.small_runs import SCENES, assert_alike, config_of, trained, weights_of


def near(found, expected, tolerance):
    if tolerance is not None:
        assert found == pytest.approx(expected, rel=tolerance)


def train_as_one(case, folder):
    """Train under the plan; return what all workers say alike."""
    results = run_ranks(trained, world_of(case.plan), (case.plan, folder, [config_for(case)]))
    assert len({repr(on_rank) for on_rank in results}) == 1, "the workers agree"
    return results[0][0]


def config_for(case):
    return config_of(case.task, **case.settings)


def compare(case, found, expected, folder):
    """Compare a run under a plan with the one on one worker, within the bounds of the case."""
    (_, steps, metrics), bounds = found, case.bounds
    losses, norms = np.array(steps).T
    true_losses, true_norms = np.array(expected.steps).T
    near(losses[0], true_losses[0], bounds.loss)
    near(norms[0], true_norms[0], bounds.norm)
    near(losses[1:], true_losses[1:], bounds.later_loss)
    near(norms[1:], true_norms[1:], bounds.later_norm)
    assert metrics.keys() == expected.metrics.keys()
    if bounds.weights is not None:
        assert_alike(weights_of(expected.folder), weights_of(folder / f"{case.plan}-0"), bounds.weights)
    if bounds.metrics is not None:
        for name, value in expected.metrics.items():
            if isinstance(value, float):
                assert metrics[name] == pytest.approx(value, abs=bounds.metrics), name


@pytest.mark.parametrize("case", [case.param() for case in training_cases()])
def test_a_run_is_that_of_one_worker(tmp_path, one_worker, case):
    found = train_as_one(case, tmp_path)
    compare(case, found, one_worker(config_for(case)), tmp_path)
    if case.same_bits_as:
        assert train_as_one(dataclasses.replace(case, plan=case.same_bits_as), tmp_path) == found


@pytest.mark.slow
def test_a_smaller_last_batch(tmp_path, one_worker):
    """The second step has one microbatch, of one image: the other place of dp has none."""
    config = config_of("detect", **UNEVEN)
    config = dataclasses.replace(config, digits=dataclasses.replace(SCENES, train_scenes=7))
    results = run_ranks(trained, 4, ("dp=2,lp=2", tmp_path, [config]))
    assert len({repr(on_rank) for on_rank in results}) == 1
    compare(Case("dp=2,lp=2", "detect", Bounds.all(1e-4, 1e-4)), results[0][0], one_worker(config), tmp_path)


BF16 = [
    *(("sp=1x2", task, {}) for task in ("detect", "classify", "segment")),
    *(pytest.param("lp=2", task, BRANCHING.get(task, {}), marks=pytest.mark.slow) for task in ("detect", "segment")),
    *(pytest.param("tp=2", task, NARROW, marks=pytest.mark.slow) for task in ("detect", "classify", "segment")),
    ("fsdp=2", "detect", SHARDED | EMA | {"train.evaluate_every": 1, "train.steps": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("plan", "task", "settings"), BF16)
def test_bf16(tmp_path, one_worker, plan, task, settings):
    """Losses as near as 8 bits allow."""
    case = Case(plan, task, Bounds(loss=0.05, later_loss=0.05), settings | {"dtype": "bf16"})
    compare(case, train_as_one(case, tmp_path), one_worker(config_for(case)), tmp_path)


@pytest.mark.slow
def test_three_workers_of_tp(tmp_path, one_worker):
    """Their all-reduce has another form."""
    odd = NARROW | {"model.pnn.channels": 12, "model.pnn.hidden": 24, "train.steps": 3}
    case = Case("tp=3", "classify", Bounds(2e-3, 2e-3, 2e-3, 2e-3), odd)
    compare(case, train_as_one(case, tmp_path), one_worker(config_for(case)), tmp_path)
