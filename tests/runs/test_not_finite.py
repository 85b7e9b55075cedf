"""Losses and gradients that are not finite under each plan: all workers see it, and stop or skip alike.

Under dp and fsdp: test_nonfinite.py.
"""

import dataclasses

import numpy as np
import pytest
import torch

from support.held import after_each_step
from support.promises import NARROW
from support.ranks import run_ranks
from support.small_runs import assert_alike, config_of, weights_of
from support.spoiled import PARAMETER, spoil
from support.states import checkpoint_tensors
from support.stopped_runs import config_of as stopped_config
from ziggurat.errors import UserError
from ziggurat.torch_internals.hooks import register_unseen
from ziggurat.training.loop import train


def outcome(workers, config, folder):
    """Train; return the faults, or what came out."""
    try:
        result = train(workers, config, folder)
    except UserError as error:
        return error.faults
    return result["skipped_steps"], result["weights_sha256"], result["loss"]


@pytest.mark.parametrize(("plan", "workers"), [("sp=2", "workers 0 to 1"), ("pp=2", "worker 1")])
def test_all_workers_see_that_a_loss_is_not_finite(tmp_path, plan, workers):
    config = config_of("detect", **{"train.lr": 1e30, "train.clip_norm": 0, "plan": plan})
    first, second = run_ranks(outcome, 2, (config, tmp_path / "run"))
    assert first == second
    assert f"the loss is not finite in step 2, microbatch 0, on {workers}" in first[0]


def spoiled(workers, plan, folder, how, policy):
    """Train with one sample that spoils the loss or a gradient."""
    given = {
        "task": spoil(how),
        "train.on_nonfinite": policy,
        "train.evaluate_every": 0,
        "train.ema": 0.0,
        "plan": plan,
    }
    return outcome(workers, stopped_config(**given), folder)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_branches_skip_a_step_as_one_worker_does(tmp_path, how):
    (alone,) = run_ranks(spoiled, 1, ("dp=1", tmp_path / "one", how, "skip"))
    pair = run_ranks(spoiled, 2, ("lp=2", tmp_path / "two", how, "skip"))
    assert alone[0] == pair[0][0] == 1
    assert pair[0] == pair[1]
    assert_alike(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"), 1e-4)
    before, after = (checkpoint_tensors(tmp_path / "two" / "checkpoints" / f"step-{step}") for step in (1, 2))
    assert all(torch.equal(before[name], after[name]) for name in before), "it changes nothing"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_branches_name_a_number_that_is_not_finite(tmp_path, how):
    first, second = run_ranks(spoiled, 2, ("lp=2", tmp_path / "run", how, "stop"))
    assert first == second
    assert f"the {how} is not finite in step 2, microbatch 2, on workers 0 to 1" in first[0]
    assert (f"first bad parameter: {PARAMETER}" in first[0]) == (how == "gradient")
    assert (tmp_path / "run" / "checkpoints" / "step-1").is_dir()


def spoiled_part(workers, config, folder):
    """Make the gradient of the second worker's part of a weight infinite, in the second step."""
    optimizers, rates = [], []

    def spoil_part(gradient):
        rates.append(optimizers[0].param_groups[0]["lr"])
        return gradient * float("inf") if rates[-1] == rates[0] else gradient  # the rate tells steps apart

    def look(found):
        if workers.rank == 1 and not optimizers:
            optimizers.append(found.optimizer)
            parameters = found.parameters()
            name = next(name for name in sorted(parameters) if name.endswith("convolutions.0.0.weight"))
            register_unseen(parameters[name], spoil_part)

    after_each_step(look)
    return outcome(workers, config, folder)


def test_a_part_of_a_gradient_that_is_not_finite(tmp_path):
    narrow = NARROW | {"plan": "tp=2", "train.steps": 3}
    config = config_of("classify", **narrow, **{"train.on_nonfinite": "stop"})
    stopped = run_ranks(spoiled_part, 2, (config, tmp_path / "stop"))
    assert stopped[0] == stopped[1]
    said = "the gradient is not finite in step 2, microbatch 0, on workers 0 to 1; first bad parameter: body."
    for text in (said, "samples: "):
        assert text in stopped[0][0]
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, on_nonfinite="skip"))
    skipped = run_ranks(spoiled_part, 2, (config, tmp_path / "skip"))
    assert skipped[0] == skipped[1]
    assert skipped[0][0] == 1
    assert np.isfinite(skipped[0][2])
