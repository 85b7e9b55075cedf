"""Numbers that are not finite: named, and the run stopped or the step skipped, the same on any number of workers."""

import json

import pytest
import torch
from safetensors.torch import load_file

from support.ranks import run_ranks
from test_resume import config_of, numbers, rows
from ziggurat.data.sampler import Sampler
from ziggurat.errors import UserError
from ziggurat.runs.checkpoint.tensors import read_tensors, stored_tensors
from ziggurat.training import loop as module
from ziggurat.training import step as passes

BAD = Sampler(17, 8, 0).batch(1)[5]  # of the second step, in microbatch 2 of 4
PARAMETER = "head.classes.weight"


def spoil(how):
    """Make the loss, or the gradient of one parameter or of all, NaN for one sample of one epoch (in this process)."""
    begin, make_task, seen = passes.Passes._seed, module.make_task, {}

    def spoiled_begin(step, index):
        seen["bad"] = BAD in step.microbatches[index].ids
        for hook in seen.pop("hooks", []):
            hook.remove()
        if how == "gradient" and seen["bad"]:
            named = dict(step.model.named_parameters())
            seen["hooks"] = [named[PARAMETER].register_hook(lambda gradient: gradient * float("nan"))]
        begin(step, index)

    def spoiled_task(model, config):
        task = make_task(model, config)
        shares = task.loss_shares

        def spoiled_shares(*arguments):
            factor = float("inf") if how == "loss" and seen["bad"] else 1.0
            values = {name: value * factor for name, value in shares(*arguments).items()}
            for value in values.values() if how == "all gradients" and seen["bad"] else ():
                value.register_hook(lambda gradient: gradient * float("nan"))
            return values

        object.__setattr__(task, "loss_shares", spoiled_shares)
        return task

    passes.Passes._seed = spoiled_begin
    module.make_task = spoiled_task


def run(workers, folder, how, policy, plan=None):
    spoil(how)
    plan = plan or f"dp={workers.size}"
    config = config_of(**{"plan": plan, "train.on_nonfinite": policy, "train.evaluate_every": 0})
    try:
        result = module.train(workers, config, folder / (plan if "fsdp" in plan else str(workers.size)))
    except UserError as error:
        return error.faults
    return result["weights_sha256"], result["skipped_steps"], result["loss"]


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_step_is_skipped_alike_on_any_number_of_workers(tmp_path, how):
    outcomes = [outcome for world in (1, 2, 3) for outcome in run_ranks(run, world, (tmp_path, how, "skip"))]
    assert len(set(outcomes)) == 1, outcomes
    assert outcomes[0][1] == 1
    assert isinstance(outcomes[0][2], float)
    assert numbers(tmp_path / "1") == numbers(tmp_path / "2") == numbers(tmp_path / "3")
    losses = [row["loss"] for row in rows(tmp_path / "1") if row["kind"] == "train"]
    assert [loss is None for loss in losses] == [how == "loss" and step == 1 for step in range(6)]
    checkpoints = tmp_path / "2" / "checkpoints"
    before, after, later = (contents(checkpoints / f"step-{step}") for step in (1, 2, 3))
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
    ((_, skipped, loss),) = run_ranks(run, 1, (tmp_path, how, "skip"))
    pair = run_ranks(run, 2, (tmp_path, how, "skip", "fsdp=2"))
    assert pair[0] == pair[1]
    assert (pair[0][1], skipped) == (1, 1)
    assert pair[0][2] == pytest.approx(loss, rel=1e-3)
    checkpoints = tmp_path / "fsdp=2" / "checkpoints"
    before, after, later = (contents(checkpoints / f"step-{step}") for step in (1, 2, 3))
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
    stored = contents(tmp_path / "fsdp=2" / "checkpoints" / "step-1")
    weights = load_file(tmp_path / "fsdp=2" / "weights.safetensors")
    assert all(torch.equal(stored[f"average.{name}"], value) for name, value in weights.items())


def contents(folder):
    tensors = {
        name: torch.empty(facts.shape, dtype=facts.dtype) for name, facts in stored_tensors(folder).items()
    }
    read_tensors(folder, tensors)
    return tensors


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
        update = module.WeightAverage.update

        def spoil_weights(self, step):
            update(self, step)
            if step == 1:
                with torch.no_grad():
                    self.source.state_dict()[PARAMETER].fill_(float("nan"))

        module.WeightAverage.update = spoil_weights
        return run(workers, tmp_path, "nothing", "skip")

    (faults,) = run_ranks(broken, 1)
    assert f"the weights are not finite since an earlier step ({PARAMETER})" in faults[-1]
