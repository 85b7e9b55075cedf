"""Runs on images of many bands and of 16 bits: learned as they are, the same on any number of workers, evaluated and predicted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors.torch import save_file

import ziggurat
from support.banded import (
    BELOW_8_BITS,
    NEAR_INFRARED,
    scene,
    write_bands,
    write_classes,
    write_coco,
    write_masks,
)
from support.ranks import run_ranks
from support.small_runs import SMALL, TASKS, resumed, trained
from ziggurat.commands.check import check
from ziggurat.commands.evaluate import evaluate
from ziggurat.commands.predict import predict
from ziggurat.commands.train import train
from ziggurat.config import DataConfig, ModelConfig, RunConfig, load_config, override
from ziggurat.errors import UserError
from ziggurat.models.build import build_model

ON_COMMAND_LINE = {
    "data.crop": 64, "data.workers": 0, "device": "cpu", "threads": 1, "dtype": "fp32", "train.batch_size": 4,
    "train.microbatches": 2, "train.steps": 2, "train.warmup": 0, "train.report": "numbers",
}  # fmt: skip
SEGMENT = ON_COMMAND_LINE | {
    "task": "segment", "model.name": "smp:unet/tu-test_resnet", "model.channels": 32, "data.classes": "ground,square",
    "train.lr": 0.005, "train.steps": 40,
}  # fmt: skip
DETECT = ON_COMMAND_LINE | {
    "task": "detect", "model.name": "fcos-test_resnet-fpn", "model.levels": "p3-p5", "model.channels": 16, "model.head_depth": 1,
    "decode.max_detections": 5, "decode.score_threshold": 0.0,
}  # fmt: skip


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("shows", "blind"),
    [
        (NEAR_INFRARED, {"data.bands": "1,2,3"}),
        (BELOW_8_BITS, {"data.bands": "rgb", "data.extra": "drop", "model.bands": 0}),
    ],
)
def test_bands_and_depth_pay(shows, blind, tmp_path):
    data = {"data.path": str(write_masks(tmp_path / "data", shows)), "plan": "dp=1"}
    sees = SEGMENT | data | {"data.bands": "1,2,3,4", "model.bands": 4, "data.shown": "1"}
    blind = sees | ({"data.shown": "1", "model.bands": 3} | blind)
    found = run_ranks(trained, 1, ("dp=1", tmp_path, [override(RunConfig(), one) for one in (sees, blind)]))[
        0
    ]
    assert found[0][2]["miou"] > 0.85
    assert found[1][2]["miou"] < 0.6


def data_for(task, folder):
    if task == "detect":
        data = write_coco(folder, NEAR_INFRARED, num_train=4, num_val=1)
        return {"data.path": str(data / "train.json"), "data.val": str(data / "val.json")}
    write = write_masks if task == "segment" else write_classes
    return {"data.path": str(write(folder, NEAR_INFRARED, 4, 1) if task == "segment" else write(folder, 2))}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("task", sorted(TASKS))
def test_one_equals_many_for_every_task(task, tmp_path):
    settings = (
        SMALL | TASKS[task] | {"task": task, "model.bands": 4, "data.bands": "1,4,3,2", "data.shown": "4,3,2"}
    )
    settings |= {"data.classes": "ground,square"} if task == "segment" else {}
    settings |= {"tensor.min_width": 8, "model.head_depth": 2} | data_for(task, tmp_path / "data")
    config = override(RunConfig(), settings)
    (alone,) = run_ranks(trained, 1, ("dp=1", tmp_path, [config]))[0]
    others = ("pp=2", "lp=2", "tp=2", "fsdp=2") if task == "detect" else ()
    for plan in ("dp=2", "sp=2", *others):
        (found,) = run_ranks(trained, 2, (plan, tmp_path, [config]))[0]
        if plan == "dp=2":
            assert found == alone
        assert found[1][0][0] == pytest.approx(alone[1][0][0], rel=1e-4)
        config_there = load_config(tmp_path / f"{plan}-0" / "config.yaml").data
        assert config_there == load_config(tmp_path / "dp=1-0" / "config.yaml").data
        assert len(config_there.mean.split(",")) == 4
        assert len(config_there.stretch.split(",")) == 3


def test_a_run_goes_on_with_what_was_measured(tmp_path):
    data = write_masks(tmp_path / "data", NEAR_INFRARED, 4, 1)
    settings = SMALL | TASKS["segment"] | {
        "task": "segment", "data.classes": "ground,square", "data.path": str(data), "data.bands": "4,1", "model.bands": 2,
        "data.shown": "4", "train.steps": 3, "train.checkpoint_every": 2,
    }  # fmt: skip
    config = override(RunConfig(), settings)
    whole = run_ranks(trained, 1, ("dp=1", tmp_path, [config]))[0][0][0]
    folder = tmp_path / "dp=1-0"
    shutil.rmtree(folder / "checkpoints" / "step-3")
    (folder / "weights.safetensors").unlink()
    assert run_ranks(resumed, 2, ("dp=2", folder))[0]["weights_sha256"] == whole


def test_a_run_is_evaluated_and_predicted_in_its_bands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_coco(tmp_path / "data", NEAR_INFRARED, num_train=4, num_val=2)
    settings = DETECT | {"data.val": str(data / "val.json"), "train.report": "pictures"}
    settings |= {"data.path": str(data / "train.json")}
    result = train(None, settings, tmp_path / "run")
    assert any(
        "normalized by what the training data has in band 1, 2, 3, 4" in note for note in result["notes"]
    )
    config = load_config(tmp_path / "run" / "config.yaml")
    assert (config.data.bands, config.model.bands, config.data.shown) == ("1,2,3,4", 4, "1,2,3")
    assert evaluate(tmp_path / "run", data / "val.json")["metrics"] == result["metrics"]
    images = [data / "images" / "100.tif", data / "images" / "101.tif"]
    found = predict(tmp_path / "run", images, tmp_path / "found", formats=("csv", "crops"))
    assert any("pictures show bands 1, 2, 3 as red, green and blue" in note for note in found["notes"])
    rows = json.loads((tmp_path / "found" / "predictions.json").read_text())
    predictor = ziggurat.load(tmp_path / "run")
    samples, _, _ = scene(NEAR_INFRARED, 100)
    in_memory = predictor(samples.transpose(1, 2, 0))
    own = [row for row in rows if row["image_id"] == 1]
    assert [row["score"] for row in own] == pytest.approx(in_memory.scores.tolist(), abs=1e-6)
    pictures = [predictor.draw(image, in_memory) for image in (images[0], samples.transpose(1, 2, 0))]
    assert pictures[0].tobytes() == pictures[1].tobytes()

    turned = write_bands(tmp_path / "turned.tif", samples[[3, 0, 1, 2]])  # as another camera has them
    again = ziggurat.load(tmp_path / "run", settings={"data.bands": "2,3,4,1"})(turned)
    assert torch.equal(again.scores, predictor(images[0]).scores)
    for bands in ("1,2,3", "all", "rgb"):
        with pytest.raises(UserError, match="must name as many bands as the network sees, 4"):
            predict(tmp_path / "run", images, tmp_path / "other", {"data.bands": bands})
    with pytest.raises(UserError, match=r"it has 2 bands of 16 bits, and data\.layout=4 uint16"):
        predict(tmp_path / "run", [write_bands(tmp_path / "few.tif", samples[:2])], tmp_path / "other")


@pytest.mark.sampled(0)
def test_weights_of_a_run_bring_their_normalization_where_that_is_asked_for(tmp_path):
    data = write_masks(tmp_path / "data", NEAR_INFRARED, 4, 1)
    settings = SEGMENT | {"train.steps": 1}
    train(str(data), settings, tmp_path / "first")
    first = load_config(tmp_path / "first" / "config.yaml").data
    other = write_masks(tmp_path / "other", BELOW_8_BITS, 4, 1)
    settings |= {"model.weights": str(tmp_path / "first"), "data.normalize": "weights"}
    train(str(other), settings, tmp_path / "second")
    second = load_config(tmp_path / "second" / "config.yaml").data
    assert (second.mean, second.std) == (first.mean, first.std)
    with pytest.raises(UserError, match=r"data\.normalize=weights needs --weights of a run with 4 bands"):
        train(str(other), settings | {"model.weights": "none"}, tmp_path / "third")


def test_colours_of_8_bits_may_be_normalized_by_the_data(tmp_path):
    settings = ON_COMMAND_LINE | {
        "task": "classify",
        "model.name": "pnn",
        "data.path": "digits",
        "data.normalize": "data",
    }
    train(
        None,
        settings | {"digits.size": 64, "digits.train_scenes": 4, "digits.val_scenes": 1},
        tmp_path / "run",
    )
    data = load_config(tmp_path / "run" / "config.yaml").data
    mean, std = ([float(part) for part in text.split(",")] for text in (data.mean, data.std))
    assert len(mean) == len(std) == 3
    assert all(0 < value < 255 for value in mean + std)


def test_pixels_without_data_are_no_part_of_loss_and_metric(tmp_path):
    data = write_masks(tmp_path / "data", NEAR_INFRARED, 2, 1)
    nodata = [(42113, "s", 2, "0", True)]
    for file in sorted((data / "images").rglob("*.tif")):
        samples, _, _ = scene(NEAR_INFRARED, int(file.stem))
        samples[:, :32] = 0
        write_bands(file, samples, extratags=nodata)
    result = train(str(data), SEGMENT | {"train.steps": 1, "train.batch_size": 2}, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "report" / "metrics.json").read_text())
    mean = [float(part) for part in load_config(tmp_path / "run" / "config.yaml").data.mean.split(",")]
    assert min(mean) > 19000  # zeros take no part
    assert sum(row["pixels"] for row in facts["classes"].values()) == 32 * 64
    assert np.isfinite(result["loss"])
    found = predict(
        tmp_path / "run", [data / "images" / "val" / "100.tif"], tmp_path / "found", formats=("mask",)
    )
    (row,) = json.loads((tmp_path / "found" / "predictions.json").read_text())
    labels = np.asarray(Image.open(row["mask"]))
    assert (labels[:32] == 255).all()
    assert (labels[32:] < 2).all()
    assert sum(row["pixels"].values()) == 32 * 64
    (folder,) = map(Path, found["files"])
    assert np.array_equal(tifffile.imread(folder / "100.tif"), labels)


def test_a_set_of_many_bands_is_checked_as_it_is_trained_on(tmp_path):
    data = write_masks(tmp_path / "data", NEAR_INFRARED, 2, 1)
    found = check(str(data), DataConfig(classes="ground,square"))
    assert found["ok"], found["faults"]
    (data / "images" / "val").rename(tmp_path / "other images")
    (data / "masks" / "val").rename(tmp_path / "other masks")
    divided = check(str(data), DataConfig(classes="ground,square", split="blocks", block=32, crop=32))
    assert divided["ok"], divided["faults"]
    (tmp_path / "other images").rename(data / "images" / "val")
    (tmp_path / "other masks").rename(data / "masks" / "val")
    write_bands(data / "images" / "train" / "1.tif", scene(NEAR_INFRARED, 1)[0][:2])
    with pytest.raises(
        UserError,
        match=r"1\.tif cannot be read as it is: it has 2 bands of 16 bits, and data\.layout=4 uint16",
    ):
        train(str(data), SEGMENT, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.bands": 3}, "model.bands must be as many as the network sees, 4"),
        ({"data.bands": "all", "data.range": "0,4095"}, "data.range has no effect without data.bands=rgb"),
        ({"data.mean": "1,2,3,4"}, "data.mean and data.std belong together"),
        ({"data.bands": "4,1", "data.mean": "1,2,3", "data.std": "1,1,1"}, "a number for each of 2 bands"),
        ({"data.bands": "0"}, "data.bands must be auto, rgb, all"),
        ({"data.bands": "1,9"}, "names band 9"),
        ({"data.bands": "rgb", "data.extra": "drop", "data.shown": "1"}, "data.shown has no effect"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message, tmp_path):
    data = write_masks(tmp_path / "data", NEAR_INFRARED, 2, 1)
    with pytest.raises(UserError, match=message):
        train(str(data), SEGMENT | {"train.steps": 1} | settings, tmp_path / "run")
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_a_file_of_weights_knows_no_normalization_of_bands(tmp_path):
    model = build_model(ModelConfig(name="timm:test_resnet", bands=4), num_classes=3)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    image = write_bands(tmp_path / "a.tif", scene(NEAR_INFRARED, 0)[0])
    settings = {"model.name": "timm:test_resnet", "model.bands": 4, "data.bands": "1,2,3,4"}
    with pytest.raises(UserError, match="does not say what images of the bands 1,2,3,4 are normalized by"):
        predict(tmp_path / "w.safetensors", image, tmp_path / "found", settings)
