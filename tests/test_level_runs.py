"""Whole runs under lp: training, evaluation and prediction of every task, against the same run on one worker.

Each worker has all weights and computes its own branches; what is written is that of one worker, to rounding.
"""

import dataclasses
import hashlib
import json
import shutil
import sys

import numpy as np
import pytest
import torch

import test_nonfinite
from support.commands import metrics_under, mostly_slow, noise_images, predictions_under, run, sets
from support.ranks import run_ranks
from test_cli import TINY
from test_pipeline_runs import EMA, assert_alike, weights_of
from test_spatial_runs import SCENES, SMALL, TASKS, config_of, resumed, trained
from ziggurat.cli.main import main
from ziggurat.errors import UserError
from ziggurat.runs.folder import load_run
from ziggurat.strategies.level_training import LevelTraining
from ziggurat.training import loop as module

BRANCHING = TASKS | {"segment": TASKS["segment"] | {"model.name": "smp:fpn/tu-test_resnet"}}
CASES = {"detect": EMA | {"train.clip_norm": 0.1}, "classify": {}, "segment": {}}


def branching(task, **settings):
    return config_of(task, **BRANCHING[task], **settings)


@pytest.mark.parametrize(
    ("plan", "world", "tasks"),
    [
        ("lp=2", 2, list(CASES)),
        ("dp=2,lp=2", 4, ["detect"]),
        ("lp=2,sp=2", 4, ["detect"]),
        pytest.param("lp=3", 3, list(CASES), marks=pytest.mark.slow),
        pytest.param("dp=2,lp=2", 4, ["classify", "segment"], marks=pytest.mark.slow),
        pytest.param("lp=2,sp=2", 4, ["classify", "segment"], marks=pytest.mark.slow),
    ],
)
def test_runs_of_every_task(tmp_path, plan, world, tasks):
    configs = [branching(task, **CASES[task]) for task in tasks]
    (alone,) = run_ranks(trained, 1, ("dp=1", tmp_path, configs))
    results = run_ranks(trained, world, (plan, tmp_path, configs))
    for number in range(len(configs)):
        assert len({repr(on_rank[number]) for on_rank in results}) == 1, "the workers agree"
        # (bands: a batch norm of few, nearly equal values magnifies rounding, most of all in later gradients)
        tolerance = 1e-3 if "sp" in plan else 1e-5
        found, expected = np.array(results[0][number][1]), np.array(alone[number][1])
        assert found[:, 0] == pytest.approx(expected[:, 0], rel=tolerance)
        assert found[:, 1] == pytest.approx(expected[:, 1], rel=10 * tolerance if "sp" in plan else tolerance)
        assert_alike(
            weights_of(tmp_path / f"dp=1-{number}"), weights_of(tmp_path / f"{plan}-{number}"), tolerance
        )
        for name, value in alone[number][2].items():
            if isinstance(value, float):
                assert results[0][number][2][name] == pytest.approx(value, abs=tolerance), name


@pytest.mark.slow
def test_a_smaller_last_batch(tmp_path):
    """The second step has one microbatch, of one image: the other place of dp has none."""
    config = branching("detect", **{"train.batch_size": 6, "train.microbatches": 3})
    configs = [dataclasses.replace(config, digits=dataclasses.replace(SCENES, train_scenes=7))]
    (alone,) = run_ranks(trained, 1, ("dp=1", tmp_path, configs))
    results = run_ranks(trained, 4, ("dp=2,lp=2", tmp_path, configs))
    assert len({repr(on_rank) for on_rank in results}) == 1
    assert np.array(results[0][0][1]) == pytest.approx(np.array(alone[0][1]), rel=1e-4)
    assert_alike(weights_of(tmp_path / "dp=1-0"), weights_of(tmp_path / "dp=2,lp=2-0"), 1e-4)


