"""fsdp ends in the same bits however many workers there are."""

from __future__ import annotations

import pytest
import torch

from support.promises import SHARDED
from support.ranks import run_ranks
from support.small_runs import EMA, config_of, trained
from support.states import checkpoint_tensors

CASES = {
    "adamw, average": ("classify", EMA | SHARDED | {"train.microbatches": 4, "train.steps": 2}),
    "sgd, uneven": (
        "segment",
        SHARDED
        | {"train.batch_size": 6, "train.microbatches": 3, "train.freeze": "body.encoder.model.layer1"},
    ),
    "contiguous": ("detect", SHARDED | {"train.channels_last": False, "train.microbatches": 4}),
}


def outcome(workers, plan, folder, config):
    ((digest, steps, metrics),) = trained(workers, plan, folder, [config])
    return digest, steps, metrics


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("case", "worlds"),
    [
        ("adamw, average", (2, 3)),
        ("sgd, uneven", (2, 4)),
        ("contiguous", (2,)),
        *(pytest.param(case, (2, 3, 4, 5, 6, 7, 8), marks=pytest.mark.slow) for case in CASES),
    ],
)
def test_the_same_bits_as_one_worker(tmp_path, case, worlds):
    task, settings = CASES[case]
    if len(worlds) > 2:
        settings = settings | {"train.batch_size": 8, "train.microbatches": 8}
    config = config_of(task, **settings)
    (expected,) = run_ranks(outcome, 1, ("dp=1", tmp_path, config))
    stored = checkpoint_tensors(tmp_path / "dp=1-0" / "checkpoints" / "step-2")
    for world in worlds:
        found = run_ranks(outcome, world, (f"fsdp={world}", tmp_path, config))
        assert found == [expected] * world, world
        state = checkpoint_tensors(tmp_path / f"fsdp={world}-0" / "checkpoints" / "step-2")
        assert state.keys() == stored.keys()
        assert all(torch.equal(value, state[name]) for name, value in stored.items()), "the whole state"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("unit_bytes", [1 << 16, 1 << 20])
def test_the_same_bits_by_units_of_any_size(tmp_path, unit_bytes):
    """A stage begins with two branches, and what it begins with goes to the neck, too."""
    settings = {
        "train.microbatches": 4,
        "train.steps": 2,
        "train.evaluate_every": 0,
        "pipeline.unit_bytes": unit_bytes,
    }
    config = config_of("detect", **settings)
    (expected,) = run_ranks(
        outcome, 1, ("dp=1", tmp_path, config_of("detect", **settings | {"pipeline.unit_bytes": 1 << 20}))
    )
    found = run_ranks(outcome, 2, ("fsdp=2", tmp_path, config))
    assert found == [expected] * 2
