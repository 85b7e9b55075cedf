"""A sharded optimizer: the bits of dp and of one worker, a part of its memory on each worker, and a run that goes on anywhere."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from support.ranks import run_ranks
from support.small_runs import EMA, config_of, trained
from support.states import checkpoint_tensors
from ziggurat.config import RunConfig, load_config, override
from ziggurat.errors import UserError
from ziggurat.parallel.graph.trace import spec_of
from ziggurat.strategies.base import Setting
from ziggurat.strategies.effects import check_effects
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.state import TrainState
from ziggurat.training.loop import train
from ziggurat.training.optimizers import AdamW

SHARD = {"pipeline.shard_optimizer": True}
CLIPPED = {"train.clip_norm": 0.1, "train.microbatches": 4, "train.steps": 3, "data.color_jitter": 0.0}
CASES = {
    "adamw, average, clipped": ("classify", EMA | CLIPPED),
    "sgd, frozen, decayed": (
        "segment",
        CLIPPED | {"train.freeze": "body.encoder.model", "train.weight_decay": 0.1},
    ),
}


def outcome(workers, plan, folder, config):
    ((digest, steps, metrics),) = trained(workers, plan, folder, [config])
    return digest, steps, metrics


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_as_dp_and_as_one_worker(tmp_path, case):
    task, settings = CASES[case]
    config, sharded = config_of(task, **settings), config_of(task, **settings, **SHARD)
    expected = run_ranks(outcome, 1, ("dp=1", tmp_path / "1", config))
    for world in (1, 2, 3):
        found = run_ranks(outcome, world, (f"dp={world}", tmp_path / f"sharded {world}", sharded))
        assert found == expected * world, world
    one, two = (
        checkpoint_tensors(tmp_path / name / f"dp={name[-1]}-0" / "checkpoints" / "step-3")
        for name in ("1", "sharded 3")
    )
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items()), "the whole state"


@pytest.mark.sampled(0)
def test_bands_of_images_besides(tmp_path):
    config = config_of("classify", **CLIPPED, **{"train.evaluate_every": 0})
    (expected, *_) = run_ranks(outcome, 4, ("dp=2,sp=2", tmp_path / "whole", config))
    found = run_ranks(outcome, 4, ("dp=2,sp=2", tmp_path / "sharded", override(config, SHARD)))
    assert found == [expected] * 4


def goes_on(workers, folder, shard):
    config = load_config(folder / "config.yaml")
    config = override(
        dataclasses.replace(config, plan=f"dp={workers.size}"), {**SHARD, **shard, "train.steps": 4}
    )
    return train(workers, config, folder, resume=True)["weights_sha256"]


@pytest.mark.sampled(0)
def test_a_run_goes_on_with_any_number_of_workers_sharded_or_not(tmp_path):
    settings = EMA | CLIPPED | {"train.steps": 2, "train.schedule": "constant", "train.evaluate_every": 0}
    config = config_of("classify", **settings)
    (expected,) = run_ranks(outcome, 1, ("dp=1", tmp_path / "one", override(config, {"train.steps": 4})))
    moves = [(2, SHARD, 3, SHARD), (3, SHARD, 1, {"pipeline.shard_optimizer": False}), (1, {}, 2, SHARD)]
    for number, (first, start, then, end) in enumerate(moves):
        folder = tmp_path / str(number)
        run_ranks(outcome, first, (f"dp={first}", folder, override(config, start)))
        digests = run_ranks(goes_on, then, (folder / f"dp={first}-0", end))
        assert digests == [expected[0]] * then, (first, then)


def held(workers):
    """Return how many numbers an optimizer keeps of all parameters, and what is said of a worker that is lost."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 7), nn.BatchNorm1d(7))
    state = TrainState.start(net, AdamW(net.parameters(), lr=0.1, betas=(0.9, 0.99)))
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    setting = Setting(spec_of(torch.ones(1, 40)), override(RunConfig(), SHARD), 2, nullcontext)
    parallel = Parallel(state, make_mesh(workers), setting)
    slots = {name: value for name, value in state.tensors().items() if name.startswith("optimizer.")}
    moments = sum(value.numel() for name, value in slots.items() if "exp_avg" in name)
    memory = sum(value.untyped_storage().nbytes() for name, value in slots.items() if "exp_avg" in name)
    parallel.close()
    return moments, memory, parallel.survives


def test_each_worker_keeps_its_part_of_the_moments():
    ((whole, _, survives),) = run_ranks(held, 1)
    assert survives
    for world in (2, 4):
        found = run_ranks(held, world)
        assert sum(moments for moments, _, _ in found) == whole
        for moments, memory, survives in found:
            assert moments <= whole / world + 2 * (40 + 30 + 4)  # a row of each parameter more than others
            assert memory == 4 * moments
            assert not survives, "a worker that is lost takes its rows along"


@pytest.mark.parametrize("plan", ["dp=2,pp=2", "dp=2,tp=2", "dp=2,lp=2"])
def test_other_plans_are_refused(plan):
    config = override(RunConfig(), {"plan": plan, "task": "detect", **SHARD})
    with pytest.raises(UserError, match=r"plan\.shard_optimizer .* goes with dp and sp, not with (pp|tp|lp)"):
        check_effects(config, SHARD)
    for other in ("sp=2", "fsdp=2"):
        with pytest.raises(UserError, match=r"for plans with dp|not with fsdp"):
            check_effects(override(config, {"plan": other}), SHARD)
    assert check_effects(override(config, {"plan": "dp=2,sp=2"}), SHARD) == []
