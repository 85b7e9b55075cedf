"""Local SGD: what it computes, by a plain loop in PyTorch; the same bits on any number of workers, through kills and other plans; its bytes."""

import copy
import dataclasses
import os
import shutil
import signal
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from support.ranks import run_ranks
from support.small_runs import SMALL, TASKS, config_of, resumed, trained
from support.spoiled import spoil
from support.states import checkpoint_tensors
from support.stopped_runs import config_of as stopped_config
from ziggurat.commands.train import train as train_command
from ziggurat.config import LocalSgdConfig, RunConfig
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.trace import spec_of
from ziggurat.strategies.base import Setting
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.plan import parse_plan
from ziggurat.strategies.replica_rules import replica_faults
from ziggurat.strategies.replicas import Replicas
from ziggurat.strategies.state import TrainState
from ziggurat.training.local_sgd import LocalStep
from ziggurat.training.loop import train
from ziggurat.training.plan_requests import REQUEST, under

OUTER = {"local_sgd.replicas": 4, "local_sgd.sync_every": 2}
LOCAL = OUTER | {
    "train.microbatches": 4, "train.batch_size": 8, "train.steps": 5, "train.clip_norm": 0.5, "train.ema": 0.9,
    "train.optimizer": "adamw", "train.lr": 1e-3, "train.checkpoint_every": 1, "checkpoint.keep": 9,
}  # fmt: skip


# -- what is computed ----------------------------------------------------------------------------------------------------


class Squares:
    """The mean of squared distances to a number of each sample."""

    term_names, normalizer_names, output_sum_names = ("loss",), ("samples",), ()
    normalizers_are_parts = False

    def assign(self, batch):
        return batch[1]

    def normalizers(self, wanted):
        return torch.tensor([len(wanted)], dtype=torch.float64)

    def loss_shares(self, outputs, wanted, totals):
        return {"loss": (outputs - wanted).square().sum() / totals[0]}


class Plain:
    """Samples go into the network as they are."""

    def images(self, batch):
        return batch[0]

    def seed(self, batch):
        pass

    def announce(self, name, batch):
        pass

    def compute(self):
        return nullcontext()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1)).double()


def batches_of(step, count):
    generator = torch.Generator().manual_seed(step)
    return [
        (
            torch.randn(4, 3, generator=generator, dtype=torch.float64),
            torch.randn(4, 1, generator=generator).double(),
        )
        for _ in range(count)
    ]


SIZES = [8, 8, 3, 8, 8]  # microbatches of each step; in the third the last replica has none
SHARES = {8: [(0, 2), (2, 4), (4, 6), (6, 8)], 3: [(0, 1), (1, 2), (2, 3), (3, 3)]}


def by_hand(config, clip):
    """Train replicas and join them, in a loop that knows nothing of ours."""
    outer = network()
    outside = torch.optim.SGD(
        outer.parameters(),
        lr=config.outer_lr,
        momentum=config.outer_momentum,
        nesterov=config.outer_momentum > 0,
    )
    replicas = [copy.deepcopy(outer) for _ in range(4)]
    inside = [torch.optim.SGD(one.parameters(), lr=0.1, momentum=0.9) for one in replicas]
    losses = []
    for step, count in enumerate(SIZES):
        samples, of_step = batches_of(step, count), []
        for replica, optimizer, (start, stop) in zip(replicas, inside, SHARES[count], strict=True):
            mine = samples[start:stop]
            if not mine:
                continue
            total = sum(len(wanted) for _, wanted in mine)
            loss = sum((replica(x) - wanted).square().sum() / total for x, wanted in mine)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(replica.parameters(), clip)
            optimizer.step()
            of_step.append(loss.item())
        losses.append(sum(of_step) / len(of_step))
        if (step + 1) % config.sync_every and step + 1 < len(SIZES):
            continue
        for name, parameter in outer.named_parameters():
            moved = [parameter.detach() - dict(one.named_parameters())[name].detach() for one in replicas]
            parameter.grad = torch.stack(moved).mean(0)
        outside.step()
        for name, buffer in outer.named_buffers():
            values = [dict(one.named_buffers())[name] for one in replicas]
            buffer.copy_(torch.stack(values).mean(0) if buffer.is_floating_point() else values[0])
        for one in replicas:
            one.load_state_dict(outer.state_dict())
    return outer.state_dict(), losses


