"""Whole runs under pp: training, evaluation and prediction of every task, against the same run on one worker.

Each worker has the weights, the average and the optimizer's moments of its own stages; what is written is whole.
"""

import dataclasses
import itertools
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from support.commands import metrics_under, mostly_slow, noise_images, predictions_under, run, sets
from support.ranks import run_ranks
from test_spatial_runs import SCENES, SMALL, TASKS, config_of, resumed, trained
from ziggurat.errors import UserError
from ziggurat.runs.folder import load_run
from ziggurat.strategies.pipeline_training import PipelineTraining
from ziggurat.training.loop import train

EMA = {"train.ema": 0.9, "train.optimizer": "adamw", "train.lr": 1e-3}


def weights_of(folder):
    return load_file(folder / "weights.safetensors")


def assert_alike(one, other, tolerance=1e-5):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(
            other[name].double(), tensor.double(), rtol=tolerance, atol=tolerance, msg=name
        )


@pytest.mark.parametrize(("plan", "world"), [("pp=2", 2), ("dp=2,pp=2", 4)])
def test_runs_of_every_task(tmp_path, plan, world):
    configs = [config_of(task, **(EMA if task == "detect" else {})) for task in TASKS]
    (alone,) = run_ranks(trained, 1, ("dp=1", tmp_path, configs))
    results = run_ranks(trained, world, (plan, tmp_path, configs))
    for number in range(len(configs)):
        assert len({repr(on_rank[number]) for on_rank in results}) == 1, "the workers agree"
        assert np.array(results[0][number][1]) == pytest.approx(np.array(alone[number][1]), rel=1e-5)
        assert_alike(weights_of(tmp_path / f"dp=1-{number}"), weights_of(tmp_path / f"{plan}-{number}"))
        for name, value in alone[number][2].items():
            if isinstance(value, float):
                assert results[0][number][2][name] == pytest.approx(value, abs=1e-6), name


def test_all_axes(tmp_path):
    configs = [config_of("detect")]
    (alone,) = run_ranks(trained, 1, ("dp=1", tmp_path, configs))
    results = run_ranks(trained, 4, ("sp=2,pp=2", tmp_path, configs))
    assert len({repr(on_rank) for on_rank in results}) == 1
    assert results[0][0][1][0][0] == pytest.approx(alone[0][1][0][0], rel=1e-5)


def held(workers, plan, folder):
    """Return the elements of weights, average and moments that a worker holds after a step, and of gradients."""
    kept = []

    class Spy(PipelineTraining):
        def close(self):
            super().close()
            with_memory = [t for t in self.model.state_dict().values() if not t.is_meta]
            averages = [t for t in self.state.average.state_dict().values() if not t.is_meta]
            moments = [v for s in self.state.optimizer.state.values() for v in s.values()]
            kept.append([sum(t.numel() for t in part) for part in (with_memory, averages, moments)])

    sys.modules["ziggurat.strategies.joining"].PipelineTraining = Spy  # in this process alone
    config = dataclasses.replace(config_of("detect", **EMA), plan=plan)
    train(workers, config, folder)
    return kept[0]


def test_a_worker_holds_its_own_stages(tmp_path):
    first, second = run_ranks(held, 2, ("pp=2", tmp_path / "run"))
    weights = sum(t.numel() for t in weights_of(tmp_path / "run").values())
    assert first[0] + second[0] == first[1] + second[1] == weights
    parameters = load_run(tmp_path / "run").model.parameters()
    trained_elements = sum(p.numel() for p in parameters)
    steps = first[2] + second[2] - 2 * trained_elements  # AdamW has two moments, and a number of steps
    assert 0 < steps < 1000
    assert min(first[0], second[0]) > 0


