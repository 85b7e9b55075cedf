"""Numbers that are not finite: named, and the run stopped or the step skipped, the same on any number of workers."""

import json

import pytest
import torch
from safetensors.torch import load_file

from support.held import after_each_step
from support.ranks import run_ranks
from support.spoiled import BAD, PARAMETER, spoil
from support.states import checkpoint_tensors
from support.stopped_runs import config_of, numbers, rows
from ziggurat.errors import UserError
from ziggurat.training import loop as module


def run(workers, folder, how, policy, plan=None, **settings):
    plan = plan or f"dp={workers.size}"
    config = config_of(
        **{
            "task": spoil(how),
            "plan": plan,
            "train.on_nonfinite": policy,
            "train.evaluate_every": 0,
            **settings,
        }
    )
    try:
        result = module.train(workers, config, folder / (plan if "fsdp" in plan else str(workers.size)))
    except UserError as error:
        return error.faults
    return result["weights_sha256"], result["skipped_steps"], result["loss"]


def sharded(workers, *args):
    return run(workers, *args, **{"pipeline.shard_optimizer": True})


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_step_is_skipped_alike_on_any_number_of_workers(tmp_path, how):
    outcomes = [outcome for world in (1, 2, 3) for outcome in run_ranks(run, world, (tmp_path, how, "skip"))]
    outcomes += run_ranks(sharded, 2, (tmp_path / "sharded", how, "skip"))
    assert len(set(outcomes)) == 1, outcomes
    assert outcomes[0][1] == 1
    assert isinstance(outcomes[0][2], float)
    assert numbers(tmp_path / "1") == numbers(tmp_path / "2") == numbers(tmp_path / "3")
    losses = [row["loss"] for row in rows(tmp_path / "1") if row["kind"] == "train"]
    assert [loss is None for loss in losses] == [how == "loss" and step == 1 for step in range(6)]
    checkpoints = tmp_path / "2" / "checkpoints"
    before, after, later = (checkpoint_tensors(checkpoints / f"step-{step}") for step in (1, 2, 3))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before), "it changes nothing"
    assert not all(torch.equal(after[name], later[name]) for name in before), "the next one does"
    counted = [
        json.loads((checkpoints / f"step-{step}" / "manifest.json").read_text())["manifest"]["counters"]
        for step in (1, 2, 6)
    ]
    assert [counters.get("skipped_steps", 0) for counters in counted] == [0, 1, 1]
    assert "step 2 is skipped: 1 so far" in (tmp_path / "3" / "log.txt").read_text()


@pytest.mark.parametrize("how", ["loss", "all gradients"])
def test_sharded_weights_skip_a_step_as_one_worker_does(tmp_path, how):
    (alone,) = run_ranks(run, 1, (tmp_path, how, "skip"))
    pair = run_ranks(run, 2, (tmp_path, how, "skip", "fsdp=2"))
    assert pair[0] == pair[1]
    assert (pair[0][1], alone[1]) == (1, 1)
    assert pair[0][2] == pytest.approx(alone[2], rel=1e-3)  # by other units: see docs/fsdp.md
    checkpoints = tmp_path / "fsdp=2" / "checkpoints"
    before, after, later = (checkpoint_tensors(checkpoints / f"step-{step}") for step in (1, 2, 3))
    assert all(torch.equal(before[name], after[name]) for name in before), "it changes nothing"
    assert not all(torch.equal(after[name], later[name]) for name in before), "the next one does"


@pytest.mark.parametrize("how", ["loss", "all gradients"])
def test_sharded_weights_stop_with_the_state_of_before_the_step(tmp_path, how):
    first, second = run_ranks(run, 2, (tmp_path, how, "stop", "fsdp=2"))
    assert first == second
    if how == "loss":
        assert "the loss is not finite in step 2, microbatch 2, on worker 1" in first[0]
    else:
        assert "the gradient is not finite in step 2; first bad parameter: backbone." in first[0]
    stored = checkpoint_tensors(tmp_path / "fsdp=2" / "checkpoints" / "step-1")
    weights = load_file(tmp_path / "fsdp=2" / "weights.safetensors")
    assert all(torch.equal(stored[f"average.{name}"], value) for name, value in weights.items())


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_the_step_the_worker_the_samples_and_the_parameter_are_named(tmp_path, how, world):
    results = run_ranks(run, world, (tmp_path, how, "stop"))
    assert all(faults == results[0] for faults in results)
    fault, remedy = results[0]
    assert f"the {how} is not finite in step 2, microbatch 2, on worker {world - 1}" in fault
    assert f"{BAD.sample} of epoch 0 (train-" in fault
    assert fault.count(" of epoch 0") == 2, "the samples of the microbatch and no others"
    assert (f"first bad parameter: {PARAMETER}" in fault) == (how == "gradient")
    assert "the weights of before this step are in" in remedy
    assert (tmp_path / str(world) / "checkpoints" / "step-1").is_dir()


def test_weights_that_are_not_finite_end_the_run_under_either_policy(tmp_path):
    def broken(workers):
        steps = []

        def spoil_weights(found):
            steps.append(found)
            if len(steps) == 2:
                with torch.no_grad():
                    found.parameters()[PARAMETER].fill_(float("nan"))

        after_each_step(spoil_weights)
        return run(workers, tmp_path, "nothing", "skip")

    (faults,) = run_ranks(broken, 1)
    assert "the weights are not finite after step 2" in faults[-1]
    assert f"({PARAMETER}" in faults[-1]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("step", "kind"), [(6, "weights"), (6, "average"), (3, "average")])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, step, kind):
    """By the last step, which no later one judges; or in the average alone, which no loss shows."""

    def broken(workers):
        steps = []

        def spoil_them(found):
            steps.append(found)
            if len(steps) == step:
                models = [found.model] if kind == "weights" else found.averages
                with torch.no_grad():
                    for model in models:
                        model.state_dict()[PARAMETER].fill_(float("inf"))

        after_each_step(spoil_them)
        return run(workers, tmp_path, "nothing", "skip")

    first, second = run_ranks(broken, 2)
    assert first == second
    assert len(first) == 1
    assert f"the weights are not finite after step {step}" in first[0]
    assert f"the newest checkpoint is that of step {step - 1}" in first[0]
    folder = tmp_path / "2"
    assert not (folder / "weights.safetensors").exists()
    assert not (folder / "checkpoints" / f"step-{step}").exists()