@pytest.mark.parametrize(
    "config", [LocalSgdConfig(4, 2, 0.7, 0.9), LocalSgdConfig(4, 3, 1.0, 0.0)], ids=["nesterov", "mean"]
)
def test_it_is_what_a_plain_loop_computes(config):
    model = network()
    state = TrainState.start(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    state.replicas = Replicas(model, state.optimizer, config, Workers())
    setting = Setting(
        spec_of(torch.ones(4, 3)), dataclasses.replace(RunConfig(), local_sgd=config), 8, nullcontext
    )
    parallel = Parallel(state, make_mesh(Workers()), setting)
    step = LocalStep(parallel, Squares(), Plain(), 0.3, len(SIZES))
    losses = []
    for number, count in enumerate(SIZES):
        result = step(batches_of(number, count), count)
        assert result.finite
        losses.append(result.terms.sum().item())
        state.complete()
    expected, of_hand = by_hand(config, 0.3)
    assert losses == pytest.approx(of_hand, rel=1e-9)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(
            value, expected[name], rtol=1e-6, atol=1e-9, msg=name
        )  # clipping adds 1e-6 to norms
    parallel.close()


# -- bits ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One worker with all replicas: its folder, and what came out."""
    folder = tmp_path_factory.mktemp("local")
    (outcome,) = run_ranks(trained, 1, ("dp=1", folder, [config_of("classify", **LOCAL)]))
    return folder / "dp=1-0", outcome


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_same_bits_on_any_number_of_workers(alone, world, tmp_path):
    folder, expected = alone
    found = run_ranks(trained, world, (f"dp={world}", tmp_path, [config_of("classify", **LOCAL)]))
    assert found == [expected] * world
    for step in (3, 5):  # between two outer steps, and after one
        one, other = (
            checkpoint_tensors(run / "checkpoints" / f"step-{step}")
            for run in (folder, tmp_path / f"dp={world}-0")
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items()), step
        assert any(name.startswith("replicas.3.model.") for name in one) == (step == 3)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("plan", "step"), [("dp=3", 3), ("dp=2", 4), ("dp=1", 1)])
def test_a_run_goes_on_from_any_step_on_another_number_of_workers(alone, plan, step, tmp_path):
    folder, ((digest, steps, metrics),) = alone
    shutil.copytree(folder, tmp_path / "run")
    for later in range(step + 1, 6):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{later}")
    found = run_ranks(resumed, int(plan[-1]), (plan, tmp_path / "run"))
    assert {one["weights_sha256"] for one in found} == {digest}
    assert found[0]["loss"] == pytest.approx(steps[-1][0])
    assert found[0]["metrics"] == metrics


def by_command(folder, plan, on_step):
    """Train the same run by the command, and return the digest of its weights."""
    base = SMALL | TASKS["classify"] | {"task": "classify"} | LOCAL | {"plan": plan}
    for key in ("data.path", "model.levels", "model.channels", "model.head_depth", "decode.max_detections"):
        del base[key]
    scenes = {"digits.size": 64, "digits.count_min": 1, "digits.count_max": 2, "digits.height_min": 12}
    scenes |= {"digits.height_max": 48, "digits.train_scenes": 8, "digits.val_scenes": 3}
    return train_command("digits", base | scenes, folder, on_step=on_step)["weights_sha256"]


def test_a_killed_worker_changes_no_bit(alone, tmp_path):
    _, ((digest, *_),) = alone
    marker = tmp_path / "killed"

    def die(row):
        if row["step"] == 4 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    assert by_command(tmp_path / "run", "dp=2", die) == digest
    assert marker.exists()


def test_another_number_of_workers_in_a_living_run_changes_no_bit(alone, tmp_path):
    """Between two outer steps replicas move to other workers, with their weights and moments."""
    _, ((digest, *_),) = alone
    folder = tmp_path / "run"

    def ask(row):
        if row["step"] == 3:
            (folder / REQUEST).write_text("dp=1\n")

    assert by_command(folder, "dp=2", ask) == digest
    assert "the plan is dp=1 now" in (folder / "log.txt").read_text()


def test_replicas_differ_and_are_joined(alone):
    """Each has weights and moments of its own between two outer steps; the model holds the outer weights of the last one."""
    folder, _ = alone
    two, three = (checkpoint_tensors(folder / "checkpoints" / f"step-{step}") for step in (2, 3))
    name = next(name for name in three if name.startswith("replicas.0.model.") and name.endswith("weight"))
    own = [three[name.replace("replicas.0.", f"replicas.{number}.")] for number in range(4)]
    assert not any(torch.equal(own[0], other) for other in own[1:])
    outer = name.removeprefix("replicas.0.")
    assert torch.equal(two[outer], three[outer])
    assert not torch.equal(own[0], three[outer])
    assert {"replicas.0.optimizer", "replicas.3.optimizer"} <= {".".join(n.split(".")[:3]) for n in two}


