"""Whole runs under every plan: training and evaluation of every task, against the same run on one worker.

`support.promises` says how near each plan is; bits on any number of workers under dp are in test_parity.py.
"""

import dataclasses

import numpy as np
import pytest

from support.promises import BRANCHING, EMA, NARROW, SHARDED, UNEVEN, Bounds, Case, training_cases
from support.small_runs import SCENES, assert_alike, config_of, weights_of


def near(found, expected, tolerance):
    if tolerance is not None:
        assert found == pytest.approx(expected, rel=tolerance)


def config_for(case):
    return config_of(case.task, **case.settings)


def compare(case, found, expected):
    """Compare a run under a plan with the one on one worker, within the bounds of the case."""
    bounds = case.bounds
    losses, norms = np.array(found.steps).T
    true_losses, true_norms = np.array(expected.steps).T
    near(losses[0], true_losses[0], bounds.loss)
    near(norms[0], true_norms[0], bounds.norm)
    near(losses[1:], true_losses[1:], bounds.later_loss)
    near(norms[1:], true_norms[1:], bounds.later_norm)
    assert found.metrics.keys() == expected.metrics.keys()
    if bounds.weights is not None:
        assert_alike(weights_of(expected.folder), weights_of(found.folder), bounds.weights)
    if bounds.metrics is not None:
        for name, value in expected.metrics.items():
            if isinstance(value, float):
                assert found.metrics[name] == pytest.approx(value, abs=bounds.metrics), name


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", [case.param() for case in training_cases()])
def test_a_run_is_that_of_one_worker(run_under, case):
    config = config_for(case)
    found = run_under(config, case.plan)
    compare(case, found, run_under(config, "dp=1"))
    if case.same_bits_as:
        other = run_under(config, case.same_bits_as)
        assert (found.digest, found.steps, found.metrics) == (other.digest, other.steps, other.metrics)


@pytest.mark.slow
def test_a_smaller_last_batch(run_under):
    """The second step has one microbatch, of one image: the other place of dp has none."""
    config = config_of("detect", **UNEVEN)
    config = dataclasses.replace(config, digits=dataclasses.replace(SCENES, train_scenes=7))
    case = Case("dp=2,lp=2", "detect", Bounds.all(1e-4, 1e-4))
    compare(case, run_under(config, case.plan), run_under(config, "dp=1"))


BF16 = [
    *(("sp=1x2", task, {}) for task in ("detect", "classify", "segment")),
    *(pytest.param("lp=2", task, BRANCHING.get(task, {}), marks=pytest.mark.slow) for task in ("detect", "segment")),
    *(pytest.param("tp=2", task, NARROW, marks=pytest.mark.slow) for task in ("detect", "classify", "segment")),
    ("fsdp=2", "detect", SHARDED | EMA | {"train.evaluate_every": 1, "train.steps": 3}),
]  # fmt: skip


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("plan", "task", "settings"), BF16)
def test_bf16(run_under, plan, task, settings):
    """Losses as near as 8 bits allow."""
    case = Case(plan, task, Bounds(loss=0.05, later_loss=0.05), settings | {"dtype": "bf16"})
    compare(case, run_under(config_for(case), plan), run_under(config_for(case), "dp=1"))


@pytest.mark.slow
def test_three_workers_of_tp(run_under):
    """Their all-reduce has another form."""
    odd = NARROW | {"model.pnn.channels": 12, "model.pnn.hidden": 24, "train.steps": 3}
    case = Case("tp=3", "classify", Bounds(2e-3, 2e-3, 2e-3, 2e-3), odd)
    compare(case, run_under(config_for(case), case.plan), run_under(config_for(case), "dp=1"))
