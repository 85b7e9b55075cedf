"""One equals many: the same run on 1, 2, 3 and 4 workers ends in the same bits.

Every case has a partial last batch (so that some workers have no microbatch in a step) and scenes without objects
(so that some microbatches have none). `make test` runs a selection in which each pair of choices occurs; the whole
product is part of `make sweep`.
"""

import dataclasses

import pytest

from support.paired_runs import PAIRWISE, PRODUCT, SCENES, SMALL, config_of
from support.ranks import run_ranks
from ziggurat.config import RunConfig, override
from ziggurat.training.loop import train


def trained(workers, config, folder):
    result = train(
        workers, dataclasses.replace(config, plan=f"dp={workers.size}"), folder / str(workers.size)
    )
    return result["weights_sha256"], result["loss"], result["metrics"]


def check(case, folder, worlds):
    outcomes = {}
    for world in worlds:
        on_ranks = run_ranks(trained, world, (config_of(*case), folder))
        assert all(outcome == on_ranks[0] for outcome in on_ranks), "the workers agree"
        outcomes[world] = on_ranks[0]
    assert len({repr(outcome) for outcome in outcomes.values()}) == 1, outcomes


@pytest.mark.parametrize("case", PAIRWISE, ids="-".join)
def test_the_same_bits_on_any_number_of_workers(case, tmp_path):
    check(case, tmp_path, worlds=(1, 2, 3, 4))


@pytest.mark.slow
@pytest.mark.parametrize("case", PRODUCT, ids="-".join)
def test_the_same_bits_in_every_combination(case, tmp_path):
    check(case, tmp_path, worlds=(1, 2, 3, 4, 8))


def test_another_seed_is_another_result(tmp_path):
    config = config_of(*PAIRWISE[0])
    first = run_ranks(trained, 1, (config, tmp_path / "first"))
    second = run_ranks(trained, 1, (dataclasses.replace(config, seed=1), tmp_path / "second"))
    assert first[0][0] != second[0][0]


# The other tasks; a Dice of the global batch takes two passes in each step.
OTHER_TASKS = {
    "pnn": {"task": "classify", "model.name": "pnn", "model.pnn.channels": 8, "data.resize": 64},
    "dice": {"task": "segment", "model.name": "smp:unet/tu-test_resnet", "loss.segmentation": "focal+dice"},
    "manet": {
        "task": "segment",
        "model.name": "smp:manet/tu-test_resnet",
        "dtype": "bf16",
        "train.optimizer": "sgd",
    },
}


@pytest.mark.parametrize("name", OTHER_TASKS)
def test_the_other_tasks_too(name, tmp_path):
    scenes = dataclasses.replace(SCENES, count_min=1, count_max=2)
    config = dataclasses.replace(override(RunConfig(dtype="fp32"), SMALL | OTHER_TASKS[name]), digits=scenes)
    outcomes = [run_ranks(trained, world, (config, tmp_path)) for world in (1, 2, 3)]
    assert len({repr(outcome) for on_ranks in outcomes for outcome in on_ranks}) == 1, outcomes