# -- bytes ---------------------------------------------------------------------------------------------------------------


def exchanged(workers, folder, every):
    config = config_of(
        "classify", **LOCAL | {"train.steps": 8, "local_sgd.sync_every": every, "plan": "dp=2"}
    )
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, checkpoint_every=0))
    return train(workers, config, folder / str(every))["exchanged_bytes"]


@pytest.mark.sampled(0)
def test_workers_exchange_by_the_share_of_outer_steps(tmp_path):
    """Each step exchanges some hundred bytes besides: the terms of the loss."""
    one, four = (run_ranks(exchanged, 2, (tmp_path, every))[0] for every in (1, 4))
    of_terms = 8 * 2 * 4 * 8 * 8  # of 8 steps and 2 workers: of 4 microbatches up to 8 numbers of 8 bytes
    assert one > 20 * of_terms
    assert one / 4 <= four <= one / 4 + of_terms


# -- what cannot be ------------------------------------------------------------------------------------------------------


def spoiled(workers, plan, folder, how, policy):
    given = {"task": spoil(how), "train.on_nonfinite": policy, "train.evaluate_every": 0, "plan": plan}
    given |= {"local_sgd.replicas": 2, "local_sgd.sync_every": 3}
    try:
        result = train(workers, stopped_config(**given), folder)
    except UserError as error:
        return error.faults
    return result["skipped_steps"], result["weights_sha256"]


@pytest.mark.sampled(0)
def test_a_replica_whose_numbers_are_not_finite_keeps_all_from_the_step(tmp_path):
    (one,) = run_ranks(spoiled, 1, ("dp=1", tmp_path / "one", "gradient", "skip"))
    pair = run_ranks(spoiled, 2, ("dp=2", tmp_path / "two", "gradient", "skip"))
    assert [one, one] == pair
    assert one[0] == 1
    before, after = (checkpoint_tensors(tmp_path / "two" / "checkpoints" / f"step-{step}") for step in (1, 2))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before), "no replica has changed"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_the_replica_whose_numbers_are_not_finite_is_named(how, tmp_path):
    first, second = run_ranks(spoiled, 2, ("dp=2", tmp_path / "stop", how, "stop"))
    assert first == second
    assert f"the {how} is not finite in step 2, microbatch 2, on worker 1" in first[0]


REFUSED = {
    r"spreads replicas over plans of dp alone: got sp=2": ("sp=2", {}),
    r"each worker needs a replica: the plan dp=5 has 5 workers, and local_sgd\.replicas is 4": ("dp=5", {}),
    r"microbatches must be a multiple of local_sgd\.replicas: got 6 and 4: use --microbatches 8": (
        "dp=2", {"train.microbatches": 6},
    ),
    r"plan\.shard_optimizer divides": ("dp=2", {"pipeline.shard_optimizer": True}),
    r"plan\.shares=measured has no effect": ("dp=2", {"pipeline.shares": "measured"}),
    r"plan\.wire=int8 rounds the gradients": ("dp=2", {"pipeline.wire": "int8"}),
    r"loss\.detection=equalized sums up": ("dp=2", {"loss.detection": "equalized"}),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_go_with_replicas_is_refused(message):
    plan, settings = REFUSED[message]
    config = config_of("classify", **OUTER | {"train.microbatches": 8} | settings)
    with pytest.raises(UserError, match=message):
        raise UserError(replica_faults(config, parse_plan(plan), config.train.microbatches))


def test_the_command_says_it_before_anything_is_written(tmp_path):
    base = {"task": "classify", "device": "cpu", "train.steps": 1}
    for settings, message in (
        ({"local_sgd.replicas": 2, "plan": "dp=4", "train.microbatches": 4}, "each worker needs a replica"),
        ({"local_sgd.replicas": 2, "plan": "auto"}, r"give a plan of dp, such as dp=2"),
        ({"local_sgd.replicas": 1}, r"local_sgd\.replicas must be 0, or from 2 to 64: got 1"),
        ({"local_sgd.outer_lr": 0.5}, r"local_sgd\.outer_lr has no effect without local_sgd\.replicas"),
    ):
        with pytest.raises(UserError, match=message):
            train_command("digits", base | settings, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_no_plan_without_replicas_is_changed_to():
    config = config_of("classify", **OUTER | {"plan": "dp=2", "train.microbatches": 4, "train.batch_size": 4})
    with pytest.raises(UserError, match="spreads replicas over plans of dp alone"):
        under("sp=2", config, other_workers=False)