@pytest.mark.slow
def test_bf16(tmp_path):
    configs = [branching(task, dtype="bf16") for task in ("detect", "segment")]
    (alone,) = run_ranks(trained, 1, ("dp=1", tmp_path, configs))
    pair = run_ranks(trained, 2, ("lp=2", tmp_path, configs))
    for number in range(len(configs)):
        assert repr(pair[0][number]) == repr(pair[1][number])
        losses = [[loss for loss, _ in case[number][1]] for case in (alone, pair[0])]
        assert losses[1] == pytest.approx(losses[0], rel=0.05)  # bfloat16 has 8 bits


def digest(tensors):
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def spy(kept):
    """Keep, in this process alone, what a worker holds at the end of its steps."""

    class Spy(LevelTraining):
        def close(self):
            super().close()
            moments = [v for s in self.state.optimizer.state.values() for v in s.values()]
            states = [[*one.state_dict().values()] for one in (self.model, self.state.average)]
            kept["elements"] = [sum(t.numel() for t in part) for part in (*states, moments)]
            kept["bits"] = [digest(part) for part in (*states, moments)]
            kept["calls"] = self.placement.worker_of

    sys.modules["ziggurat.strategies.joining"].LevelTraining = Spy


def held(workers, plan, folder):
    kept = {}
    spy(kept)
    module.train(workers, dataclasses.replace(branching("detect", **EMA), plan=plan), folder)
    return kept


def test_a_worker_holds_all_weights_and_computes_its_branches(tmp_path):
    first, second = run_ranks(held, 2, ("lp=2", tmp_path / "run"))
    weights = sum(t.numel() for t in weights_of(tmp_path / "run").values())
    assert first["elements"] == second["elements"]
    assert first["elements"][:2] == [weights, weights]
    assert first["elements"][2] > 1.9 * weights, "AdamW has two moments"
    assert first["bits"] == second["bits"], "weights, average and moments of both workers"
    assert first["calls"] == second["calls"]
    assert set(first["calls"]) == {0, 1}


