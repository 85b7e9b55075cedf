"""Runs whose gradients travel narrow: one SHA-256 for each format on any number of workers, and what does not go with it."""

from __future__ import annotations

import dataclasses

import pytest

from support.ranks import run_ranks
from support.small_runs import EMA, config_of, trained
from ziggurat.commands.train import train as start_training
from ziggurat.config import RunConfig, definition_sha256, override, save_config
from ziggurat.errors import UserError
from ziggurat.strategies.effects import check_effects
from ziggurat.training.loop import train

NARROW = ("bf16", "int8")
# batches of 6, 2 and 6 samples: the second one has fewer microbatches
SETTINGS = {
    "train.batch_size": 6, "train.microbatches": 6, "train.steps": 3, "train.clip_norm": 0.1, "model.norm": "batch",
}  # fmt: skip


def outcome(workers, plan, folder, config):
    ((digest, numbers, metrics),) = trained(workers, plan, folder, [config])
    return digest, numbers, metrics


def runs_of(wire, task, **settings):
    return config_of(task, **SETTINGS, **{"pipeline.wire": wire}, **settings)


WAYS = {  # workers, and what is free to differ
    "even": (2, {}),
    "uneven": (3, {"pipeline.shares": "1,5,0"}),
    "tiers": (4, {"launch.hierarchy": "2x2"}),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("wire", "task", "settings", "ways"),
    [
        ("bf16", "detect", EMA, ["tiers"]),
        ("int8", "classify", EMA, ["even", "uneven", "tiers"]),
        ("bf16", "classify", {}, ["even", "uneven"]),
        ("int8", "segment", {}, ["even"]),
    ],
)
def test_a_run_has_the_bits_of_one_worker(tmp_path, wire, task, settings, ways):
    config = runs_of(wire, task, **settings)
    expected = run_ranks(outcome, 1, ("dp=1", tmp_path / "one", config))
    for way in ways:
        world, free = WAYS[way]
        found = run_ranks(outcome, world, (f"dp={world}", tmp_path / way, override(config, free)))
        assert found == expected * world, way


def test_the_formats_differ_in_what_they_make(tmp_path):
    configs = [runs_of(wire, "classify") for wire in ("fp32", *NARROW)]
    configs.append(override(configs[-1], {"seed": 1}))
    ((*found,),) = run_ranks(trained, 1, ("dp=1", tmp_path, configs))
    assert len({digest for digest, *_ in found}) == 4


SHARDED = {"pipeline.shard_optimizer": True}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("wire", "task", "ways"),
    [("bf16", "classify", ["uneven"]), ("int8", "classify", ["even", "uneven", "tiers"]), ("int8", "detect", ["tiers"])],
)  # fmt: skip
def test_a_sharded_optimizer_has_the_bits_of_whole_ones(tmp_path, wire, task, ways):
    """Rows are cut between the blocks that `int8` rounds together."""
    config = runs_of(wire, task, **EMA)
    (expected,) = run_ranks(outcome, 1, ("dp=1", tmp_path / "one", config))
    for way in ways:
        world, free = WAYS[way]
        sharded = override(config, SHARDED | free)
        assert run_ranks(outcome, world, (f"dp={world}", tmp_path / way, sharded)) == [expected] * world, way


@pytest.mark.sampled(0)
def test_a_sharded_optimizer_beside_bands_has_their_bits(tmp_path):
    config = runs_of("int8", "detect")
    ((expected, *_), *_) = run_ranks(outcome, 2, ("sp=2", tmp_path / "narrow", config))
    for digest, *_ in run_ranks(outcome, 4, ("dp=2,sp=2", tmp_path / "wide", override(config, SHARDED))):
        assert digest == expected


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("wire", "first", "then"), [("bf16", {}, {}), ("int8", {}, {}), ("int8", SHARDED, SHARDED), ("int8", SHARDED, {})]
)  # fmt: skip
def test_a_run_goes_on_with_another_number_of_workers(tmp_path, wire, first, then):
    config = runs_of(wire, "classify", **EMA, **{"train.schedule": "constant", "train.evaluate_every": 0})
    ((expected, *_),) = run_ranks(outcome, 1, ("dp=1", tmp_path / "whole", config))
    folder = tmp_path / "parts"
    half = dataclasses.replace(override(config, first | {"train.steps": 2}), plan="dp=2")
    run_ranks(train, 2, (half, folder))
    longer = dataclasses.replace(override(config, then), plan="dp=3")
    results = run_ranks(train, 3, (longer, folder, True))
    assert [result["weights_sha256"] for result in results] == [expected] * 3


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("wire", "plan", "wider", "settings"),
    [
        ("int8", "sp=2", "dp=2,sp=2", {}),
        ("bf16", "pp=2", "dp=2,pp=2", {"pipeline.cut": "neck"}),
    ],
)
def test_dp_in_a_product_does_not_change_the_bits(tmp_path, wire, plan, wider, settings):
    config = runs_of(wire, "detect", **settings)
    ((expected, *_), *_) = run_ranks(outcome, 2, (plan, tmp_path / "narrow", config))
    for digest, *_ in run_ranks(outcome, 4, (wider, tmp_path / "wide", config)):
        assert digest == expected


# -- what is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "settings", "rule"),
    [
        ("fsdp=2", {"pipeline.wire": "bf16"}, "in which fsdp does not add up gradients"),
        ("fsdp=2", {"pipeline.wire": "int8"}, "in which fsdp does not add up gradients"),
    ],
)
def test_what_does_not_go_with_a_wire_is_refused(plan, settings, rule):
    given = settings | {"train.microbatches": 8, "train.batch_size": 8}
    config = override(RunConfig(), given | {"plan": plan, "task": "detect"})
    with pytest.raises(UserError, match=rule):
        check_effects(config, given)


def test_a_run_does_not_go_on_with_another_wire(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    save_config(runs_of("bf16", "classify"), folder / "config.yaml")
    with pytest.raises(UserError, match=r"pipeline\.wire was bf16, and cannot become int8"):
        start_training(None, {"pipeline.wire": "int8"}, str(folder), resume=True)


def test_one_worker_and_every_axis_but_fsdp_go_with_it():
    for plan in ("dp=1", "dp=4", "sp=2", "dp=2,pp=2", "tp=2", "lp=2"):
        given = {"pipeline.wire": "int8"}
        check_effects(override(RunConfig(), given | {"plan": plan, "task": "detect"}), given)


def test_a_wire_defines_a_run():
    names = {definition_sha256(override(RunConfig(), {"pipeline.wire": wire})) for wire in ("fp32", *NARROW)}
    assert len(names) == 3
    assert definition_sha256(RunConfig()) in names


def test_what_comes_as_far_as_the_workers_is_refused_there(tmp_path):
    with pytest.raises(RuntimeError, match=r"plan\.wire=bf16 rounds the nodes of the canonical sum"):
        run_ranks(outcome, 2, ("fsdp=2", tmp_path, runs_of("bf16", "classify")))
