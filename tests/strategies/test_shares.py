"""Unequal shares: the same bits for every number of microbatches that a worker takes, from the first step on or from any step on."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from support.ranks import run_ranks
from support.small_runs import EMA, config_of, trained
from ziggurat.config import RunConfig, override
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.canonical import partition
from ziggurat.strategies.data_parallel import DataParallel
from ziggurat.strategies.effects import check_effects
from ziggurat.strategies.shares import Shares, shares_fault

COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)


@given(COUNTS, st.integers(0, 40))
def test_parts_are_consecutive_and_proportional(counts, num_microbatches):
    parts = Shares(tuple(counts)).parts(num_microbatches, len(counts))
    assert [index for part in parts for index in part] == list(range(num_microbatches))
    for count, part in zip(counts, parts, strict=True):
        assert abs(len(part) - count * num_microbatches / sum(counts)) < 1
        assert count or not len(part)


@given(COUNTS, st.integers(1, 40), st.integers(1, 8))
def test_another_number_of_workers_shares_evenly(counts, num_microbatches, num_places):
    if num_places != len(counts):
        found = Shares(tuple(counts)).parts(num_microbatches, num_places)
        assert found == partition(num_microbatches, num_places)


# -- the sums ---------------------------------------------------------------------------------------------------------------

NUM_LEAVES = 8
CHANGES = {
    2: [(4, 4), (7, 1), (0, 8), (3, 5), (8, 0), (5, 3)],
    3: [(3, 3, 2), (1, 0, 7), (0, 5, 3), (6, 1, 1), (1, 6, 1), (2, 2, 4)],
    4: [(2, 2, 2, 2), (1, 3, 1, 3), (0, 0, 8, 0), (5, 1, 1, 1), (1, 2, 4, 1), (3, 0, 3, 2)],
}


def steps(workers, counts_of_steps, hierarchy):
    """Return weights and running statistics after some steps whose shares differ, with momentum in between."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    images = torch.randn(NUM_LEAVES, 2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    parallel = DataParallel(net, workers, hierarchy)
    for counts in counts_of_steps:
        parallel.start(NUM_LEAVES, counts)
        for index in parallel.mine:
            with parallel.leaf(index):
                (net(images[index]) ** 2).sum().mul(1e-3).backward()
        losses = parallel.sum([images[index].sum()[None].double() for index in parallel.mine], 1)
        parallel.finish_gradients()
        parallel.finish_statistics()
        optimizer.step()
    parallel.close()
    return [value.clone() for value in net.state_dict().values()], losses


@pytest.mark.parametrize(("world", "hierarchy"), [(2, "auto"), (3, "auto"), (4, "flat"), (4, "2x2")])
def test_shares_that_change_with_every_step_have_the_bits_of_one_worker(world, hierarchy):
    changes = CHANGES[world]
    ((expected, total),) = run_ranks(steps, 1, ([None] * len(changes), "auto"))
    for found, sums in run_ranks(steps, world, (changes, hierarchy)):
        assert torch.equal(sums, total)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("counts", [(4, 5), (8,), (9, -1)])
def test_counts_that_are_not_those_of_the_workers_are_refused(counts):
    with pytest.raises(RuntimeError, match="counts are the microbatches of each of 2 workers, together 8"):
        run_ranks(steps, 2, ([counts], "auto"))


# -- runs -------------------------------------------------------------------------------------------------------------------

# batches of 6, 6 and 4 samples: the last one has fewer microbatches
SETTINGS = EMA | {
    "train.batch_size": 6, "train.microbatches": 6, "train.steps": 4, "train.clip_norm": 0.1, "model.norm": "batch",
}  # fmt: skip


def outcome(workers, plan, folder, config):
    ((digest, numbers, metrics),) = trained(workers, plan, folder, [config])
    return digest, numbers, metrics


def share(config, counts):
    return override(config, {"pipeline.shares": counts})


RUNS = {
    "dp=2": ("classify", ["5,1", "0,6"], {}),
    "dp=3": ("detect", ["1,4,1", "0,0,6"], {}),
    "dp=3 sharded": ("segment", ["3,0,3"], {"pipeline.shard_optimizer": True}),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", RUNS)
def test_a_run_has_the_bits_of_one_worker(tmp_path, case):
    task, shares, settings = RUNS[case]
    config, plan = config_of(task, **SETTINGS), case.split()[0]
    expected = run_ranks(outcome, 1, ("dp=1", tmp_path / "one", config))
    for counts in shares:
        uneven = override(share(config, counts), settings)
        world = len(counts.split(","))
        found = run_ranks(outcome, world, (plan, tmp_path / counts, uneven))
        assert found == expected * world, counts


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("plan", "task", "counts"),
    [("dp=2,sp=2", "classify", "5,1"), ("dp=2,pp=2", "detect", "2,4"), ("dp=2,pp=2", "detect", "6,0")],
)
def test_products_have_the_bits_of_even_shares(tmp_path, plan, task, counts):
    config = config_of(task, **SETTINGS)
    (expected, *_) = run_ranks(outcome, 4, (plan, tmp_path / "even", config))
    assert run_ranks(outcome, 4, (plan, tmp_path / "uneven", share(config, counts))) == [expected] * 4


# -- what is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "settings", "rule"),
    [
        ("dp=2", {"pipeline.shares": "3,4"}, "got 2 that make 7 together"),
        ("dp=2", {"pipeline.shares": "3,3,2"}, "got 3 that make 8 together"),
        ("fsdp=2", {"pipeline.shares": "5,3"}, "for plans with dp"),
        ("sp=2", {"pipeline.shares": "measured"}, "for plans with dp"),
        ("dp=8", {"pipeline.shares": "measured"}, "has one microbatch: raise --microbatches"),
        (
            "dp=2,pp=2",
            {"pipeline.shares": "measured", "pipeline.max_bytes": 1 << 30},
            "plan.max_bytes bounds",
        ),
    ],
)
def test_shares_that_do_not_fit_are_refused(plan, settings, rule):
    given = settings | {"train.microbatches": 8, "train.batch_size": 8}
    config = override(RunConfig(), given | {"plan": plan, "task": "detect"})
    with pytest.raises(UserError, match=rule):
        check_effects(config, given)


def test_counts_that_fit_are_taken():
    for text, places in itertools.product(("even", "measured"), (1, 2, 5)):
        assert shares_fault(text, places, 8) is None
    assert shares_fault("5,0,3", 3, 8) is None
