"""A run goes on under another plan, or under its own with what it has measured."""

import json
import shutil

import pytest

from support.promises import NARROW, SHARDED, moves, world_of
from support.ranks import run_ranks
from support.small_runs import EMA, assert_alike, config_of, resumed, trained, weights_of
from support.states import checkpoint_tensors


def cut_back(folder, step):
    """Take away the checkpoint of a step, as if the run had been stopped before it."""
    shutil.rmtree(folder / "checkpoints" / f"step-{step}")


def resume(folder, plan):
    """Go on under a plan; return what all workers say alike."""
    results = run_ranks(resumed, world_of(plan), (plan, folder))
    assert {result["weights_sha256"] for result in results} == {results[0]["weights_sha256"]}
    return results[0]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("move", [move.param() for move in moves()])
def test_a_run_goes_on_under_another_plan(tmp_path, run_under, move):
    settings = dict(move.settings) | {"train.checkpoint_every": 1, "train.steps": 3}
    config = config_of(move.task, **settings)
    whole, folder = run_under(config, "dp=1"), tmp_path / "run"
    shutil.copytree(run_under(config, move.first).folder, folder)
    if move.weights is not None:  # names, shapes and numbers, whatever the plan
        expected, found = (checkpoint_tensors(f / "checkpoints" / "step-3") for f in (whole.folder, folder))
        assert_alike(expected, found, 1e-4)
    cut_back(folder, 3)
    result = resume(folder, move.then)
    assert result["samples"] == 4, "one step is left"
    assert result["loss"] == pytest.approx(whole.steps[2][0], rel=move.loss)
    if move.weights is not None:
        assert_alike(weights_of(whole.folder), weights_of(folder), move.weights)
    evaluated = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    every = settings.get("train.evaluate_every") or 3
    assert [line["step"] for line in evaluated if line["kind"] == "val"] == sorted({every, 3})


SAME = {
    "pp=2": ("detect", EMA, "cuts.json"),
    "lp=2": ("detect", EMA | {"train.evaluate_every": 1}, "costs.json"),
    "tp=2": ("classify", NARROW, ""),
    "fsdp=2": ("detect", SHARDED | EMA | {"train.evaluate_every": 1, "dtype": "bf16"}, ""),
}


@pytest.mark.parametrize("plan", SAME)
def test_the_same_plan_goes_on_in_the_same_bits(tmp_path, plan):
    """With the same cut and the same branches, nothing of its state is left out, and nothing is measured again."""
    task, settings, measured = SAME[plan]
    settings = settings | {"train.checkpoint_every": 1, "train.steps": 3, "checkpoint.keep": 3}
    first = run_ranks(trained, 2, (plan, tmp_path, [config_of(task, **settings)]))
    folder = tmp_path / f"{plan}-0"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["kind"] != "train" for line in lines) == (3 if "train.evaluate_every" in settings else 1)
    kept = (folder / measured).read_text() if measured else ""
    for step in (2, 3):
        cut_back(folder, step)
    assert resume(folder, plan)["weights_sha256"] == first[0][0][0]
    if measured:  # times, which are never the same twice
        assert (folder / measured).read_text() == kept


def test_the_parts_of_tp_are_written_by_several_workers(tmp_path):
    config = config_of("classify", **NARROW, **{"train.checkpoint_every": 1})
    run_ranks(trained, 2, ("tp=2", tmp_path, [config]))
    files = (tmp_path / "tp=2-0" / "checkpoints" / "step-1").glob("*.safetensors")
    assert len({path.name.partition("-model")[0] for path in files}) == 2


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("plan", "name"), [("pp=2", "cuts.json"), ("lp=2", "costs.json")])
def test_what_was_measured_is_said_and_kept_in_the_checkpoint(tmp_path, plan, name):
    first = run_ranks(trained, 2, (plan, tmp_path, [config_of("detect", **{"train.checkpoint_every": 1})]))
    folder = tmp_path / f"{plan}-0"
    if plan == "pp=2":
        (kept,) = json.loads((folder / name).read_text()).values()
        said = f"stage 1 on worker 1 of the pipeline: from {kept['layers'][0]}, "
    else:
        said = "branches on worker 1 of lp"
        assert "lp alone is at most 1." in (folder / "log.txt").read_text()
    assert (folder / "log.txt").read_text().count(said) == 1
    cut_back(folder, 2)
    resume(folder, plan)
    assert (folder / "log.txt").read_text().count(said) == 2

    (folder / name).write_text("{")  # only what saves measuring again: bits do not hang on it
    cut_back(folder, 2)
    assert resume(folder, plan)["weights_sha256"] == first[0][0][0]
