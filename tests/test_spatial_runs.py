"""Whole runs under sp: training, evaluation and prediction of every task, against the same run on one worker.

They differ by rounding from those of one worker (tests/plans compares in float64), and are the same bits on any degree
of dp.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from support.commands import metrics_under, noise_images, predictions_under, run, sets
from support.ranks import run_ranks
from ziggurat.config import DigitsConfig, RunConfig, load_config, override
from ziggurat.errors import UserError
from ziggurat.runs.folder import load_run
from ziggurat.training.loop import train

SCENES = DigitsConfig(
    size=64, count_min=1, count_max=2, height_min=12, height_max=48, train_scenes=8, val_scenes=3
)
SMALL = {
    "data.path": "digits", "data.crop": 64, "data.workers": 0, "device": "cpu", "threads": 1, "dtype": "fp32",
    "model.levels": "p3-p5", "model.channels": 16, "model.head_depth": 1, "decode.max_detections": 5,
    "train.batch_size": 4, "train.microbatches": 2, "train.steps": 2, "train.warmup": 0, "train.optimizer": "sgd",
    "train.lr": 0.01, "data.flip": "both", "data.quarter_turns": True, "data.color_jitter": 0.2,
}  # fmt: skip
TASKS = {
    "detect": {"model.name": "fcos-test_resnet-fpn"},
    "classify": {"model.name": "pnn", "model.pnn.channels": 8, "data.resize": 64},
    "segment": {"model.name": "smp:unet/tu-test_resnet", "loss.segmentation": "focal+dice"},
}


def config_of(task, **settings):
    config = override(RunConfig(), SMALL | {"task": task} | TASKS[task] | settings)
    return dataclasses.replace(config, digits=SCENES)


def trained(workers, plan, folder, configs):
    """Return of each config the hash of the weights, the loss, and every number of the steps."""
    results = []
    for number, config in enumerate(configs):
        out = folder / f"{plan}-{number}"
        result = train(workers, dataclasses.replace(config, plan=plan), out)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        steps = [(one["loss"], one["gradient_norm"]) for one in lines if one["kind"] == "train"]
        results.append((result["weights_sha256"], steps, result["metrics"]))
    return results


def test_runs_of_every_task(tmp_path):
    configs = [config_of(task) for task in TASKS]
    (alone,) = run_ranks(trained, 1, ("dp=1", tmp_path, configs))
    pair = run_ranks(trained, 2, ("sp=2", tmp_path, configs))
    four = run_ranks(trained, 4, ("dp=2,sp=2", tmp_path, configs))
    for number in range(len(configs)):
        outcomes = {repr(on_rank[number]) for on_rank in [*pair, *four]}
        assert len(outcomes) == 1, "the workers agree, and dp changes nothing"
        (loss, norm), (later, _) = pair[0][number][1]
        (true_loss, true_norm), (true_later, _) = alone[number][1]
        assert loss == pytest.approx(true_loss, rel=1e-5)
        # as far as either is from float64: a batch norm of few, nearly equal values magnifies rounding
        assert norm == pytest.approx(true_norm, rel=1e-3)
        assert later == pytest.approx(true_later, rel=1e-3)
        assert pair[0][number][2].keys() == alone[number][2].keys()


def test_bf16_on_bands(tmp_path):
    configs = [config_of(task, dtype="bf16") for task in TASKS]
    (alone,) = run_ranks(trained, 1, ("dp=1", tmp_path, configs))
    tiles = run_ranks(trained, 2, ("sp=1x2", tmp_path, configs))
    for number in range(len(configs)):
        assert repr(tiles[0][number]) == repr(tiles[1][number])
        losses = [[loss for loss, _ in case[number][1]] for case in (alone, tiles[0])]
        assert losses[1] == pytest.approx(losses[0], rel=0.05)  # bfloat16 has 8 bits


def spoiled(workers, folder):
    config = dataclasses.replace(config_of("detect", **{"train.lr": 1e30, "train.clip_norm": 0}), plan="sp=2")
    with pytest.raises(UserError) as caught:
        train(workers, config, folder)
    return caught.value.faults


def test_all_workers_see_that_a_loss_is_not_finite(tmp_path):
    first, second = run_ranks(spoiled, 2, (tmp_path / "run",))
    assert first == second
    assert "the loss is not finite in step 2, microbatch 0, on workers 0 to 1" in first[0]


def resumed(workers, plan, folder):
    return train(
        workers, dataclasses.replace(load_config(folder / "config.yaml"), plan=plan), folder, resume=True
    )


def test_a_run_goes_on_under_another_plan(tmp_path):
    ((_, steps, _),) = run_ranks(
        trained, 1, ("dp=1", tmp_path, [config_of("detect", **{"train.checkpoint_every": 1})])
    )[0]
    folder = tmp_path / "dp=1-0"
    shutil.rmtree(folder / "checkpoints" / "step-2")
    results = run_ranks(resumed, 2, ("sp=1x2", folder))
    assert {result["weights_sha256"] for result in results} == {results[0]["weights_sha256"]}
    assert results[0]["samples"] == 4, "one step is left"
    assert results[0]["loss"] == pytest.approx(steps[1][0], rel=1e-5)


def test_the_commands(tmp_path, capfd):
    """Train with loader processes, evaluate and predict under sp; the latter two as on one worker."""
    settings = SMALL | TASKS["detect"] | {"data.workers": 1, "decode.score_threshold": 0.0}
    out = tmp_path / "run"
    result = run(capfd, "train", "digits", "--plan", "sp=2", "--out", out, "--json", *sets(settings, SCENES))
    assert (result["plan"], result["world_size"], result["microbatches"]) == ("sp=2", 2, 2)
    assert load_run(out).config.plan == "sp=2"

    metrics = metrics_under(capfd, out, ("dp=1", "sp=2"))
    assert metrics[0]["map"] == pytest.approx(metrics[1]["map"], abs=1e-6)

    images = noise_images(tmp_path, "tif", count=1)  # read in parts
    found = predictions_under(capfd, out, ("dp=1", "sp=2", "sp=1x2"), images, "--set", "data.crop=96")
    assert len(found[0]) == 5
    for rows in found[1:]:
        assert [row["category_id"] for row in rows] == [row["category_id"] for row in found[0]]
        for name in ("bbox", "score"):
            values = np.array([row[name] for row in rows])
            assert values == pytest.approx(np.array([row[name] for row in found[0]]), abs=1e-4, rel=1e-5)


def test_whole_large_images(trees, tmp_path, capfd):
    """A photograph of 2299 x 742 pixels as one piece: trained on, and found in it what one worker finds."""
    settings = {
        "model.levels": "p4-p6", "model.channels": 8, "model.head_depth": 0, "data.crop": 2304, "data.workers": 0,
        "data.scale_min": 1, "data.scale_max": 1, "decode.score_threshold": 0.0, "decode.max_detections": 50,
        "device": "cpu", "train.warmup": 0,
    }  # fmt: skip
    run_folder, image = tmp_path / "run", trees / "val" / "yellowstone_b.png"
    # one image: the other photograph, and nothing to evaluate on
    result = run(
        capfd, "train", trees / "val.json", "--plan", "sp=2", "--threads", 1, "--batch-size", 1, "--steps", 1,
        "--dtype", "fp32", "--model", "fcos-test_resnet-fpn", "--out", run_folder, "--json", *sets(settings),
    )  # fmt: skip
    assert np.isfinite(result["loss"])
    found = predictions_under(capfd, run_folder, ("dp=1", "sp=2"), [image])
    assert len(found[0]) == len(found[1]) == 50
    boxes = [np.array([row["bbox"] for row in rows]) for rows in found]
    scores = [np.array([row["score"] for row in rows]) for rows in found]
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)
    assert boxes[1] == pytest.approx(boxes[0], abs=1e-2)  # pixels, of 2299: float32
