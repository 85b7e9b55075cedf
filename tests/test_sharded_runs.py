"""Whole runs under fsdp: training, evaluation and prediction of every task, against the same run on one worker.

Each worker has rows of the weights, of the average and of the optimizer's moments; what is written is whole.
"""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from support.commands import metrics_under, mostly_slow, noise_images, predictions_under, run, sets
from support.ranks import run_ranks
from test_pipeline_runs import EMA, assert_alike, weights_of
from test_spatial_runs import SCENES, SMALL, TASKS, config_of, resumed, trained
from ziggurat.errors import UserError
from ziggurat.runs.folder import load_run, weights_sha256
from ziggurat.strategies.sharded import local
from ziggurat.strategies.sharded_training import ShardedTraining
from ziggurat.training.loop import train

SHARDED = {"pipeline.unit_bytes": 4096, "train.clip_norm": 0.1}  # several units even of small networks

MOSTLY_SLOW = mostly_slow(TASKS, "detect")


def test_runs_of_every_task(tmp_path):
    """One microbatch more than two workers share evenly: a worker keeps the other one company."""
    uneven = SHARDED | {"train.batch_size": 6, "train.microbatches": 3}
    configs = [config_of(task, **uneven, **(EMA if task == "detect" else {})) for task in TASKS]
    (alone,) = run_ranks(trained, 1, ("dp=1", tmp_path, configs))
    results = run_ranks(trained, 2, ("fsdp=2", tmp_path, configs))
    for number in range(len(configs)):
        assert len({repr(on_rank[number]) for on_rank in results}) == 1, "the workers agree"
        assert np.array(results[0][number][1]) == pytest.approx(np.array(alone[number][1]), rel=1e-4)
        assert_alike(weights_of(tmp_path / f"dp=1-{number}"), weights_of(tmp_path / f"fsdp=2-{number}"))
        for name, value in alone[number][2].items():
            if isinstance(value, float):
                assert results[0][number][2][name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("task", MOSTLY_SLOW)
def test_with_sp(tmp_path, task):
    """Rounding differs more than under fsdp alone: a batch norm of few, nearly equal values magnifies it."""
    config = config_of(task, **SHARDED, **EMA)
    (alone,) = run_ranks(trained, 1, ("dp=1", tmp_path, [config]))
    results = run_ranks(trained, 4, ("fsdp=2,sp=2", tmp_path, [config]))
    assert len({repr(on_rank) for on_rank in results}) == 1, "the workers agree"
    (loss, norm), (later, _) = results[0][0][1]
    (true_loss, true_norm), (true_later, _) = alone[0][1]
    assert loss == pytest.approx(true_loss, rel=1e-5)
    assert norm == pytest.approx(true_norm, rel=1e-3)
    assert later == pytest.approx(true_later, rel=1e-3)
    assert results[0][0][2].keys() == alone[0][2].keys()


def gathered_and_held(workers, plan, folder, config):
    """Return the elements that a worker holds of weights, average and moments after a run, and what it gathers of them."""
    kept = []

    class Spy(ShardedTraining):
        def close(self):
            moments = [v for s in self.state.optimizer.state.values() for v in s.values()]
            parts = (list(self.model.parameters()), list(self.state.average.parameters()), moments)
            kept.append([sum(local(t).numel() for t in part) for part in parts])
            every = [t for part in parts for t in part if t.ndim]
            assert all(local(t).untyped_storage().nbytes() <= 4 * (t.numel() // 2 + 4096) for t in every)
            whole = self.whole()
            if whole is not None:
                kept.append(weights_sha256(whole.average))
                model, optimizer = whole.model, whole.optimizer
                kept.append([optimizer.state[p]["exp_avg"].shape == p.shape for p in model.parameters()])

    sys.modules["ziggurat.strategies.joining"].ShardedTraining = Spy  # in this process alone
    result = train(workers, dataclasses.replace(config, plan=plan), folder)
    return kept, result["weights_sha256"]


def test_a_worker_holds_its_rows(tmp_path):
    config = config_of("detect", **SHARDED, **EMA)
    (first, digest), (second, _) = run_ranks(gathered_and_held, 2, ("fsdp=2", tmp_path / "run", config))
    parameters = list(load_run(tmp_path / "run").model.parameters())
    total = sum(p.numel() for p in parameters)
    assert first[0][0] + second[0][0] == first[0][1] + second[0][1] == total
    steps = (
        first[0][2] + second[0][2] - 2 * total
    )  # AdamW has two moments, and a number of steps on each worker
    assert steps == 2 * len(parameters)
    uneven = sum(p[0].numel() for p in parameters)  # of an odd number of rows the first worker has one more
    assert abs(first[0][0] - second[0][0]) <= uneven
    assert first[1] == digest, "the first worker has gathered all"
    assert all(first[2])
    assert len(second) == 1


@pytest.mark.parametrize(
    ("first", "then", "world"),
    [
        ("dp=1", "fsdp=2", 2),
        ("fsdp=2", "dp=1", 1),
        pytest.param("fsdp=2", "fsdp=3", 3, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("sgd", marks=pytest.mark.slow)])
def test_a_run_goes_on_under_another_plan(tmp_path, first, then, world, optimizer):
    settings = SHARDED | EMA | {"train.checkpoint_every": 1, "train.steps": 3, "train.optimizer": optimizer}
    settings |= {"train.microbatches": 4}  # as many as the largest plan needs
    config = config_of("classify", **settings)
    (whole,) = run_ranks(trained, 1, ("dp=1", tmp_path / "whole", [config]))
    run_ranks(trained, 2 if first == "fsdp=2" else 1, (first, tmp_path, [config]))
    folder = tmp_path / f"{first}-0"
    shutil.rmtree(folder / "checkpoints" / "step-3")
    results = run_ranks(resumed, world, (then, folder))
    assert results[0]["samples"] == 4, "one step is left"
    assert {result["weights_sha256"] for result in results} == {results[0]["weights_sha256"]}
    assert results[0]["loss"] == pytest.approx(whole[0][1][2][0], rel=1e-4)
    # AdamW's step is 1e-3 however small a gradient is: of one that is nearly zero rounding decides
    assert_alike(weights_of(tmp_path / "whole" / "dp=1-0"), weights_of(folder), tolerance=1e-4)


def test_bf16_with_checkpoints_evaluations_and_a_resumption(tmp_path):
    """Stopped and gone on under the same plan, a run ends in the same bits: nothing of its state is left out."""
    settings = {"train.checkpoint_every": 1, "train.evaluate_every": 1, "train.steps": 3, "dtype": "bf16"}
    settings["checkpoint.keep"] = 3
    config = config_of("detect", **SHARDED, **EMA, **settings)
    first = run_ranks(trained, 2, ("fsdp=2", tmp_path, [config]))
    folder = tmp_path / "fsdp=2-0"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum(one["kind"] != "train" for one in lines) == 3, "an evaluation after each step"
    for step in (2, 3):
        shutil.rmtree(folder / "checkpoints" / f"step-{step}")
    results = run_ranks(resumed, 2, ("fsdp=2", folder))
    assert {result["weights_sha256"] for result in results} == {first[0][0][0]}
    (alone,) = run_ranks(trained, 1, ("dp=1", tmp_path, [config]))
    losses = [[loss for loss, _ in case[0][1]] for case in (alone, first[0])]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)  # bfloat16 has 8 bits


@pytest.mark.parametrize("task", MOSTLY_SLOW)
def test_the_commands(tmp_path, capfd, task):
    """Train, evaluate and predict under fsdp; the latter two as on one worker, with batches that do not divide evenly."""
    settings = SMALL | TASKS[task] | {"decode.score_threshold": 0.0, "pipeline.unit_bytes": 4096}
    out = tmp_path / "run"
    words = ("--task", task, "--plan", "fsdp=2", "--out", out, "--json")
    result = run(capfd, "train", "digits", *words, *sets(settings, SCENES))
    assert (result["plan"], result["world_size"], result["microbatches"]) == ("fsdp=2", 2, 2)
    plans = ("dp=1", "fsdp=2", "fsdp=2,sp=2")
    metrics = metrics_under(capfd, out, plans)
    assert metrics[0] == metrics[1], "each image is computed as on one worker"
    numbers = {name: value for name, value in metrics[0].items() if isinstance(value, float)}
    assert numbers
    assert {name: metrics[2][name] for name in numbers} == pytest.approx(numbers, abs=1e-3), "to rounding"

    images = noise_images(tmp_path)  # of three sizes: three batches
    alone, sharded = predictions_under(capfd, out, plans[:2], images, "--set", "data.crop=96")
    assert alone
    assert sharded == alone


def test_an_image_that_cannot_be_read_ends_all_workers(tmp_path):
    """The worker that stops computing still runs the model as often as the other one."""
    folder = tmp_path / "data"
    for split in ("train", "val"):
        for number in range(4):
            path = folder / split / f"class{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
    bad = folder / "val" / "class0" / "0.png"
    bad.write_bytes(bad.read_bytes()[:2000])
    config = config_of("classify", **SHARDED, **{"data.path": str(folder)})
    first, second = run_ranks(refused, 2, (config, tmp_path / "run"))
    assert first == second
    assert len(first) == 1
    assert str(bad) in first[0]


def refused(workers, config, folder):
    with pytest.raises(UserError) as caught:
        train(workers, dataclasses.replace(config, plan="fsdp=2"), folder)
    return caught.value.faults
