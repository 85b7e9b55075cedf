"""The gradient of a step's first microbatch, in the log of a run: the same on any number of workers, and no bit of the run is another one."""

import dataclasses
import json

import pytest
import torch

from support.ranks import run_ranks
from support.small_runs import config_of
from ziggurat.parallel.collectives.gradients import GradientSum
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.first_gradient import FirstGradient
from ziggurat.training import records
from ziggurat.training.loop import train


def logged(workers, plan, folder, every, settings):
    records.FIRST_EVERY = every
    config = dataclasses.replace(config_of("classify", **settings), plan=plan)
    result = train(workers, config, folder / f"{plan}-{every}")
    lines = [
        json.loads(line) for line in (folder / f"{plan}-{every}" / "metrics.jsonl").read_text().splitlines()
    ]
    steps = [line for line in lines if line["kind"] == "train"]
    return result["weights_sha256"], [
        (line.get("microbatch_gradient_norm"), line.get("microbatch_images"), line["gradient_norm"])
        for line in steps
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    (found,) = run_ranks(logged, 1, ("dp=1", tmp_path_factory.mktemp("alone"), 1, {}))
    return found


def test_it_is_the_same_on_one_worker_and_on_two(alone, tmp_path):
    first, _ = run_ranks(logged, 2, ("dp=2", tmp_path, 1, {}))
    assert first == alone
    for norm, images, whole in alone[1]:
        assert images == 2
        assert norm > 0
        assert norm != whole


@pytest.mark.parametrize(("plan", "settings"), [("dp=2", {"plan.shard_optimizer": True}), ("sp=2", {})])
def test_where_gradients_are_in_parts_there_is_none(alone, tmp_path, plan, settings):
    (digest, steps), _ = run_ranks(logged, 2, (plan, tmp_path, 1, settings))
    if plan == "dp=2":
        assert (digest, steps) == alone
    else:
        assert {norm for norm, _, _ in steps} == {None}


def test_most_steps_do_not_look(alone, tmp_path):
    (found,) = run_ranks(logged, 1, ("dp=1", tmp_path, 10, {}))
    assert found[0] == alone[0], "to look changes no bit"
    assert [norm for norm, _, _ in found[1]] == [alone[1][0][0], None]


def test_the_norm_is_that_of_the_leaf():
    layer = torch.nn.Linear(3, 2)
    sums = GradientSum(layer.parameters(), Workers())
    first = FirstGradient(sums)
    images = torch.randn(4, 3)
    first.begin(True)
    sums.start(num_leaves=4)
    for leaf, image in enumerate(images):
        with sums.leaf(leaf):
            layer(image).square().sum().backward()
    sums.finish()
    layer.zero_grad()
    layer(images[0]).square().sum().backward()
    assert first.norm().item() == pytest.approx(
        torch.cat([p.grad.flatten() for p in layer.parameters()]).norm().item()
    )
    first.begin(False)
    assert first.norm() is None
    FirstGradient(None).begin(True)
