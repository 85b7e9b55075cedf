"""One equals many: the same run on 1, 2, 3 and 4 workers ends in the same bits.

Every case has a partial last batch (so that some workers have no microbatch in a step) and scenes without objects
(so that some microbatches have none). `make test` runs a selection in which each pair of choices occurs; the whole
product is part of `make sweep`.
"""

import dataclasses
import itertools

import pytest

from support.ranks import run_ranks
from ziggurat.config import DigitsConfig, RunConfig, override
from ziggurat.training.loop import train

SCENES = DigitsConfig(
    size=64, count_min=0, count_max=1, height_min=12, height_max=48, train_scenes=17, val_scenes=3
)
SMALL = {
    "task": "detect", "data.path": "digits", "data.crop": 64, "data.workers": 0, "device": "cpu", "threads": 1,
    "model.levels": "p3-p5", "model.channels": 16, "model.head_depth": 1, "decode.max_detections": 5,
    "train.batch_size": 8, "train.microbatches": 4, "train.steps": 4, "train.warmup": 0, "train.clip_norm": 0.5,
}  # fmt: skip

HEADS = ["fcos", "retinanet"]
NORMS = ["batch", "group"]
DTYPES = ["fp32", "bf16"]
OPTIMIZERS = ["adamw", "sgd"]
# Four cases in which each value of each choice meets each value of each other choice.
PAIRWISE = [
    ("fcos", "batch", "fp32", "adamw"),
    ("fcos", "group", "bf16", "sgd"),
    ("retinanet", "batch", "bf16", "adamw"),
    ("retinanet", "group", "fp32", "sgd"),
]
PRODUCT = [case for case in itertools.product(HEADS, NORMS, DTYPES, OPTIMIZERS) if case not in PAIRWISE]


def config_of(head, norm, dtype, optimizer):
    settings = {
        "model.name": f"{head}-test_resnet-fpn", "model.norm": norm, "dtype": dtype, "train.optimizer": optimizer,
        "train.lr": 1e-3 if optimizer == "adamw" else 1e-2,
    }  # fmt: skip
    return dataclasses.replace(override(RunConfig(), SMALL | settings), digits=SCENES)


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
        "model.name": "smp:manet/resnet18",
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