@pytest.mark.parametrize(
    ("first", "then", "world"),
    [
        ("dp=1", "lp=2", 2),
        ("lp=2", "dp=1", 1),
        pytest.param("lp=2", "lp=3", 3, marks=pytest.mark.slow),
        pytest.param("lp=2", "dp=2,lp=2", 4, marks=pytest.mark.slow),
        pytest.param("lp=2", "pp=2", 2, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_under_another_plan(tmp_path, first, then, world):
    settings = EMA | {"train.checkpoint_every": 1, "train.steps": 3}
    (whole,) = run_ranks(trained, 1, ("dp=1", tmp_path / "whole", [branching("detect", **settings)]))
    run_ranks(trained, 2 if first == "lp=2" else 1, (first, tmp_path, [branching("detect", **settings)]))
    folder = tmp_path / f"{first}-0"
    shutil.rmtree(folder / "checkpoints" / "step-3")
    results = run_ranks(resumed, world, (then, folder))
    assert results[0]["samples"] == 4, "one step is left"
    assert {result["weights_sha256"] for result in results} == {results[0]["weights_sha256"]}
    assert results[0]["loss"] == pytest.approx(whole[0][1][2][0], rel=1e-5)
    # (AdamW divides by the gradient's size: where that is hardly more than rounding, a weight goes another way)
    assert_alike(weights_of(tmp_path / "whole" / "dp=1-0"), weights_of(folder), 1e-4)


def test_a_run_goes_on_with_its_placement(tmp_path):
    settings = EMA | {"train.checkpoint_every": 1, "train.evaluate_every": 1}
    first = run_ranks(trained, 2, ("lp=2", tmp_path, [branching("detect", **settings)]))
    folder = tmp_path / "lp=2-0"
    said = [
        line for line in (folder / "log.txt").read_text().splitlines() if "branches on worker 1 of lp" in line
    ]
    assert len(said) == 1
    assert "lp alone is at most 1." in (folder / "log.txt").read_text()
    shutil.rmtree(folder / "checkpoints" / "step-2")
    known = (folder / "costs.json").read_bytes()
    results = run_ranks(resumed, 2, ("lp=2", folder))
    assert results[0]["weights_sha256"] == first[0][0][0], "the same placement, the same bits"
    assert (folder / "costs.json").read_bytes() == known
    times = [
        line[line.index("branches on") :]
        for line in (folder / "log.txt").read_text().splitlines()
        if "branches on" in line
    ]
    assert times[:2] == times[2:], "nothing was measured anew: the log has the same milliseconds"

    (folder / "costs.json").write_text('{"forward": [1]}')  # damaged: measured again
    shutil.rmtree(folder / "checkpoints" / "step-2")
    run_ranks(resumed, 2, ("lp=2", folder))
    assert len(json.loads((folder / "costs.json").read_text())["forward"]) > 10


def spoiled(workers, plan, folder, how, policy):
    test_nonfinite.spoil(how)
    given = {"train.on_nonfinite": policy, "train.evaluate_every": 0, "train.ema": 0.0}
    config = dataclasses.replace(test_nonfinite.config_of(**given), plan=plan)
    try:
        result = module.train(workers, config, folder)
    except UserError as error:
        return error.faults
    return result["skipped_steps"], result["weights_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_step_is_skipped_as_on_one_worker(tmp_path, how):
    (alone,) = run_ranks(spoiled, 1, ("dp=1", tmp_path / "one", how, "skip"))
    pair = run_ranks(spoiled, 2, ("lp=2", tmp_path / "two", how, "skip"))
    assert alone[0] == pair[0][0] == 1
    assert pair[0] == pair[1]
    assert_alike(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"), 1e-4)
    before, after = (
        test_nonfinite.contents(tmp_path / "two" / "checkpoints" / f"step-{step}") for step in (1, 2)
    )
    assert all(torch.equal(before[name], after[name]) for name in before), "it changes nothing"


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_number_that_is_not_finite_is_named(tmp_path, how):
    first, second = run_ranks(spoiled, 2, ("lp=2", tmp_path / "run", how, "stop"))
    assert first == second
    assert f"the {how} is not finite in step 2, microbatch 2, on workers 0 to 1" in first[0]
    assert (f"first bad parameter: {test_nonfinite.PARAMETER}" in first[0]) == (how == "gradient")
    assert (tmp_path / "run" / "checkpoints" / "step-1").is_dir()


def test_a_network_without_branches_is_refused(tmp_path, capfd):
    """In one message; no run has begun, so that the same folder can be given with a plan that fits."""
    others = [word for word in TINY if word not in ("--model", "fcos-test_resnet-fpn")]
    words = [
        "train",
        "digits",
        "--task",
        "classify",
        "--model",
        "timm:lcnet_035",
        "--out",
        str(tmp_path / "run"),
        *others,
    ]
    assert main([*words, "--plan", "lp=2"]) == 2
    error = capfd.readouterr().err
    assert error.count("lp needs parallel branches") == 1
    assert "Traceback" not in error
    assert main([*words, "--plan", "dp=1"]) == 0
    assert load_run(tmp_path / "run").config.plan == "dp=1"


@pytest.mark.parametrize("task", mostly_slow(TASKS, "detect"))
def test_the_commands(tmp_path, capfd, task):
    """Train, evaluate and predict under lp; the latter two as on one worker."""
    settings = SMALL | BRANCHING[task] | {"decode.score_threshold": 0.0}
    out = tmp_path / "run"
    words = ("--task", task, "--plan", "lp=2", "--out", out, "--json")
    result = run(capfd, "train", "digits", *words, *sets(settings, SCENES))
    assert (result["plan"], result["world_size"], result["microbatches"]) == ("lp=2", 2, 2)
    plans = ("dp=1", "lp=2", "dp=2,lp=2")
    metrics = metrics_under(capfd, out, plans)
    assert metrics[0] == metrics[1] == metrics[2]

    found = predictions_under(capfd, out, (*plans, "lp=2,sp=2"), noise_images(tmp_path))
    assert found[0]
    assert found[0] == found[1] == found[2]
    if task == "detect":  # bands: equal to rounding
        scores = [[row["score"] for row in rows] for rows in (found[0], found[3])]
        assert scores[1] == pytest.approx(scores[0], abs=1e-4)