@pytest.mark.parametrize(
    ("first", "then", "world"),
    [
        ("dp=1", "pp=2", 2),
        pytest.param("pp=2", "dp=1", 1, marks=pytest.mark.slow),
        pytest.param("pp=2", "pp=3", 3, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_under_another_plan(tmp_path, first, then, world):
    settings = EMA | {"train.checkpoint_every": 1, "train.steps": 3}
    (whole,) = run_ranks(trained, 1, ("dp=1", tmp_path / "whole", [config_of("detect", **settings)]))
    run_ranks(trained, 2 if first == "pp=2" else 1, (first, tmp_path, [config_of("detect", **settings)]))
    folder = tmp_path / f"{first}-0"
    shutil.rmtree(folder / "checkpoints" / "step-3")
    results = run_ranks(resumed, world, (then, folder))
    assert results[0]["samples"] == 4, "one step is left"
    assert {result["weights_sha256"] for result in results} == {results[0]["weights_sha256"]}
    assert results[0]["loss"] == pytest.approx(whole[0][1][2][0], rel=1e-5)
    assert_alike(weights_of(tmp_path / "whole" / "dp=1-0"), weights_of(folder))


def test_a_run_goes_on_with_its_cut(tmp_path):
    settings = EMA | {"train.checkpoint_every": 1}
    first = run_ranks(trained, 2, ("pp=2", tmp_path, [config_of("detect", **settings)]))
    folder = tmp_path / "pp=2-0"
    (kept,) = json.loads((folder / "cuts.json").read_text()).values()
    milliseconds = kept["costs"][1]["seconds"] * 1000  # would come out otherwise, were it measured anew
    said = (
        f"stage 1 on worker 1 of the pipeline: from {kept['layers'][0]}, {milliseconds:.1f} ms a microbatch"
    )
    assert said in (folder / "log.txt").read_text()
    shutil.rmtree(folder / "checkpoints" / "step-2")
    known = (folder / "cuts.json").read_bytes()
    results = run_ranks(resumed, 2, ("pp=2", folder))
    assert (folder / "cuts.json").read_bytes() == known
    assert results[0]["weights_sha256"] == first[0][0][0], "the same stages, the same bits"
    assert (folder / "log.txt").read_text().count(said) == 2

    (folder / "cuts.json").write_text("{")  # damaged: measured again
    shutil.rmtree(folder / "checkpoints" / "step-2")
    run_ranks(resumed, 2, ("pp=2", folder))
    assert json.loads((folder / "cuts.json").read_text())


def spoiled(workers, folder):
    config = dataclasses.replace(config_of("detect", **{"train.lr": 1e30, "train.clip_norm": 0}), plan="pp=2")
    with pytest.raises(UserError) as caught:
        train(workers, config, folder)
    return caught.value.faults


def test_all_workers_see_that_a_loss_is_not_finite(tmp_path):
    first, second = run_ranks(spoiled, 2, (tmp_path / "run",))
    assert first == second
    assert "the loss is not finite in step 2, microbatch 0, on worker 1" in first[0]


def replaced(workers, plan, folder, config):
    return train(workers, dataclasses.replace(config, plan=plan), folder / plan)["replaced_samples"]


def test_samples_that_are_replaced_are_counted_once(tmp_path):
    """Every worker of a pipeline, and of branches, reads them."""
    for split, name in itertools.product(("train", "val"), ("one/0.png", "one/1.png", "two/2.png")):
        path = tmp_path / "data" / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    bad = tmp_path / "data" / "train" / "one" / "1.png"
    bad.write_bytes(bad.read_bytes()[:2000])
    config = config_of("classify", **{"data.path": str(tmp_path / "data"), "data.on_error": "skip"})
    (alone,) = run_ranks(replaced, 1, ("dp=1", tmp_path, config))
    assert alone > 0
    for plan in ("dp=2", "sp=2", "pp=2", "lp=2"):
        assert run_ranks(replaced, 2, (plan, tmp_path, config)) == [alone, alone], plan


@pytest.mark.parametrize("task", mostly_slow(TASKS, "detect"))
def test_the_commands(tmp_path, capfd, task):
    """Train, evaluate and predict under pp; the latter two as on one worker."""
    settings = SMALL | TASKS[task] | {"decode.score_threshold": 0.0}
    out = tmp_path / "run"
    result = run(
        capfd, "train", "digits", "--task", task, "--plan", "pp=2", "--out", out, "--json", *sets(settings, SCENES),
        "--set", "plan.schedule=interleaved",
    )  # fmt: skip
    assert (result["plan"], result["world_size"], result["microbatches"]) == ("pp=2", 2, 2)
    plans = ("dp=1", "pp=2", "dp=2,pp=2")
    metrics = metrics_under(capfd, out, plans)
    assert metrics[0] == metrics[1] == metrics[2]

    first, *others = predictions_under(capfd, out, plans, noise_images(tmp_path))
    assert first
    assert others == [first, first]
